"""Several models compared: what the summary and the rows say, and how many models are alive at once."""

import gc
import json
import weakref

import pytest

from rlhf_recipes.evaluation.answers import Answer, Draw
from rlhf_recipes.evaluation.compare import Judging, evaluate_models
from rlhf_recipes.evaluation.measure import Contestant, Questions

ROWS = [{"prompt": p, "answer": a} for p, a in [("the cat", "sat"), ("a big dog", "ran"), ("home", "cat")] * 6]
DEMOS = [{"prompt": "the", "completion": " cat sat"}]


def lengths(prompts, completions, columns):
    assert len(columns["answer"]) == len(prompts)
    lengths = [float(len(c.split())) for c in completions]
    return lengths, {"words": lengths}


def contains(prompts, completions, answer, **_):
    return [float(a in c) for a, c in zip(answer, completions, strict=True)]


@pytest.fixture
def loaders(make_model, tokenizer):
    return {name: lambda seed=seed: (make_model(seed), tokenizer) for seed, name in enumerate(["base", "sft", "ppo"])}


def evaluated(loaders, rows, *, tokens=2, checkpoints=None, texts=None, asked=None, ref="sft", **judging):
    """evaluate_models on plain loaders, checkpoints' loaders and an endpoint's texts."""
    contestants = {name: Contestant(load) for name, load in loaders.items()}
    contestants |= {name: Contestant(texts=of) for name, of in (texts or {}).items()}
    contestants |= {name: Contestant(load, checkpoint=True) for name, load in (checkpoints or {}).items()}
    questions = Questions(rows, **(asked or {}))
    return evaluate_models(contestants, questions, Draw(max_new_tokens=tokens), Judging(ref=ref, **judging))


