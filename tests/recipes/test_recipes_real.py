"""The recipes on real rows: what each stage reads loads under the recipe's template and tokenizer."""

import pytest
from omegaconf import OmegaConf
from recipe_house import NAMES, composed, stages_of
from stand_ins import FAMILY, REAL, real_files, tokenizer_of

from rlhf_recipes import data, models, stages
from rlhf_recipes.rewards import RewardFunctions

pytestmark = pytest.mark.real


@pytest.mark.parametrize("recipe", [name for name in NAMES if name != "reasoning_qwen3_4b"])
def test_the_rows_of_every_stage_load(recipe, real, tmp_path):
    collected = ("reward", "dpo") if recipe == "nl2sql" else ()  # its pairs are made by the run
    for stage in [stage for stage in stages_of(recipe) if stage not in collected]:
        cfg = composed(recipe, stage, *real_files(recipe), "data.eval_fraction=0.3")
        family = FAMILY[cfg.model.name]
        tokenizer_of(family, ["What is the capital of France?"] * 2, real=True).save_pretrained(tmp_path / family)
        tokenizer = models.load_tokenizer(stages.checked(cfg).model, str(tmp_path / family))
        for kind in stages.catalogue()[stage].rows:
            rows = data.load(cfg.data, kind, tokenizer=tokenizer)
            assert len(rows.train) > 20 and len(rows.eval) > 2, (stage, kind)


def test_nl2sqls_own_answers_earn_full_marks_by_execution(real):
    given = [*real_files("nl2sql"), "data.eval_fraction=0"]
    database = f"{REAL}/data/text2sql/geography.sqlite"
    cfg = composed("nl2sql", "grpo", *given, f"reward.functions.execution.kwargs.database={database}")
    rows = data.load(cfg.data, "prompts").train[:20]
    functions = OmegaConf.to_container(OmegaConf.create({"reward": cfg.reward}), resolve=True)["reward"]["functions"]
    scores, _ = RewardFunctions({"execution": functions["execution"]})(rows["prompt"], rows["reference"], rows)
    assert scores == [1.0] * 20
