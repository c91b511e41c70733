"""A classifier that lies on a hub which cannot be reached."""

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.classifier import label_score


def test_a_hub_that_does_not_answer_is_told_at_once_and_names_the_setting(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match=r"the hub cannot be reached to load nobody/sentiment .* give kwargs\.model="):
        label_score(["?"], ["Fine."], model="nobody/sentiment", label="POSITIVE")
