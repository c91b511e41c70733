"""Generation, log-probabilities, KL and perplexity of a random model against plain forward passes."""

import math

import numpy as np
import pytest
import torch

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import measure
from rlhf_recipes.evaluation.measure import Judged

PROMPTS = ["the cat", "a big red dog ran away", "the dog sat on the mat and then", "home"]


def plain_logprobs(model, ids, start, temperature=1.0):
    logits = model(torch.tensor([ids])).logits[0].float() / temperature
    every = logits.log_softmax(-1)
    return [every[t - 1, ids[t]].item() for t in range(start, len(ids))]


def test_answers_come_back_in_order_and_end_at_the_stop_token(make_model, tokenizer):
    answers = measure.generate(make_model(), tokenizer, PROMPTS * 8, max_new_tokens=12, batch_size=5, seed=3)
    assert [a.prompt_ids for a in answers] == [measure.encode_prompt(tokenizer, p) for p in PROMPTS * 8]
    for answer in answers:
        assert 2 not in answer.ids[:-1]
        assert answer.finished == (answer.ids[-1] == 2)
        assert answer.finished or answer.tokens == 12
        assert "<eos>" not in answer.text
    assert {a.finished for a in answers} == {True, False}


def test_greedy_answers_do_not_depend_on_the_batch(make_model, tokenizer):
    alone = measure.generate(make_model(), tokenizer, PROMPTS, temperature=0, max_new_tokens=8, batch_size=1)
    together = measure.generate(make_model(), tokenizer, PROMPTS, temperature=0, max_new_tokens=8, batch_size=4)
    assert alone == together


def test_the_seed_decides_and_the_callers_random_state_is_untouched(make_model, tokenizer):
    model = make_model()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (measure.generate(model, tokenizer, PROMPTS, max_new_tokens=8, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_penalty_in_the_models_generation_config_changes_nothing(make_model, tokenizer):
    model = make_model()
    plain = measure.generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    model.generation_config.suppress_tokens = list(range(4, 12))
    model.generation_config.repetition_penalty = 5.0
    assert measure.generate(model, tokenizer, PROMPTS, max_new_tokens=8) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_another_stop_token(make_model, tokenizer):
    answers = measure.generate(make_model(), tokenizer, PROMPTS * 4, max_new_tokens=12, stop_token_ids=[5, 6])
    finished = [a for a in answers if a.finished]
    assert finished
    assert all(a.ids[-1] in (5, 6) for a in finished)
    assert all(len(a.text.split()) <= a.tokens - 1 for a in finished)


def test_messages_go_through_the_chat_template(make_model, tokenizer):
    [answer] = measure.generate(make_model(), tokenizer, [[{"role": "user", "content": "the cat"}]], max_new_tokens=3)
    assert answer.prompt_ids == tuple(tokenizer.convert_tokens_to_ids(["the", "cat"]))


def test_a_prompt_that_leaves_no_room_is_named(make_model, tokenizer):
    with pytest.raises(UserError, match=r"8 tokens and may be answered with 42, but the model reads 48"):
        measure.generate(make_model(), tokenizer, PROMPTS, max_new_tokens=42)


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 9}, {"max_logits_mb": 0}])
def test_logprobs_equal_a_plain_forward_pass_whatever_the_batches(make_model, limits):
    model = make_model()
    sequences = [Judged(tuple(range(4, 4 + n)), start) for n, start in ((6, 2), (12, 9), (3, 1), (9, 4))]
    found = measure.logprobs(model, sequences, temperature=0.7, **limits)
    for row, (ids, start) in zip(found, sequences, strict=True):
        np.testing.assert_allclose(row, plain_logprobs(model, ids, start, 0.7), atol=1e-5)


def test_logprobs_of_a_model_without_logits_to_keep(make_model, monkeypatch):
    model = make_model()
    sequences = [Judged((4, 5, 6, 7, 8), 3), Judged((9, 8, 7), 1)]
    expected = measure.logprobs(model, sequences)
    monkeypatch.setattr(measure, "_takes_logits_to_keep", lambda model: False)
    for a, b in zip(measure.logprobs(model, sequences), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_kl_estimates_by_hand():
    # one response of two tokens: ratio r = (-1 - -2, -3 - -2) = (1, -1)
    k1, k3 = measure.kl_estimates([np.array([-2.0, -2.0])], [np.array([-1.0, -3.0])])
    assert k1 == [0.0]
    assert k3 == [pytest.approx((math.e - 2) + (math.exp(-1)))]


def test_kl_of_a_model_to_itself_is_zero_and_to_another_is_positive(make_model, tokenizer):
    policy, other = make_model(0), make_model(1)
    answers = measure.generate(policy, tokenizer, PROMPTS * 30, max_new_tokens=4)
    assert measure.response_kl(policy, policy, answers) == (0.0, 0.0)
    k1, k3 = measure.response_kl(policy, other, answers)
    assert k1 > 0
    assert k3 > 0


def test_kl_agrees_with_the_exact_sum_over_one_token(make_model, tokenizer):
    policy, other = make_model(0), make_model(0, scale=0.5)
    answers = measure.generate(policy, tokenizer, ["the cat"] * 4000, max_new_tokens=1, batch_size=1000)
    p, q = (m(torch.tensor([[4, 6]])).logits[0, -1].log_softmax(-1) for m in (policy, other))
    exact = (p.exp() * (p - q)).sum().item()
    k1, k3 = measure.response_kl(policy, other, answers)
    assert k1 == pytest.approx(exact, rel=0.1)
    assert k3 == pytest.approx(exact, rel=0.1)


def test_perplexity_weighs_every_completion_token_the_same(make_model, tokenizer):
    model = make_model()
    demos = [{"prompt": "the", "completion": " cat sat"}, {"prompt": "a dog", "completion": " ran"}]
    rows = [((4, 6, 8, 2), 1), ((5, 7, 9, 2), 2)]  # EOS appended
    nll = [-p for ids, start in rows for p in plain_logprobs(model, ids, start)]
    found = measure.perplexity(model, tokenizer, demos)
    assert found.ppl == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-5)
    assert (found.tokens, found.dropped) == (5, 0)


def test_perplexity_of_messages_and_of_what_does_not_fit(make_model, tokenizer):
    model = make_model()
    message = {
        "prompt": [{"role": "user", "content": "the"}],
        "completion": [{"role": "assistant", "content": "cat sat"}],
    }
    plain = {"prompt": "the", "completion": " cat sat"}
    long = {"prompt": "the", "completion": " cat" * 60}
    found = measure.perplexity(model, tokenizer, [message, long])
    assert found.ppl == pytest.approx(measure.perplexity(model, tokenizer, [plain]).ppl)
    assert found.dropped == 1


def test_a_flat_model_is_as_perplexed_as_its_vocabulary(make_model, tokenizer):
    found = measure.corpus_perplexity(make_model(scale=0.0), tokenizer, ["the cat sat " * 30, "a dog ran"], length=20)
    assert found.ppl == pytest.approx(len(tokenizer))
    assert (
        found.tokens == 4 * 19 + 9 + 2
    )  # 90 words are four pieces of 20 and one of 10; nothing predicts a first token
