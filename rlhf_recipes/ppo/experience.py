"""What a rollout leaves for the PPO epochs: rewards, advantages and returns of every episode."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_recipes.engine.sequences import Sequences
from rlhf_recipes.ppo import core
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.rollout import Episodes


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
        learned = self.value_mask.any(1)  # a row that is left out of the losses is left out here
        learned = learned if learned.any() else ~learned
        kl, scores = self.kl[learned].sum(1), self.scores[learned]
        penalty = -self.kl_coef * kl.mean()
        stops = torch.isin(self.sequences.completion_ids, torch.tensor(stop_ids, device=self.mask.device)) & self.mask
        metrics = {
            "objective/kl": kl.mean(),
            "objective/entropy": -self.logprobs[learned].sum(1).mean(),
            "objective/non_score_reward": penalty,
            "objective/rlhf_reward": penalty + scores.mean(),
            "objective/scores": scores.mean(),
            "objective/scores_std": scores.std(correction=0),
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


class ScoreScale:
    """Mean and standard deviation of scores, and scores measured in them.

        kind "none": s        "running": (s - mean) / std over every score so far
        "reference": the same over the first rollout only, which the starting policy wrote: it scores mean 0, variance 1

    Example:
        >>> scale = ScoreScale("reference")
        >>> scale([1.0, 3.0]), scale([5.0])
        ([-1.0, 1.0], [3.0])

    Source: Stiennon et al. 2020, arXiv:2009.01325 appendix C (reward models shifted to mean 0 on the reference).
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: sum of squared deviations from the mean

    def __call__(self, scores: list[float]) -> list[float]:
        """Take the scores of a rollout (NaN: no score) into the statistics, then return them on the scale."""
        if self.kind == "none":
            return scores
        if self.kind == "running" or self.count == 0:
            for score in filter(math.isfinite, scores):  # Welford
                self.count += 1
                before = score - self.mean
                self.mean += before / self.count
                self.squares += before * (score - self.mean)
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return [(score - self.mean) / (std or 1.0) for score in scores]

    def state_dict(self) -> dict:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


def make_experience(played: Episodes, args: PPOConfig) -> Experience:
    """Rewards, advantages and returns from what was sampled, scored and valued.

    Args:
        played: all processes' episodes, their scores on the run's scale. A row without a finite score is left out of
            every loss, of both whitenings and of the objective's metrics.
        args: kl_coef, reward_clip, length_penalty, missing_eos_penalty, whiten_rewards, gamma, lam.
    """
    lengths = played.sequences.mask.sum(1)
    scored = played.scores.isfinite()
    mask, value_mask = (m & scored[:, None] for m in core.length_masks(lengths, played.sequences.mask.shape[1]))
    scores = torch.where(scored, played.scores, 0.0)
    if args.reward_clip is not None:
        scores = scores.clamp(-args.reward_clip, args.reward_clip)
    if args.length_penalty:
        scores = scores - args.length_penalty * lengths
    if args.missing_eos_penalty is not None:
        scores = scores - args.missing_eos_penalty * (~played.finished).float()
    values = torch.where(value_mask, played.values, 0.0)
    rewards = core.token_rewards(scores, played.kl, args.kl_coef, lengths)
    if args.whiten_rewards:
        rewards = core.masked_whiten(rewards, value_mask, shift_mean=False)
    advantages, returns = core.gae(rewards, values, args.gamma, args.lam)
    return Experience(
        sequences=played.sequences,
        lengths=lengths,
        finished=played.finished,
        scores=scores,
        logprobs=played.logprobs,
        kl=played.kl,
        values=values,
        rewards=rewards,
        advantages=core.masked_whiten(advantages, mask),
        returns=returns,
        mask=mask,
        value_mask=value_mask,
        kl_coef=args.kl_coef,
    )
