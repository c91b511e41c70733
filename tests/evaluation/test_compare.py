"""Several models compared: what the summary and the rows say, and how many models are alive at once."""

import gc
import json
import weakref

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.compare import Sampling, evaluate_models

ROWS = [{"prompt": p, "answer": a} for p, a in [("the cat", "sat"), ("a big dog", "ran"), ("home", "cat")] * 6]
DEMOS = [{"prompt": "the", "completion": " cat sat"}]


def length_signal(prompts, completions, columns):
    assert len(columns["answer"]) == len(prompts)
    lengths = [float(len(c.split())) for c in completions]
    return lengths, {"words": lengths}


def contains(prompts, completions, answer, **_):
    return [float(a in c) for a, c in zip(answer, completions, strict=True)]


@pytest.fixture
def loaders(make_model, tokenizer):
    return {name: lambda seed=seed: (make_model(seed), tokenizer) for seed, name in enumerate(["base", "sft", "ppo"])}


def test_summary_keeps_the_contract_and_is_json(loaders):
    summary, rows = evaluate_models(
        loaders,
        ROWS,
        signal=length_signal,
        gold=contains,
        exact=contains,
        demos=DEMOS,
        corpus=["the cat ran home"],
        sampling=Sampling(max_new_tokens=6),
    )
    json.dumps(summary, allow_nan=False)
    assert list(summary["models"]) == ["base", "sft", "ppo"]
    expected = {"score", "score_std", "gold", "kl", "ppl", "corpus_ppl", "length", "distinct_2", "eos_rate", "accuracy"}
    for of in summary["models"].values():
        assert expected | {"reward/words"} <= set(of)
        assert of["gold"] == of["accuracy"]
    assert summary["models"]["sft"]["kl"] == 0.0
    assert summary["models"]["ppo"]["kl"] > 0
    assert set(summary["win_rate"]) == {"sft_vs_base", "ppo_vs_sft", "ppo_vs_base"}
    assert (summary["judge"], summary["ref"]) == ("gold", "sft")
    assert [(r["model"], r["index"]) for r in rows] == [(m, i) for m in summary["models"] for i in range(len(ROWS))]
    mean = sum(r["score"] for r in rows[-18:]) / 18
    assert summary["models"]["ppo"]["score"] == pytest.approx(mean)


def test_the_judge_is_the_score_where_there_is_no_gold(loaders):
    def constant(prompts, completions, columns):
        return [1.0] * len(prompts), {}

    summary, _ = evaluate_models(loaders, ROWS[:3], signal=constant, sampling=Sampling(max_new_tokens=2))
    assert summary["judge"] == "score"
    assert summary["win_rate"]["ppo_vs_sft"]["tie"] == 1.0


def test_a_judge_of_its_own_and_texts_from_elsewhere(loaders):
    summary, rows = evaluate_models(
        {"sft": loaders["sft"]},
        ROWS[:3],
        judge=lambda prompts, ours, theirs: [1.0 if a == "from afar" else -1.0 for a in ours],
        answers={"endpoint": ["from afar", "from afar", "other"]},
        sampling=Sampling(max_new_tokens=2),
    )
    assert summary["judge"] == "judge"
    assert summary["win_rate"]["endpoint_vs_sft"]["win"] == pytest.approx(2 / 3)
    assert "kl" not in summary["models"]["endpoint"]
    assert rows[-1]["completion"] == "other"


def test_one_model_is_alive_at_a_time(make_model, tokenizer):
    alive, seen = weakref.WeakSet(), []

    def load(seed):
        gc.collect()
        seen.append(len(alive))
        model = make_model(seed)
        alive.add(model)
        return model, tokenizer

    names = {name: lambda seed=seed: load(seed) for seed, name in enumerate(["sft", "ppo", "dpo"])}
    evaluate_models(names, ROWS[:3], sampling=Sampling(max_new_tokens=2))
    assert seen == [0, 0, 0]


def test_messages_are_scored_as_messages(loaders):
    def shapes(prompts, completions, columns):
        return [float(c[0]["role"] == "assistant") for c in completions], {}

    rows = [{"prompt": [{"role": "user", "content": "the cat"}]}]
    summary, _ = evaluate_models(
        {"sft": loaders["sft"]}, rows, signal=shapes, sampling=Sampling(max_new_tokens=2), pairs=[]
    )
    assert summary["models"]["sft"]["score"] == 1.0


def test_an_unknown_reference_is_refused_before_anything_loads():
    with pytest.raises(UserError, match=r"evaluate\.ref=sftt is none of the models compared \(sft\)"):
        evaluate_models({"sft": None}, ROWS, ref="sftt")
