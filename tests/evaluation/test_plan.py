"""What `stage=evaluate` is asked for, understood or refused in one line, before torch is there."""

import json

import pytest
from omegaconf import OmegaConf

from rlhf_recipes.config.schema import Settings
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import plan
from rlhf_recipes.stages import catalogue

INPUTS = {"sft": {"path": "runs/r/sft/model", "stage": "sft"}, "ppo": {"path": "runs/r/ppo/model", "stage": "ppo"}}
INPUTS["reward_model"] = {"path": "runs/r/reward/model", "stage": "reward"}
URL = "http://localhost:8000/v1"


def config(*changes, gold="a:b", exact="a:b"):
    cfg = OmegaConf.merge(
        OmegaConf.structured(Settings),
        {"stage": "evaluate", "data": {"name": "d", "gold": gold, "exact": exact}},
        {"reward": {"models": {"learned": {"path": "auto"}}, "functions": {"length": {"path": "c:d"}}}},
    )
    for key, value in changes:
        OmegaConf.update(cfg, f"evaluate.{key}", value, force_add=True)
    return cfg


def read(*changes, inputs=INPUTS, **more):
    return plan.read(config(*changes, **more), inputs, catalogue())


def test_the_reference_is_sft_unless_another_is_named():
    assert read().judging.ref == "sft"
    assert read(("ref", "ppo")).judging.ref == "ppo"
    assert read(inputs={"mine": {"path": "./x"}}).judging.ref == "mine"


def test_the_reward_model_is_no_contestant():
    assert set(read().paths) == {"sft", "ppo"}


def test_an_endpoint_is_asked_as_the_models_are():
    endpoint = read(("endpoints.far.url", URL), ("endpoints.far.model", "big"), ("temperature", 0.5)).endpoints["far"]
    assert (endpoint.url, endpoint.model) == (URL, "big")
    assert endpoint.parameters == {"temperature": 0.5, "top_p": 1.0, "max_tokens": 128}


def test_an_endpoint_alone_has_no_reference():
    found = read(("endpoints.far.url", URL), ("endpoints.far.model", "big"), inputs={})
    assert found.judging.ref is None and list(found.endpoints) == ["far"]


@pytest.mark.parametrize("by", ["gold", "score", "learned", "length"])
def test_whose_scores_decide(by):
    judging = read(("judge", by)).judging
    assert (judging.by, judging.judge) == (by, None)


def test_a_judge_endpoint_is_asked_both_ways_round(monkeypatch):
    from rlhf_recipes.rewards import judge

    asked = []

    def always_the_first(questions, endpoint):
        asked.extend(questions)
        return ["Verdict: A"] * len(questions)

    monkeypatch.setattr(judge, "ask_all", always_the_first)
    found = read(("judge.url", URL), ("judge.model", "big"))
    assert found.judging.judge(["p"], ["ours"], ["theirs"]) == [0.0]
    assert len(asked) == 2


def test_an_ensemble_with_the_runs_own_model_needs_it_too():
    cfg = config(("judge", "learned"))
    cfg.reward.models.learned.path = ["auto", "./other"]
    assert plan.read(cfg, INPUTS, catalogue()).judging.by == "learned"
    with pytest.raises(UserError, match="has no reward model"):
        plan.read(cfg, {"sft": INPUTS["sft"]}, catalogue())


def test_whole_checkpoints_of_policies_are_found_in_order(tmp_path):
    for step in (10, 9, 100):
        folder = tmp_path / "ppo" / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({}))
    (tmp_path / "ppo" / "checkpoints" / "checkpoint-101").mkdir()  # torn: nothing in it
    inputs = {"sft": INPUTS["sft"], "ppo": {"path": str(tmp_path / "ppo" / "model"), "stage": "ppo"}}
    assert list(read(("checkpoints", True), inputs=inputs).checkpoints) == ["ppo@9", "ppo@10", "ppo@100"]


REFUSED = {
    "no contestant": ([], {}, "no model to compare"),
    "reference": ([("ref", "sftt")], INPUTS, "evaluate.ref=sftt: expected one of the models compared: sft, ppo"),
    "judge": ([("judge", "golden")], INPUTS, "evaluate.judge=golden: expected auto, gold, score, learned, length"),
    "a reward model that is not there": (
        [("judge", "learned")],
        {"sft": INPUTS["sft"]},
        "has no reward model; make it",
    ),
    "judge without model": ([("judge.url", URL)], INPUTS, "evaluate.judge has no model"),
    "judge's key": ([("judge.urll", URL)], INPUTS, r"evaluate.judge.urll; did you mean evaluate.judge.url\?"),
    "endpoint without url": ([("endpoints.far.model", "m")], INPUTS, "evaluate.endpoints.far has no url"),
    "endpoint's key": ([("endpoints.far.modle", "m")], INPUTS, "did you mean evaluate.endpoints.far.model"),
    "endpoint's name": (
        [("endpoints.sft.url", URL), ("endpoints.sft.model", "m")],
        INPUTS,
        "evaluate.endpoints.sft has the name of a model",
    ),
    "pair": (
        [("pairs", ["ppo_vs_dpo"])],
        INPUTS,
        "evaluate.pairs=ppo_vs_dpo: expected <model>_vs_<model>, of sft, ppo",
    ),
    "greedy vote": ([("majority", 4), ("temperature", 0.0)], INPUTS, "evaluate.temperature=0"),
    "no checkpoints": ([("checkpoints", True)], INPUTS, "trainer.save_total_limit=null"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(case):
    changes, inputs, said = REFUSED[case]
    with pytest.raises(UserError, match=said) as caught:
        read(*changes, inputs=inputs)
    assert "\n" not in str(caught.value)


def test_gold_and_exact_are_needed_where_they_are_asked_for():
    with pytest.raises(UserError, match="the domain has no gold scorer"):
        read(("judge", "gold"), gold=None)
    with pytest.raises(UserError, match=r"set data\.exact"):
        read(("majority", 4), exact=None)
