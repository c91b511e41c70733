"""Whatever a stage writes to metrics.jsonl is defined on the page that says it defines every logged number."""

import json
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")


def defined(name: str) -> bool:
    general = re.sub(r"^(eval_)?(rewards?)/[^/]+", r"\1\2/<name>", name)
    general = re.sub(r"_at_\d+$", "_at_<k>", general)
    forms = {form for given in (name, general) for form in (given, given.removeprefix("eval_"))}
    return any(f"`{form}`" in PAGE for form in forms)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo", "dpo", "grpo"])
def test_every_logged_name_is_on_the_page(made, stage):
    lines = (made[0] / "default" / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names = set().union(*map(json.loads, lines))
    assert len(names) > 5
    assert sorted(name for name in names if not defined(name)) == []
