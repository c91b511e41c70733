"""Log-probabilities straight from hidden states: a chunk of tokens at a time, no stored vocabulary.

Shapes: N tokens, d hidden size, V vocabulary. Only real tokens come here (padding is dropped before), and a chunk's
logits live in two buffers that every chunk reuses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**23  # logits of one chunk: 8 M elements, 32 MiB in float32


@dataclass
class Constraint:
    """Tokens forbidden at some positions: the stop tokens before the minimum length.

    Args:
        tokens: ids that may not be drawn there, (k,).
        rows: (N,) true where they are forbidden.
    """

    tokens: Tensor
    rows: Tensor

    def apply_(self, logits: Tensor, rows: slice) -> None:
        """Set the forbidden logits of chunk `rows` (n, V) to -inf, in place."""
        forbidden = self.rows[rows]
        if forbidden.any():
            index = forbidden.nonzero().squeeze(-1)
            logits[index[:, None], self.tokens] = float("-inf")


def chunks(n: int, vocab: int) -> Iterator[slice]:
    """Slices of 0..n such that n x vocab logits of each fit CHUNK_ELEMENTS; at least 16 tokens each."""
    size = max(16, CHUNK_ELEMENTS // vocab)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class Logits:
    """logits = (hidden / temperature) @ weight.T + bias / temperature, in float32, one chunk at a time."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype):
        # dividing N x d hidden states is cheaper than dividing N x V logits
        self.hidden = (hidden / temperature).to(dtype)
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.float() / temperature
        n, vocab = max((s.stop - s.start for s in chunks(len(hidden), len(weight))), default=0), len(weight)
        self.buffer = torch.empty(n, vocab, device=hidden.device)

    def __call__(self, rows: slice) -> Tensor:
        out = self.buffer[: rows.stop - rows.start]
        if self.weight.dtype == torch.float32:
            torch.mm(self.hidden[rows], self.weight.T, out=out)
        else:
            out.copy_(self.hidden[rows] @ self.weight.T)
        if self.bias is not None:
            out += self.bias
        return out


def _statistics(z: Tensor, exp: Tensor, tokens: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """log p(token), entropy and sum_v exp(z - max z) of logits z (n, V). z becomes z - max z, `exp` its exponential."""
    z -= z.amax(-1, keepdim=True)
    torch.exp(z, out=exp)
    total = exp.sum(-1)
    log_total = total.log()
    logp = z.gather(-1, tokens[:, None]).squeeze(-1) - log_total
    if not entropy:
        return logp, torch.zeros_like(logp), total
    z.clamp_(min=-1e4)  # -inf times 0 below; exp(-1e4) is 0 in float32 all the same
    # H = log S - sum_v e^z_v z_v / S
    dot = torch.bmm(exp[:, None, :], z[:, :, None]).flatten()
    return logp, log_total - dot / total, total


@torch.no_grad()
def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float = 1.0,
    constraint: Constraint | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """log pi(token) under softmax(logits / temperature), without gradient.

    Args:
        hidden: (N, d) hidden states at the position before each token.
        weight: (V, d) the lm_head; bias: (V,) or None.
        tokens: (N,) ids.
        constraint: what could not be drawn.
        dtype: of the matrix product; the softmax is float32.

    Returns:
        (N,) float32, nats.
    """
    logits = Logits(hidden, weight, bias, temperature, dtype)
    out = torch.empty(len(tokens), device=hidden.device)
    for rows in chunks(len(tokens), len(weight)):
        z = logits(rows)
        if constraint is not None:
            constraint.apply_(z, rows)
        z -= z.amax(-1, keepdim=True)
        chosen = z.gather(-1, tokens[rows, None]).squeeze(-1)
        out[rows] = chosen - z.exp_().sum(-1).log()
    return out


class _FusedPolicyLoss(torch.autograd.Function):
    """Loss and gradient of a chunk together, as fused linear cross-entropy does: no stored logits, no recomputation.

    A token's loss depends on the network through its own log-probability only. With g = dL/dlog p(token):
        dL/dlogits = g (onehot - p) / temperature, and for an entropy bonus -c H: + c p (log p + H) / temperature
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens, temperature, constraint, dtype, terms, entropy_weight, want_entropy):
        logits = Logits(hidden, weight, bias, temperature, dtype)
        exp = torch.empty_like(logits.buffer)
        n = len(tokens)
        loss = torch.zeros((), device=hidden.device)
        logps = torch.empty(n, device=hidden.device)
        entropies = torch.empty(n, device=hidden.device)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(logits.hidden, dtype=torch.float32) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for rows in chunks(n, len(weight)):
            z = logits(rows)
            if constraint is not None:
                constraint.apply_(z, rows)
            e = exp[: len(z)]
            logp, entropy, total = _statistics(z, e, tokens[rows], want_entropy)
            logps[rows], entropies[rows] = logp, entropy
            with torch.enable_grad():
                leaf = logp.detach().requires_grad_(True)
                chunk_loss = terms(leaf, rows).sum()
                (g,) = torch.autograd.grad(chunk_loss, leaf)
            loss += chunk_loss.detach()
            if entropy_weight:
                loss -= entropy_weight * entropy.sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            if entropy_weight:
                # z := -g + c (log p + H), then times p
                z += (entropy - total.log())[:, None]
                z.mul_(entropy_weight).sub_(g[:, None])
                grad = e.mul_(z).div_(total[:, None])
            else:
                grad = e.mul_((-g / total)[:, None])
            grad.scatter_add_(1, tokens[rows, None], g[:, None])
            if need_hidden:
                grad_hidden[rows] = grad.to(dtype) @ logits.weight
            if need_weight and dtype == torch.float32:
                grad_weight.addmm_(grad.T, logits.hidden[rows])
            elif need_weight:
                grad_weight += grad.to(dtype).T @ logits.hidden[rows]
            if need_bias:
                grad_bias += grad.sum(0) / temperature
        if need_hidden:
            grad_hidden = (grad_hidden / temperature).to(hidden.dtype)
        if need_weight:
            grad_weight = grad_weight.to(weight.dtype)
        if need_bias:
            grad_bias = grad_bias.to(bias.dtype)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(logps, entropies)
        return loss, logps, entropies

    @staticmethod
    def backward(ctx, grad_loss, *_):
        grads, ctx.grads = ctx.grads, None  # the buffers become the gradients: no second copy of (V, d)
        scaled = [None if g is None else g if grad_loss == 1 else g.mul_(grad_loss.to(g.dtype)) for g in grads]
        return (*scaled, *[None] * 7)


def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    terms: Callable[[Tensor, slice], Tensor],
    temperature: float = 1.0,
    constraint: Constraint | None = None,
    entropy_weight: float = 0.0,
    want_entropy: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over tokens of `terms(log pi(token))` minus an entropy bonus, differentiable in hidden, weight and bias.

    Args:
        hidden: (N, d); weight: (V, d); bias: (V,) or None; tokens: (N,).
        terms: maps log-probabilities (n,) of a chunk, and its slice into the N, to loss terms (n,). Differentiable.
        entropy_weight: coefficient of sum_i H_i, subtracted from the loss.
        want_entropy: false spares a pass over the logits; the third result is then 0. Forced by an entropy bonus.
        dtype: of the matrix products; everything else is float32.

    Returns:
        loss (scalar), log-probabilities (N,) and entropies (N,), the last two without gradient.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return _FusedPolicyLoss.apply(
            hidden,
            weight,
            bias,
            tokens,
            temperature,
            constraint,
            dtype,
            terms,
            entropy_weight,
            want_entropy or bool(entropy_weight),
        )