def test_summary_keeps_the_contract_and_is_json(loaders):
    summary, rows = evaluated(
        loaders,
        ROWS,
        rewards=lengths,
        gold=contains,
        exact=contains,
        asked={"demos": DEMOS, "corpus": ["the cat ran home"]},
        tokens=6,
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


def test_what_a_reward_logs_is_kept_once_a_model(loaders):
    """By hand: the metric's mean over its two calls is 1.5, and the column has the answer's place."""

    def logging(prompts, completions, log_metric, log_extra, **_):
        for value in (1.0, 2.0):
            log_metric("mine", value)
        log_metric("length", -1.0)  # a name of ours keeps our figure
        log_extra("place", list(range(len(completions))))
        log_extra("score", ["no"] * len(completions))
        return [0.5] * len(completions)

    from rlhf_recipes.rewards.combine import RewardFunctions

    right = [1.0, None, *[0.0] * 16]
    summary, rows = evaluated(
        loaders, ROWS, rewards=RewardFunctions({"logging": logging}), exact=lambda completions, log_extra: right
    )
    assert summary["logged"] == ["mine"]
    for of in summary["models"].values():
        assert (of["mine"], of["length"] > 0) == (1.5, True)
        assert of["accuracy"] == pytest.approx(1 / 17)
        # one of 17 by hand: centre 2.9208 / 20.8416, half width 1.96 / 20.8416 * sqrt(16 / 17 + 0.9604)
        assert of["accuracy_ci95"] == pytest.approx((0.0105, 0.2698), abs=1e-4)
    assert [(row["place"], row["score"]) for row in rows] == [(i, 0.5) for i in range(18)] * 3


def test_the_judge_is_the_score_where_there_is_no_gold(loaders):
    def constant(prompts, completions, columns):
        return [1.0] * len(prompts), {}

    summary, _ = evaluated(loaders, ROWS[:3], rewards=constant, tokens=2)
    assert summary["judge"] == "score"
    assert summary["win_rate"]["ppo_vs_sft"]["tie"] == 1.0


def test_a_judge_of_its_own_and_texts_from_elsewhere(loaders):
    summary, rows = evaluated(
        {"sft": loaders["sft"]},
        ROWS[:3],
        judge=lambda prompts, ours, theirs: [1.0 if a == "from afar" else -1.0 for a in ours],
        texts={"endpoint": ["from afar", "from afar", "other"]},
        tokens=2,
    )
    assert summary["judge"] == "judge"
    assert summary["win_rate"]["endpoint_vs_sft"]["win"] == pytest.approx(2 / 3)
    of = summary["models"]["endpoint"]
    assert [of[key] for key in ("kl", "ppl", "length", "eos_rate")] == [None] * 4
    assert of["words"] == pytest.approx(5 / 3)
    assert summary["notes"] == ["endpoint is an endpoint: no log-probabilities, so neither KL nor perplexity"]
    assert rows[-1]["completion"] == "other"


def test_a_judge_without_a_verdict_leaves_the_prompt_out(loaders):
    both = {name: loaders[name] for name in ("sft", "ppo")}
    verdicts = [0.5, None, 0.25]
    summary, _ = evaluated(both, ROWS[:3], judge=lambda *_: verdicts, tie=0.3, tokens=2)
    pair = summary["win_rate"]["ppo_vs_sft"]
    assert (pair["win"], pair["tie"], pair["n"]) == (0.5, 0.5, 2)


def test_one_reward_by_name_may_decide_and_only_the_pairs_asked_for(loaders):
    def two_rewards(prompts, completions, columns):
        scores = [float(len(c)) for c in completions]
        return scores, {"long": scores, "short": [-s for s in scores]}

    def decided_by(by):
        return evaluated(loaders, ROWS[:6], rewards=two_rewards, by=by, pairs=[("ppo", "base")], tokens=4)[0]

    long, short = decided_by("long"), decided_by("short")
    assert (long["judge"], list(long["win_rate"])) == ("long", ["ppo_vs_base"])
    assert long["win_rate"]["ppo_vs_base"]["win"] == short["win_rate"]["ppo_vs_base"]["loss"] != 0


def test_checkpoints_are_scored_against_the_reference_alone(loaders):
    summary, rows = evaluated(
        {"sft": loaders["sft"], "ppo": loaders["ppo"]},
        ROWS[:6],
        gold=contains,
        asked={"demos": DEMOS},
        checkpoints={"ppo@10": loaders["base"], "ppo@20": loaders["ppo"]},
        tokens=4,
    )
    assert set(summary["win_rate"]) == {"ppo_vs_sft", "ppo@10_vs_sft", "ppo@20_vs_sft"}
    last, model = summary["models"]["ppo@20"], summary["models"]["ppo"]
    assert (last["kl"], last["gold"]) == (model["kl"], model["gold"])
    assert last["ppl"] is None and model["ppl"] is not None
    assert {row["model"] for row in rows} == {"sft", "ppo"}


@pytest.mark.parametrize(
    ("pairs", "compared"), [(None, {"ppo_vs_sft", "ppo@1_vs_sft"}), ([("ppo", "sft")], {"ppo_vs_sft"})]
)
def test_a_judge_is_asked_about_no_checkpoint_where_pairs_are_named(loaders, pairs, compared):
    summary, _ = evaluated(
        {"sft": loaders["sft"], "ppo": loaders["ppo"]},
        ROWS[:2],
        gold=contains,
        judge=lambda prompts, ours, theirs: [1.0] * len(prompts),
        checkpoints={"ppo@1": loaders["ppo"]},
        pairs=pairs,
        tokens=2,
    )
    assert set(summary["win_rate"]) == compared
    assert summary["models"]["ppo@1"]["gold"] is not None


def test_majority_is_the_share_of_checkable_prompts_whose_vote_is_right(loaders, monkeypatch):
    # Answer 1 of both prompts, then two more of the first: the second prompt cannot be checked, so it is not voted on.
    drawn = iter([["5", "x"], ["7", "It is 7"]])

    def generate(model, tokenizer, prompts, draw, **_):
        texts = next(drawn)
        assert len(texts) == len(prompts)
        return [Answer(text, (4, 2), (3,), True) for text in texts]

    def exact(prompts, completions, **_):
        return [float("7" in c) if p == "3 + 4" else None for p, c in zip(prompts, completions, strict=True)]

    monkeypatch.setattr("rlhf_recipes.evaluation.measure.generate", generate)
    rows = [{"prompt": "3 + 4"}, {"prompt": "tell me a story"}]
    summary, samples = evaluated({"base": loaders["base"]}, rows, exact=exact, ref=None, asked={"votes": 3})
    of = summary["models"]["base"]
    assert (of["accuracy"], of["majority_at_3"]) == (0.0, 1.0)
    assert [row["majority_at_3"] for row in samples] == [1.0, None]


def test_another_vocabulary_means_no_kl_and_says_so(loaders, tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.add_tokens(["zebra"])

    def stranger():
        model, _ = loaders["ppo"]()
        model.resize_token_embeddings(len(other))
        return model, other

    summary, _ = evaluated({"sft": loaders["sft"], "far": stranger}, ROWS[:2], tokens=2)
    assert summary["models"]["far"]["kl"] is None
    assert summary["notes"] == ["far has another vocabulary than sft: no KL to it"]


def test_benchmarks_are_asked_of_every_model_while_it_is_loaded(loaders):
    summary, _ = evaluated(
        {"sft": loaders["sft"]},
        ROWS[:2],
        checkpoints={"ppo@1": loaders["ppo"]},
        asked={"benchmarks": lambda model, _: {"task": {"acc": float(model.config.vocab_size > 0)}}},
        tokens=2,
    )
    assert summary["models"]["sft"]["benchmarks"] == {"task": {"acc": 1.0}}
    assert "benchmarks" not in summary["models"]["ppo@1"]


def test_one_model_is_alive_at_a_time(make_model, tokenizer):
    alive, seen = weakref.WeakSet(), []

    def load(seed):
        gc.collect()
        seen.append(len(alive))
        model = make_model(seed)
        alive.add(model)
        return model, tokenizer

    names = {name: lambda seed=seed: load(seed) for seed, name in enumerate(["sft", "ppo", "dpo"])}
    evaluated(names, ROWS[:3], tokens=2)
    assert seen == [0, 0, 0]


def test_messages_are_scored_as_messages(loaders):
    def shapes(prompts, completions, columns):
        return [float(c[0]["role"] == "assistant") for c in completions], {}

    rows = [{"prompt": [{"role": "user", "content": "the cat"}]}]
    summary, _ = evaluated({"sft": loaders["sft"]}, rows, rewards=shapes, tokens=2, pairs=[])
    assert summary["models"]["sft"]["score"] == 1.0
