"""How a reward model reads an answer, and what it refuses to read."""

import logging

import pytest
import torch
from tiny_world import make_tokenizer

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import Part, RewardFunctions
from rlhf_recipes.rewards.model import Ensemble, ModelReward, as_reward_functions

TURNS = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
LONG = " ".join(["w3"] * 80)


def message(text, role="user"):
    return [{"role": role, "content": text}]


@pytest.fixture
def other():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TURNS
    return tokenizer


@pytest.mark.parametrize("kind", ["ids", "text", "turns"])
def test_what_is_too_long_loses_its_start(models, other, kind):
    reward = ModelReward(models["reward"], other, shared=kind == "ids")
    ids = [[7] * 80, [7] * 90]
    prompts = [LONG, "w3 w3 w3 " + LONG]
    answers = ["w4 w5", "w4 w5"]
    if kind == "turns":
        prompts, answers = [message(p) for p in prompts], [message(a, "assistant") for a in answers]
    first, second = reward(prompts, answers, prompt_ids=ids, completion_ids=[[8, 9, 2]] * 2)
    assert first == pytest.approx(second, abs=1e-5), "the model reads 64 tokens: the last 64 are the same"
    (changed,) = reward(
        prompts[:1],
        [a.replace("w5", "w6") if isinstance(a, str) else message("w4 w6") for a in answers[:1]],
        prompt_ids=ids[:1],
        completion_ids=[[8, 10, 2]],
    )
    assert abs(changed - first) > 1e-4, "and the answer is among them"


@pytest.mark.parametrize("pad_id", [0, 2, 9])
def test_a_model_is_read_where_its_own_forward_reads(models, pad_id):
    """Also where pad is EOS (2), or a token of the answer: transformers reads the last token that is not pad."""
    model, rows = models["reward"].eval(), [[4, 5, 6, 7, 8, 2], [7, 9, 9], [5, 2]]
    model.config.pad_token_id = pad_id
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([row])).logits.item() for row in rows]
    reward = ModelReward(model)
    ids = {"prompt_ids": [row[:1] for row in rows], "completion_ids": [row[1:] for row in rows]}
    assert reward(["?"] * 3, ["x"] * 3, **ids) == pytest.approx(alone, abs=1e-5)


def test_conversations_want_a_template(models, other, tokenizer, caplog):
    plain, turned = ModelReward(models["reward"], make_tokenizer()), ModelReward(models["reward"], other)
    with pytest.raises(UserError, match="no chat template"):
        plain.check(messages=True, policy_tokenizer=tokenizer)
    plain.check(messages=False, policy_tokenizer=tokenizer)
    turned.check(messages=True, policy_tokenizer=tokenizer)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        turned.check(messages=False, policy_tokenizer=tokenizer)
    assert "data.template=chat" in caplog.text


def test_conversations_are_found_before_training(models, make):
    from datasets import Dataset

    policys = make_tokenizer()
    policys.chat_template = TURNS
    given = {"reward_processing_classes": make_tokenizer()}
    rows = Dataset.from_dict({"prompt": [message("w1 w2")] * 8})
    with pytest.raises(UserError, match="no chat template"):
        make(tokenizer=policys, data=rows, reward=models["reward"], trainer=given)


def test_what_a_trainer_is_given_becomes_one_combiner(tokenizer):
    """Functions of one name are told apart; one without **columns gets what it names."""

    def count(completions, answer):
        return [None if a is None else float(len(c)) for c, a in zip(completions, answer, strict=True)]

    rewards = as_reward_functions([count, count], [1.0, 2.0], None, tokenizer, True, "cpu")
    scores, by_name = rewards(["?"] * 2, ["abc", "d"], {"answer": ["x", None], "finished": [True, True]})
    assert scores == [9.0, None]
    assert by_name == {"count_0": [3.0, None], "count_1": [3.0, None]}
    assert as_reward_functions({"n": count}, None, None, tokenizer, True, "cpu").parts["n"].weight == 1.0
    with pytest.raises(UserError, match=r"1 numbers for 2 rewards: a, b"):
        as_reward_functions({"a": count, "b": count}, [1.0], None, tokenizer, True, "cpu")
    with pytest.raises(UserError, match="no reward"):
        as_reward_functions([], None, None, tokenizer, True, "cpu")


def test_combined_functions_take_no_weights(tokenizer):
    rewards = RewardFunctions({"length": {"path": "rlhf_recipes.rewards.text:length"}})
    assert as_reward_functions(rewards, None, None, tokenizer, True, "cpu") is rewards
    with pytest.raises(UserError, match=r"reward\.functions\.<name>\.weight"):
        as_reward_functions(rewards, [2.0], None, tokenizer, True, "cpu")


def test_a_broken_score_breaks_its_row_alone():
    scores = {"a": [1.0, float("nan"), 3.0], "watched": [float("inf"), 1.0, 1.0]}
    scorers = {n: Part(lambda prompts, completions, n=n: scores[n], w) for n, w in (("a", 2.0), ("watched", 0.0))}
    total, by_name = RewardFunctions(scorers, on_nonfinite="skip")(["?"] * 3, ["x"] * 3)
    assert total[0] == 2 and total[1] != total[1] and total[2] == 6
    assert by_name["watched"][0] != by_name["watched"][0]
    with pytest.raises(UserError, match="finite"):
        RewardFunctions(scorers)(["?"] * 3, ["x"] * 3)


@pytest.mark.parametrize("reduce", ["mean", "min", "mean_minus_std"])
def test_one_broken_member_breaks_an_ensembles_score(reduce):
    members = [lambda prompts, completions: [float("nan"), 1.0], lambda prompts, completions: [0.0, 1.0]]
    for order in (members, members[::-1]):
        broken, whole = Ensemble(order, reduce)(["?"] * 2, ["x"] * 2)
        assert broken != broken and whole == 1.0
