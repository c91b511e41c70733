"""Log-probabilities, KL and perplexity of a random model against plain forward passes."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_recipes.evaluation import likelihood
from rlhf_recipes.evaluation.answers import Draw, generate

PROMPTS = ["the cat", "a big red dog ran away", "the dog sat on the mat and then", "home"]


def plain_logprobs(model, ids, start, temperature=1.0):
    logits = model(torch.tensor([ids])).logits[0].float() / temperature
    every = logits.log_softmax(-1)
    return [every[t - 1, ids[t]].item() for t in range(start, len(ids))]


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 9}, {"max_tokens": 1}])
def test_logprobs_equal_a_plain_forward_pass_whatever_the_batches(make_model, limits):
    model = make_model()
    spans = [(range(4, 4 + start), range(4 + start, 4 + n)) for n, start in ((6, 2), (12, 9), (3, 1), (9, 4))]
    found = likelihood.logprobs(model, spans, temperature=0.7, **limits)
    for row, (context, read) in zip(found, spans, strict=True):
        np.testing.assert_allclose(row, plain_logprobs(model, [*context, *read], len(context), 0.7), atol=1e-5)


def test_logprobs_of_a_model_whose_head_is_no_plain_matrix(make_model, monkeypatch):
    model = make_model()
    spans = [((4, 5, 6), (7, 8)), ((9,), (8, 7))]
    expected = likelihood.logprobs(model, spans)
    monkeypatch.setattr("rlhf_recipes.engine.forward.head_is_linear", lambda model: False)
    for a, b in zip(likelihood.logprobs(model, spans), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_kl_estimates_by_hand():
    # one response of two tokens: ratio r = (-1 - -2, -3 - -2) = (1, -1)
    k1, k3 = likelihood.kl_estimates([np.array([-2.0, -2.0])], [np.array([-1.0, -3.0])])
    assert k1 == [0.0]
    assert k3 == [pytest.approx((math.e - 2) + (math.exp(-1)))]


def response_kl(policy, ref, answers):
    """Mean k1 and k3 over answers."""
    spans = [(answer.prompt_ids, answer.ids) for answer in answers]
    return tuple(map(np.mean, likelihood.kl_estimates(*(likelihood.logprobs(m, spans) for m in (policy, ref)))))


def test_kl_of_a_model_to_itself_is_zero_and_to_another_is_positive(make_model, tokenizer):
    policy, other = make_model(0), make_model(1)
    answers = generate(policy, tokenizer, PROMPTS * 30, Draw(max_new_tokens=4))
    assert response_kl(policy, policy, answers) == (0.0, 0.0)
    k1, k3 = response_kl(policy, other, answers)
    assert k1 > 0
    assert k3 > 0


def test_kl_agrees_with_the_exact_sum_over_one_token(make_model, tokenizer):
    policy, other = make_model(0), make_model(0, scale=0.5)
    answers = generate(policy, tokenizer, ["the cat"] * 20_000, Draw(max_new_tokens=1, batch_size=5000))
    p, q = (m(torch.tensor([[4, 6]])).logits[0, -1].log_softmax(-1) for m in (policy, other))
    exact = (p.exp() * (p - q)).sum().item()
    k1, k3 = response_kl(policy, other, answers)
    assert k1 == pytest.approx(exact, rel=0.1)
    assert k3 == pytest.approx(exact, rel=0.1)


def test_perplexity_weighs_every_completion_token_the_same(make_model, tokenizer):
    model = make_model()
    demos = [{"prompt": "the", "completion": " cat sat"}, {"prompt": "a dog", "completion": " ran"}]
    rows = [((4, 6, 8, 2), 1), ((5, 7, 9, 2), 2)]  # EOS appended
    nll = [-p for ids, start in rows for p in plain_logprobs(model, ids, start)]
    found = likelihood.perplexity(model, tokenizer, demos)
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
    found = likelihood.perplexity(model, tokenizer, [message, long])
    assert found.ppl == pytest.approx(likelihood.perplexity(model, tokenizer, [plain]).ppl)
    assert found.dropped == 1


def test_a_flat_model_is_as_perplexed_as_its_vocabulary(make_model, tokenizer):
    texts = ["the cat sat " * 30, "a dog ran"]
    found = likelihood.corpus_perplexity(make_model(scale=0.0), tokenizer, texts, length=20)
    assert found.ppl == pytest.approx(len(tokenizer))
    # 90 words are four pieces of 20 and one of 10; nothing predicts the first token of a piece
    assert found.tokens == 4 * 19 + 9 + 2


@pytest.mark.real
@pytest.mark.skipif("RLHF_RECIPES_REAL_DATA" not in os.environ, reason="RLHF_RECIPES_REAL_DATA is unset")
def test_a_story_model_is_at_home_in_stories_and_not_in_the_same_words_shuffled():
    import json
    import random

    from transformers import AutoModelForCausalLM, AutoTokenizer

    real = Path(os.environ["RLHF_RECIPES_REAL_DATA"])
    place = real / "models" / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    with (real / "data" / "tinystories" / "stories.jsonl").open() as lines:
        stories = [next(iter(json.loads(next(lines)).values())) for _ in range(20)]
    shuffled = [" ".join(random.Random(0).sample(story.split(), len(story.split()))) for story in stories]
    at_home, lost = (likelihood.corpus_perplexity(model, tokenizer, texts).ppl for texts in (stories, shuffled))
    assert 2 < at_home < 6
    assert lost > 3 * at_home
