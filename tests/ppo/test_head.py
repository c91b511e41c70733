"""The fused head against autograd on plain logits."""

import pytest
import torch

from rlhf_recipes.engine import logprobs
from rlhf_recipes.engine.sampling import Constraint
from rlhf_recipes.ppo import core

N, D, V = 37, 8, 50


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 16 * V)


def problem(seed=0, bias=True):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=g, requires_grad=True)
    weight = torch.randn(V, D, generator=g, requires_grad=True)
    b = torch.randn(V, generator=g, requires_grad=True) if bias else None
    tokens = torch.randint(V, (N,), generator=g)
    return hidden, weight, b, tokens, -torch.rand(N, generator=g) * 5, torch.randn(N, generator=g)


def plain(hidden, weight, bias, tokens, old, adv, temperature, constraint, entropy_weight):
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    if constraint is not None:
        forbid = torch.zeros_like(logits, dtype=torch.bool)
        forbid[:, constraint.tokens] = True
        logits = logits.masked_fill(forbid & constraint.rows[:, None], float("-inf"))
    logp = core.logprobs_from_logits(logits, tokens)
    p = logits.softmax(-1)
    entropy = -(p * logits.log_softmax(-1).clamp(min=-1e4)).sum(-1)
    loss = core.clipped_policy_terms(logp, old, adv, 0.2)[0].sum() - entropy_weight * entropy.sum()
    return loss, logp, entropy


@torch.no_grad()
def read(hidden, weight, bias, tokens, temperature=1.0, constraint=None, dtype=torch.float32):
    logits = logprobs.Logits(hidden, weight, bias, temperature, dtype)

    def drawn_from(rows):
        z = logits(rows)
        if constraint is not None:
            constraint.apply_(z, rows)
        return z

    return logprobs.token_logprobs(drawn_from, len(weight), tokens)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradients_equal_autograd(temperature, entropy_weight, constrained, bias):
    hidden, weight, b, tokens, old, adv = problem(bias=bias)
    constraint = None
    if constrained:
        tokens = tokens.clamp(min=2)
        constraint = Constraint(torch.tensor([0, 1]), torch.arange(N) % 3 == 0)
    leaves = [x for x in (hidden, weight, b) if x is not None]
    want = plain(hidden, weight, b, tokens, old, adv, temperature, constraint, entropy_weight)
    expected = torch.autograd.grad(want[0] * 3, leaves)
    got = logprobs.policy_loss(
        hidden,
        weight,
        b,
        tokens,
        lambda logp, rows: core.clipped_policy_terms(logp, old[rows], adv[rows], 0.2)[0],
        temperature,
        constraint,
        entropy_weight,
    )
    for a, e in zip(got, want, strict=True):
        torch.testing.assert_close(a, e.detach(), atol=1e-4, rtol=1e-5)
    for a, e in zip(torch.autograd.grad(got[0] * 3, leaves), expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)
    again = read(hidden, weight, b, tokens, temperature, constraint)
    torch.testing.assert_close(again, want[1].detach(), atol=1e-5, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _, tokens, _, adv = problem(bias=False)
    weight.requires_grad_(False)
    loss, _, _ = logprobs.policy_loss(hidden, weight, None, tokens, lambda logp, rows: -adv[rows] * logp)
    loss.backward()
    assert weight.grad is None and hidden.grad.abs().sum() > 0


def test_no_tokens_no_loss():
    hidden, weight, _, tokens, _, _ = problem(bias=False)
    loss, logp, _ = logprobs.policy_loss(hidden[:0], weight, None, tokens[:0], lambda logp, rows: logp)
    loss.backward()
    assert loss.item() == 0 and len(logp) == 0 and weight.grad.abs().sum() == 0


def test_bfloat16_products_stay_near_float32():
    hidden, weight, _, tokens, _, _ = problem(bias=False)
    a = read(hidden, weight, None, tokens)
    b = read(hidden, weight, None, tokens, dtype=torch.bfloat16)
    assert 0 < (a - b).abs().max() < 0.1


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_loss_and_gradients_stay_near_float32(entropy_weight, bias):
    hidden, weight, b, tokens, old, adv = problem(bias=bias)
    leaves = [x for x in (hidden, weight, b) if x is not None]

    def found(dtype):
        terms = lambda logp, rows: core.clipped_policy_terms(logp, old[rows], adv[rows], 0.2)[0]  # noqa: E731
        out = logprobs.policy_loss(hidden, weight, b, tokens, terms, 0.7, None, entropy_weight, dtype)
        return [*out, *torch.autograd.grad(out[0], leaves)]

    for wide, narrow in zip(found(torch.float32), found(torch.bfloat16), strict=True):
        assert narrow.dtype == torch.float32
        assert 0 < (wide - narrow).norm() < 0.05 * wide.norm()


def test_a_chunk_of_logits_is_as_narrow_as_its_products():
    hidden, weight, b, *_ = problem()
    logits = logprobs.Logits(hidden.detach(), weight.detach(), b.detach(), 1.0, torch.bfloat16)
    assert logits.buffer.dtype == logits(slice(0, 4)).dtype == torch.bfloat16
    top, total = logprobs.exponentials_(logits(slice(0, 4)))
    assert top.dtype == total.dtype == torch.float32
    torch.testing.assert_close(logits.buffer[:4].float().sum(-1, keepdim=True), total, rtol=0.01, atol=0)
