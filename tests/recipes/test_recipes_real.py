"""The recipes once more on real data, two of them with the real tokenizers of Qwen2 and GPT-2."""

import pytest
from recipe_checks import check
from recipe_house import NAMES


@pytest.mark.real
@pytest.mark.parametrize("recipe", [name for name in NAMES if name != "reasoning_qwen3_4b"])
def test_every_stage_runs_on_real_data(recipe, made, real):
    check(recipe, *made(recipe, real=True))
