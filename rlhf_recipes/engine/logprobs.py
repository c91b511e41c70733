"""The one reader of log-probabilities: straight from hidden states, a chunk of tokens at a time, no stored vocabulary.

Shapes: N tokens, d hidden size, V vocabulary. Only real tokens come here (padding is dropped before), and a chunk's
logits live in two buffers that every chunk reuses.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from rlhf_recipes.engine.forward import all_logits, hidden_states
from rlhf_recipes.engine.sampling import Constraint, Sampling
from rlhf_recipes.engine.sequences import Sequences

CHUNK_ELEMENTS = 2**25  # logits of one chunk, 128 MiB in float32: narrow chunks make slow products
CACHED_ELEMENTS = 2**18  # 1 MiB: a core's own cache


def chunks(n: int, vocab: int) -> Iterator[slice]:
    """Slices of 0..n such that n x vocab logits of each fit CHUNK_ELEMENTS; at least 16 tokens each."""
    size = max(16, CHUNK_ELEMENTS // vocab)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def exponentials_(z: Tensor) -> tuple[Tensor, Tensor]:
    """z (n, V) <- exp(z - max z), in float32, a few rows at a time, so that they stay in the cache.

    Returns:
        max z and the sum of the exponentials, (n, 1) each, float32.
    """
    top, total = (torch.empty(len(z), 1, device=z.device) for _ in range(2))
    size = max(1, (CACHED_ELEMENTS if z.device.type == "cpu" else CHUNK_ELEMENTS) // z.shape[1])
    for part, high, sums in zip(z.split(size), top.split(size), total.split(size), strict=True):
        e = part.float()
        torch.amax(e, -1, keepdim=True, out=high)
        torch.sum(e.sub_(high).exp_(), -1, keepdim=True, out=sums)
        if e is not part:
            part.copy_(e)
    return top, total


class Logits:
    """logits = (hidden / temperature) @ weight.T + bias / temperature, in `dtype`, one chunk at a time."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype):
        # dividing N x d hidden states is cheaper than dividing N x V logits
        self.hidden = (hidden / temperature).to(dtype)
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else (bias / temperature).to(dtype)
        n, vocab = max((s.stop - s.start for s in chunks(len(hidden), len(weight))), default=0), len(weight)
        self.buffer = torch.empty(n, vocab, dtype=dtype, device=hidden.device)

    def __call__(self, rows: slice) -> Tensor:
        out = self.buffer[: rows.stop - rows.start]
        torch.mm(self.hidden[rows], self.weight.T, out=out)
        if self.bias is not None:
            out += self.bias
        return out


def answer_logits(
    causal: nn.Module, sequences: Sequences, sampling: Sampling, linear: bool
) -> tuple[Callable[[slice], Tensor], int]:
    """The logits that completions were drawn from, over the temperature, and -inf on what could not be drawn.

    Args:
        causal: the language model. linear: what `forward.head_is_linear` says of it.

    Returns:
        a function of a slice of the N completion tokens (row-major) that gives logits (n, V), which its next call
        overwrites; and V.
    """
    mask, constraint = sequences.mask, sampling.constraint(sequences)
    if linear:
        head = causal.get_output_embeddings()
        hidden = hidden_states(causal, sequences, mask.shape[1])[mask]
        vocab, dtype = len(head.weight), product_dtype(head.weight)
        read = Logits(hidden, head.weight, head.bias, sampling.scale, dtype)
    else:
        logits = all_logits(causal, sequences, mask.shape[1])[1][mask]
        vocab = logits.shape[-1]

        def read(rows: slice) -> Tensor:
            return logits[rows].float() / sampling.scale

    def drawn_from(rows: slice) -> Tensor:
        z = read(rows)
        if constraint is not None:
            constraint.apply_(z, rows)
        return z

    return drawn_from, vocab


@torch.no_grad()
def completion_logprobs(causal: nn.Module, sequences: Sequences, sampling: Sampling, linear: bool) -> Tensor:
    """log pi of the completion tokens (B, T), nats, float32, 0 on padding, without gradient.

    Args:
        causal: the language model, in eval mode.
        sampling: how the completions were drawn: temperature, minimum length, cut tail.
        linear: what `forward.head_is_linear` says of the model.
    """
    tokens = sequences.completion_ids[sequences.mask]
    logits, vocab = answer_logits(causal, sequences, sampling, linear)
    out = torch.zeros(sequences.mask.shape, device=tokens.device)
    out[sequences.mask] = token_logprobs(logits, vocab, tokens)
    return out


def token_logprobs(logits: Callable[[slice], Tensor], vocab: int, tokens: Tensor) -> Tensor:
    """log pi of tokens (N,), float32, from their logits, a chunk (n, V) at a time, which are overwritten."""
    out = torch.empty(len(tokens), device=tokens.device)
    for rows in chunks(len(tokens), vocab):
        z = logits(rows)
        chosen = z.gather(-1, tokens[rows, None]).float()
        top, total = exponentials_(z)
        out[rows] = (chosen - top - total.log()).squeeze(-1)
    return out


