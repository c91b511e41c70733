"""The arithmetic of PPO for language models, as pure functions on tensors.

Shapes: B responses, T response tokens (right-padded), V vocabulary. `mask` (B, T) is true on real tokens, the stop
token included. `lengths` (B,) counts them. Values have one step more than tokens, because the score is paid at the
step after the last token; `value_mask` has one position more wherever there is room. That is the convention of TRL
and of Huang et al. 2024 (arXiv:2403.17031); OpenAI's code paid at the last token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KL_ESTIMATORS = ("k1", "k2", "k3", "full")


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` over true positions of `mask`; 0 where there is none. Both of one shape; returns a scalar."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale to unit variance and, with `shift_mean`, mean 0 over `mask`; 0 outside it.

        x' = (x - mean) / sqrt(var + 1e-8)        var with Bessel's correction, as in TRL (OpenAI's code has none)

    Returns:
        (B, T). A mask with fewer than two positions has no variance: its values are only centred.
    """
    n = mask.sum()
    mean = masked_mean(x, mask)
    var = masked_mean((x - mean) ** 2, mask) * n / (n - 1).clamp(min=1)
    scale = torch.rsqrt(var + 1e-8) if n > 1 else x.new_ones(())
    white = (x - mean) * scale
    if not shift_mean:
        white = white + mean
    return torch.where(mask, white, 0.0)


def length_masks(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(mask, value_mask), both (B, width): steps t < length, and t < length + 1."""
    step = torch.arange(width, device=lengths.device)
    return step < lengths[:, None], step < lengths[:, None] + 1


def logprobs_from_logits(logits: Tensor, tokens: Tensor) -> Tensor:
    """log pi(token) for logits (..., V), already divided by the temperature, and tokens (...). Returns (...)."""
    logits = logits.float()
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)


def entropy_from_logits(logits: Tensor) -> Tensor:
    """H = -sum_v p_v log p_v, nats a token, for logits (..., V). Returns (...)."""
    logp = F.log_softmax(logits.float(), dim=-1)
    return torch.special.entr(logp.exp()).sum(-1)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Estimate KL(policy || reference) at each sampled token from the two log-probabilities.

        k1 = log p - log q            unbiased, and the only one whose use in the reward gives the right gradient
        k2 = (log p - log q)^2 / 2    biased, low variance
        k3 = q/p - 1 + log p - log q  unbiased, never negative

    Args:
        logprobs: (B, T) log p of the sampled tokens, nats.
        ref_logprobs: (B, T) log q of the same tokens.
        kind: "k1", "k2" or "k3" ("full" needs the whole vocabulary: `full_kl`).

    Source: http://joschu.net/blog/kl-approx.html
    """
    log_ratio = logprobs - ref_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return 0.5 * log_ratio**2
    if kind == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"kl estimator {kind!r}; expected k1, k2 or k3")


def full_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v), exactly, nats a token, from logits (..., V). Returns (...).

    Tokens that p gives no probability (logit -inf) count nothing.
    """
    logp = F.log_softmax(logits.float(), dim=-1)
    logq = F.log_softmax(ref_logits.float(), dim=-1)
    return torch.where(logp.isneginf(), 0.0, logp.exp() * (logp - logq)).sum(-1)


def token_rewards(scores: Tensor, kl: Tensor, kl_coef: float, lengths: Tensor) -> Tensor:
    """r_t = -beta KL_t, and the score added at the step after the last token (at the last one where T ends there).

    Args:
        scores: (B,) the reward functions' score of each response.
        kl: (B, T) nats a token, 0 on padding.
        kl_coef: beta.
        lengths: (B,) tokens in each response, 0 to T.

    Returns:
        (B, T). Source: arXiv:1909.08593 eq. 2, arXiv:2203.02155 eq. 2.
    """
    rewards = -kl_coef * kl
    end = lengths.clamp(max=kl.shape[1] - 1)
    return rewards.scatter_add(1, end[:, None], scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}        return_t = A_t + V_t

    Args:
        rewards: (B, T), 0 after the score.
        values: (B, T), 0 where `value_mask` is false; V_T is 0.
        gamma, lam: 0 to 1.

    Returns:
        advantages (B, T), not whitened, and returns (B, T). Source: arXiv:1506.02438 eq. 16.
    """
    next_values = F.pad(values[:, 1:], (0, 1))
    delta = rewards + gamma * next_values - values
    advantages = torch.zeros_like(delta)
    last = delta.new_zeros(delta.shape[0])
    for t in reversed(range(delta.shape[1])):
        last = delta[:, t] + gamma * lam * last
        advantages[:, t] = last
    return advantages, advantages + values


def clipped_policy_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate, a term a token, to be minimised.

        ratio = pi / pi_old        L = max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps))

    Args:
        logprobs, old_logprobs, advantages: one shape, one entry a token.
        cliprange: eps, above 0.

    Returns:
        terms, and clipped: true where the clipped branch is the larger. Source: arXiv:1707.06347 eq. 7.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return torch.maximum(plain, clipped), clipped > plain


def clipped_value_terms(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float
) -> tuple[Tensor, Tensor]:
    """The critic's loss, a term a step, clipped around the values of rollout time.

        L = 1/2 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2)

    Returns:
        terms, and clipped: true where the clipped branch is the larger. Source: arXiv:1506.02438 with the clipping of
        OpenAI's code.
    """
    near = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    plain, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over `mask`: 1 is a perfect critic, 0 no better than a constant, below 0 worse."""

    def var(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    return 1.0 - var(returns - values) / var(returns).clamp(min=1e-12)
