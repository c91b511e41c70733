"""The sampler draws what transformers' generate would; the reader reads what the model's own logits say."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from rlhf_recipes.engine.forward import head_is_linear
from rlhf_recipes.engine.generation import generate
from rlhf_recipes.engine.logprobs import completion_logprobs
from rlhf_recipes.engine.sampling import Sampling

PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
EOS, PAD, VOCAB = 2, 0, 60


def qwen2():
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, num_key_value_heads=1, max_window_layers=2, **shape))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2))


@pytest.fixture(params=[qwen2, gpt2])
def causal(request):
    torch.manual_seed(0)
    model = request.param().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # distributions that are not flat
    return model


def answers(causal, prompts, sampling, seed=0, **how):
    uniforms = torch.rand(len(prompts), sampling.max_length, generator=torch.Generator().manual_seed(seed))
    return generate(causal, prompts, uniforms, sampling, pad_id=PAD, **{"batch_size": 8} | how)


def test_greedy_answers_are_transformers_own(causal):
    drawn = answers(causal, PROMPTS, Sampling(max_length=7, temperature=0)).sequences.completions()
    for prompt, ids in zip(PROMPTS, drawn, strict=True):
        whole = causal.generate(torch.tensor([prompt]), max_new_tokens=7, do_sample=False, eos_token_id=None)
        assert ids == whole[0, len(prompt) :].tolist()


def test_what_is_drawn_depends_on_the_row_alone(causal):
    sampling = Sampling(max_length=12, stop_ids=[EOS, 9, 11])
    one, other = (answers(causal, PROMPTS * 5, sampling, batch_size=size) for size in (2, 15))
    assert one.sequences.completions() == other.sequences.completions() and torch.equal(one.finished, other.finished)
    assert {ids[-1] in sampling.stop_ids for ids in one.sequences.completions()} == {True, False}
    for ids, finished in zip(one.sequences.completions(), one.finished, strict=True):
        assert finished == (ids[-1] in sampling.stop_ids) and not set(ids[:-1]) & set(sampling.stop_ids)
        assert finished or len(ids) == 12


def test_the_first_token_is_drawn_as_often_as_it_is_likely(causal):
    sampling = Sampling(max_length=1, temperature=1.5, top_k=5)
    drawn = torch.tensor(
        answers(causal, [PROMPTS[0]] * 4000, sampling, batch_size=4000).sequences.completions()
    ).squeeze(1)
    with torch.no_grad():
        top = (causal(torch.tensor([PROMPTS[0]])).logits[0, -1] / 1.5).topk(5)
    shares = torch.stack([(drawn == token).float().mean() for token in top.indices])
    torch.testing.assert_close(shares, top.values.softmax(0), atol=0.04, rtol=0)
    assert shares.sum() == 1


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.7, "min_length": 2}, {"top_k": 7, "top_p": 0.8}, {"temperature": 0}]
)
def test_what_is_read_later_is_what_was_drawn(causal, how):
    sampling = Sampling(max_length=6, stop_ids=[EOS, 9], **how)
    drawn = answers(causal, PROMPTS * 3, sampling)
    for linear in (head_is_linear(causal), False):
        read = completion_logprobs(causal, drawn.sequences, sampling, linear)
        torch.testing.assert_close(read, drawn.logprobs, atol=1e-5, rtol=1e-4)
    assert head_is_linear(causal)