def product_dtype(weight: Tensor) -> torch.dtype:
    """What a product with this weight is computed in: autocast's type where it is on, else the weight's own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _FusedPolicyLoss(torch.autograd.Function):
    """Loss and gradient of a chunk together, as fused linear cross-entropy does: no stored logits, no recomputation.

    A token's loss depends on the network through its own log-probability only. With z the logits over temperature,
    e = exp(z - max z), S = sum e, p = e / S and g = dL/dlog p(token):
        dL/dz = g (onehot - p)
        dL/dh = g (W[token] - (e W) / S)        dL/dW = (-g / S e)^T h, and g h added to the rows of the tokens
    so that e is read by two matrix products and never rewritten. The first also gives the entropy for nothing:
        H = log S + max z - sum_v p_v z_v,       sum_v p_v z_v = h . (e W) / S  (+ e . bias / S)
    An entropy bonus -c H adds c p (log p + H) to dL/dz: then e is rewritten after all.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens, temperature, constraint, dtype, terms, entropy_weight):
        logits = Logits(hidden, weight, bias, temperature, dtype)
        device, n = hidden.device, len(tokens)
        loss = torch.zeros((), device=device)
        logps, entropies, slopes = (torch.empty(n, device=device) for _ in range(3))
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty(hidden.shape, device=device) if need_hidden else None
        grad_weight = torch.empty(weight.shape, device=device) if need_weight else None
        grad_bias = torch.zeros(bias.shape, device=device) if need_bias else None
        for rows in chunks(n, len(weight)):
            z, h, word = logits(rows), logits.hidden[rows], tokens[rows]
            if constraint is not None:
                constraint.apply_(z, rows)
            chosen, e = z.gather(-1, word[:, None]).float(), z
            top, total = exponentials_(z)
            chosen, total = (chosen - top).squeeze(-1), total.squeeze(-1)
            mean_weight = (e @ logits.weight).float()  # (n, d), S times the mean row of W under p
            mean_z = (mean_weight * h.float()).sum(-1) / total
            if bias is not None:
                mean_z += (e @ logits.bias).float() / total
            logp, entropy = chosen - total.log(), total.log() + top.squeeze(-1) - mean_z
            with torch.enable_grad():
                leaf = logp.detach().requires_grad_(True)
                chunk_loss = terms(leaf, rows).sum()
                (g,) = torch.autograd.grad(chunk_loss, leaf)
            logps[rows], entropies[rows], slopes[rows] = logp, entropy, g
            loss += chunk_loss.detach() - entropy_weight * entropy.sum()
            scale = (-g / total)[:, None]
            if entropy_weight:
                log_p = e.float().log().clamp_(min=-1e4).sub_(total.log()[:, None])
                e.mul_((log_p + entropy[:, None]) * entropy_weight - g[:, None])
                mean_weight, scale = (e @ logits.weight).float(), (1 / total)[:, None]
            if need_hidden:
                grad_hidden[rows] = mean_weight * scale
            if need_weight:
                _add_product(grad_weight, e, (h.float() * scale).to(dtype), first=rows.start == 0)
            if need_bias:
                grad_bias += (e.T @ scale.to(dtype)).squeeze(-1)
        # the onehot's part of dL/dz, for all chunks at once
        if need_hidden:
            grad_hidden += slopes[:, None] * logits.weight[tokens].float()
            grad_hidden = (grad_hidden / temperature).to(hidden.dtype)
        if need_weight:
            grad_weight = grad_weight if n else grad_weight.zero_()
            grad_weight.index_add_(0, tokens, slopes[:, None] * logits.hidden.float())
            grad_weight = grad_weight.to(weight.dtype)
        if need_bias:
            grad_bias = (grad_bias.index_add_(0, tokens, slopes) / temperature).to(bias.dtype)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(logps, entropies)
        return loss, logps, entropies

    @staticmethod
    def backward(ctx, grad_loss, *_):
        grads, ctx.grads = ctx.grads, None  # the buffers become the gradients: no second copy of (V, d)
        scaled = [None if g is None else g if grad_loss == 1 else g.mul_(grad_loss.to(g.dtype)) for g in grads]
        return (*scaled, *[None] * 6)


def _add_product(total: Tensor, e: Tensor, part: Tensor, first: bool) -> None:
    """total (V, d) += e (n, V)^T part (n, d); total := that, where it is the first."""
    if part.dtype != torch.float32:
        product = e.T @ part
        total.copy_(product) if first else total.add_(product)
    elif first:
        torch.mm(e.T, part, out=total)
    else:
        total.addmm_(e.T, part)


def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    terms: Callable[[Tensor, slice], Tensor],
    temperature: float = 1.0,
    constraint: Constraint | None = None,
    entropy_weight: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over tokens of `terms(log pi(token))` minus an entropy bonus, differentiable in hidden, weight and bias.

    Args:
        hidden: (N, d); weight: (V, d); bias: (V,) or None; tokens: (N,).
        terms: maps log-probabilities (n,) of a chunk, and its slice into the N, to loss terms (n,). Differentiable.
        entropy_weight: coefficient of sum_i H_i, subtracted from the loss.
        dtype: of the matrix products and what they leave; softmax, loss and gradients are float32.

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
        )
