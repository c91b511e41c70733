"""The recipes of the embedded domain, each stage on one tiny start, as their READMEs have them follow one another."""

import pytest
from recipe_checks import CHECKS, moved
from recipe_house import SHRINK, composed, rows, stages_of, summary
from tiny_run import SMALL

from rlhf_recipes import stages
from rlhf_recipes.data.embedded.gold import exact

FEW = ("data.max_eval=8", "evaluate.ppl_rows=4", "evaluate.corpus_rows=4")


@pytest.fixture(scope="module")
def play(libraries, tmp_path_factory):
    """play("kl_sweep", "ppo", …) -> its metrics; all in one root, whose run `default` has the common start."""
    root = tmp_path_factory.mktemp("runs")

    def run(recipe: str, stage: str, *more: str) -> dict:
        small = SHRINK["sft" if stage == "pretrain" else stage]
        return stages.run(composed(recipe, stage, *SMALL, *FEW, *small, f"run.root={root}", *more))

    run.root = root
    for stage in ("pretrain", "sft", "reward"):
        CHECKS.get(stage, CHECKS["sft"])(run("embedded", stage))
    return run


def test_they_start_from_one_sft_model_and_are_compared(play):
    trained = {"embedded": "ppo", "embedded_dpo": "dpo", "embedded_kto": "kto", "embedded_rloo": "rloo"}
    start = str(play.root / "default" / "sft" / "model")
    for recipe, stage in trained.items():
        CHECKS[stage](play(recipe, stage))
        assert moved(play.root / "default" / stage / "model", start) > 0
        assert summary(play.root, stage)["inputs"]["policy"]["path"] == start
    compared = play("embedded", "evaluate")
    CHECKS["evaluate"](compared)
    assert set(compared["models"]) == {"base", "sft", *trained.values()}


def test_grpo_runs_on_the_questions_that_can_be_checked(play):
    figures = {stage: play("embedded_grpo", stage, "run.name=checkable") for stage in stages_of("embedded_grpo")}
    assert list(figures) == ["pretrain", "sft", "grpo", "evaluate"]
    assert figures["grpo"]["score_last"] == 0  # of random answers none is right, and every group is passed over
    assert figures["grpo"]["eval_majority_at_8"] == 0
    assert set(figures["evaluate"]["models"]) == {"base", "sft", "grpo"}
    said = rows(play.root / "checkable" / "evaluate" / "samples.jsonl")
    for name, model in figures["evaluate"]["models"].items():
        answers = [(row["prompt"], row["completion"]) for row in said if row["model"] == name]
        marks = exact(*zip(*answers, strict=True))
        assert model["accuracy"] == sum(marks) / len(marks), "a random answer may name the right number"


def test_a_job_of_the_kl_sweep_aims_at_its_own_target(play):
    job = ("run.name=job", "run.parent=default")
    CHECKS["ppo"](play("kl_sweep", "ppo", "kl.target=3", *job))
    compared = play("kl_sweep", "evaluate", *job)
    CHECKS["evaluate"](compared)
    assert {"sft", "ppo"} <= set(compared["models"]) and "base" not in compared["models"]
    assert composed("kl_sweep", "ppo", "kl.target=3").kl.target == 3


def test_overoptimisation_runs_free_and_held(play):
    free = play("overoptimisation", "ppo", "run.name=free", "run.parent=default")
    held = play("overoptimisation/held", "ppo", "run.name=held", "run.parent=default")
    for figures in (free, held):
        CHECKS["ppo"](figures)
    assert free["kl_coef_last"] == 0
    assert held["kl_coef_last"] > 0
    compared = play("overoptimisation", "evaluate", "run.name=free", "run.parent=default")
    assert {"sft", "ppo"} <= set(compared["models"]) and "base" not in compared["models"]
