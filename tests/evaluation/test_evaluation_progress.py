"""Long work shows where it is: a bar on a terminal, a plain line now and then elsewhere."""

import pytest

from rlhf_recipes.evaluation import progress
from rlhf_recipes.training import progress as terminals


@pytest.mark.parametrize("on_terminal", [True, False])
def test_every_item_is_handed_on_and_progress_is_told(monkeypatch, capsys, on_terminal):
    monkeypatch.setattr(terminals, "terminal", lambda: on_terminal)
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0.0)
    batches = [[1, 2], [3, 4], [5]]
    assert list(progress.track(batches, total=5, description="answers", weight=len)) == batches
    said = capsys.readouterr().err
    assert "answers" in said
    assert ("2 of 5" in said) != on_terminal
