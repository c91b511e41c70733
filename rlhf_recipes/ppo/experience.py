"""What a rollout leaves for the PPO epochs: rewards, advantages and returns of every episode."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_recipes.ppo import core
from rlhf_recipes.ppo.actor_critic import Sequences
from rlhf_recipes.ppo.config import PPOConfig


@dataclass
class Experience:
    """One rollout of B episodes over all processes, T = response_length.

    Args:
        sequences: prompts (B, P) and completions (B, T).
        lengths: (B,) completion tokens; finished: (B,) ended by a stop token or string.
        scores: (B,) on the run's scale, after clipping and penalties.
        logprobs: (B, T) under the policy that wrote it; kl: (B, T) nats a token; values: (B, T).
        rewards, advantages, returns: (B, T); advantages whitened.
        mask, value_mask: (B, T), see core.
        kl_coef: beta these rewards were made with.
    """

    sequences: Sequences
    lengths: Tensor
    finished: Tensor
    scores: Tensor
    logprobs: Tensor
    kl: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor
    value_mask: Tensor
    kl_coef: float

    def metrics(self, stop_ids: list[int]) -> dict[str, float]:
        """TRL's objective/* of this rollout, and what it lacks."""
        penalty = (-self.kl_coef * self.kl).sum(1).mean()
        stops = torch.isin(self.sequences.completion_ids, torch.tensor(stop_ids, device=self.mask.device)) & self.mask
        metrics = {
            "objective/kl": self.kl.sum(1).mean(),
            "objective/entropy": -self.logprobs.sum(1).mean(),
            "objective/non_score_reward": penalty,
            "objective/rlhf_reward": penalty + self.scores.mean(),
            "objective/scores": self.scores.mean(),
            "objective/scores_std": self.scores.std(correction=0),
            "val/num_eos_tokens": stops.sum(),
            "val/explained_variance": core.explained_variance(self.values, self.returns, self.value_mask),
            "completions/mean_length": self.lengths.float().mean(),
            "completions/eos_rate": self.finished.float().mean(),
        }
        return {k: v.item() for k, v in metrics.items()} | {"objective/kl_coef": self.kl_coef}

    def token_rows(self, row: int, tokenizer) -> list[dict]:
        """One answer token by token: {"token", "logprob", "kl", "value", "reward", "advantage", "return"} each.

        The last entry, with an empty token, is the step after the end, where the score is paid.
        """
        names = {"logprob": self.logprobs, "kl": self.kl, "value": self.values, "reward": self.rewards}
        names |= {"advantage": self.advantages, "return": self.returns}
        length = int(self.lengths[row])
        ids = self.sequences.completion_ids[row, :length].tolist()
        words = [tokenizer.decode([i]) for i in ids] + [""] * (length < self.mask.shape[1])
        return [{"token": w} | {n: x[row, t].item() for n, x in names.items()} for t, w in enumerate(words)]


def make_experience(
    sequences: Sequences,
    finished: Tensor,
    scores: Tensor,
    logprobs: Tensor,
    kl: Tensor,
    values: Tensor,
    args: PPOConfig,
) -> Experience:
    """Rewards, advantages and returns from what was sampled, scored and valued.

    Args:
        sequences: (B, P), (B, T); finished, scores: (B,); logprobs, kl: (B, T), 0 on padding; values: (B, T + 1).
            A row whose score is not finite is left out of every loss.
        args: kl_coef, reward_clip, length_penalty, missing_eos_penalty, whiten_rewards, gamma, lam.
    """
    lengths = sequences.mask.sum(1)
    mask, value_mask = core.length_masks(lengths, sequences.mask.shape[1])
    usable = scores.isfinite()
    scores = torch.where(usable, scores, scores[usable].mean() if usable.any() else 0.0)
    if args.reward_clip is not None:
        scores = scores.clamp(-args.reward_clip, args.reward_clip)
    if args.length_penalty:
        scores = scores - args.length_penalty * lengths
    if args.missing_eos_penalty is not None:
        scores = scores - args.missing_eos_penalty * (~finished).float()
    values = torch.where(value_mask, values[:, : mask.shape[1]], 0.0)
    rewards = core.token_rewards(scores, kl, args.kl_coef, lengths)
    if args.whiten_rewards:
        rewards = core.masked_whiten(rewards, value_mask, shift_mean=False)
    advantages, returns = core.gae(rewards, values, args.gamma, args.lam)
    mask, value_mask = mask & usable[:, None], value_mask & usable[:, None]
    advantages = core.masked_whiten(advantages, mask)
    return Experience(
        sequences,
        lengths,
        finished,
        scores,
        logprobs,
        kl,
        values,
        rewards,
        advantages,
        returns,
        mask,
        value_mask,
        args.kl_coef,
    )


class StepStatistics:
    """Sums over the tokens of each optimizer step of an update, averaged without weighting micro-batches alike.

    Args:
        steps: optimizer steps an update.
    """

    NAMES = ("policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "policy/entropy_avg", "val/ratio")
    VALUE_NAMES = ("loss/value_avg", "val/clipfrac_avg")

    def __init__(self, steps: int, device: torch.device):
        self.sums = torch.zeros(steps, len(self.NAMES) + len(self.VALUE_NAMES) + 2, dtype=torch.float64, device=device)

    def add(self, step: int, token_terms: list[Tensor], value_terms: list[Tensor], mask: Tensor) -> None:
        """Add a micro-batch: `token_terms` (N,) each, none without a policy loss; `value_terms` (B, T) under mask."""
        if token_terms:
            self.sums[step, :5] += torch.stack([t.double().sum() for t in token_terms])
            self.sums[step, 7] += len(token_terms[0])
        self.sums[step, 5:7] += torch.stack([(t * mask).double().sum() for t in value_terms])
        self.sums[step, 8] += mask.sum()

    def epoch_kl(self, steps: slice, reduce) -> float:
        """Mean approxkl over some steps and all processes, nats a token."""
        sums = reduce(self.sums[steps].clone())
        return (sums[:, 0].sum() / sums[:, 7].sum().clamp(min=1)).item()

    def metrics(self, reduce) -> dict[str, float]:
        """TRL's names: the mean over steps of each step's mean over its tokens. Steps that did not run do not count."""
        sums = reduce(self.sums.clone())
        ran, learned = sums[:, 8] > 0, sums[:, 7] > 0
        out = {}
        if learned.any():
            means = sums[learned, :5] / sums[learned, 7:8]
            out = dict(zip(self.NAMES, means.mean(0).tolist(), strict=True))
            out["val/ratio_var"] = means[:, 4].var(correction=int(len(means) > 1)).item()
        if ran.any():
            means = sums[ran, 5:7] / sums[ran, 8:9]
            out |= dict(zip(self.VALUE_NAMES, means.mean(0).tolist(), strict=True))
        return out | {"ppo/optimizer_steps": float(ran.sum())}
