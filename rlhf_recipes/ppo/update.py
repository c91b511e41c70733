"""One update under way: its rollout, the forwards still to come, and what was measured so far."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_recipes.ppo.experience import Experience
from rlhf_recipes.ppo.loss import MicroBatch, Terms
from rlhf_recipes.ppo.plan import Plan


class StepStatistics:
    """Sums over the tokens of each optimizer step of an update, averaged without weighting micro-batches alike.

    Args:
        steps: optimizer steps an update.
    """

    NAMES = ("policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "policy/entropy_avg", "val/ratio")
    VALUE_NAMES = ("loss/value_avg", "val/clipfrac_avg")

    def __init__(self, steps: int, device: torch.device):
        self.sums = torch.zeros(steps, len(self.NAMES) + len(self.VALUE_NAMES) + 2, dtype=torch.float64, device=device)

    def add(self, step: int, terms: Terms) -> None:
        """Add a micro-batch to a step's sums."""
        if terms.tokens:
            self.sums[step, :5] += torch.stack([t.double().sum() for t in terms.tokens])
            self.sums[step, 7] += len(terms.tokens[0])
        self.sums[step, 5:7] += torch.stack([(t * terms.mask).double().sum() for t in terms.values])
        self.sums[step, 8] += terms.mask.sum()

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


@dataclass
class Update:
    """The update under way.

    Args:
        experience: its rollout; metrics: what the rollout measured.
        buffer: forwards still to come.
        statistics: of the steps so far.
        rate: the policy's learning rate.
        began: clock reading before the rollout; learned: after it.
        rows: episodes that the optimizer step under way has learned from so far, in this process.
        norms: gradient norms of the steps taken.
        stopped: target_kl was exceeded; the rest of the forwards is passed over.
    """

    experience: Experience
    metrics: dict[str, float]
    buffer: deque[MicroBatch]
    statistics: StepStatistics
    rate: float
    began: float
    learned: float = field(default_factory=time.perf_counter)
    rows: list[Tensor] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    stopped: bool = False

    def stop_at(self, batch: MicroBatch, target_kl: float | None, steps_an_epoch: int, reduce: Callable) -> bool:
        """Whether an epoch of this update before the one `batch` belongs to or begins exceeded target_kl.

        Args:
            reduce: sums a tensor over processes. Called at the beginning of an epoch only.
        """
        if target_kl is None or self.stopped:
            return self.stopped
        epoch, step = divmod(batch.step, steps_an_epoch)
        if epoch and step == 0 and batch.first:
            past = slice((epoch - 1) * steps_an_epoch, epoch * steps_an_epoch)
            self.stopped = self.statistics.epoch_kl(past, reduce) > target_kl
        return self.stopped

    def close(self, plan: Plan, reduce: Callable) -> dict[str, float]:
        """All metrics of the update, once its buffer is empty."""
        now = time.perf_counter()
        measured = self.metrics | self.statistics.metrics(reduce)
        return measured | {
            "policy/grad_norm": sum(self.norms) / max(1, len(self.norms)),
            "time/optimise": now - self.learned,
            "tokens_per_second": self.experience.lengths.sum().item() / (now - self.began),
            "eps": plan.batch_size / (now - self.began),
            "lr": self.rate,
        }


def mean_of(updates: list[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates that have it; `episode` is the last one's."""
    names = dict.fromkeys(name for update in updates for name in update)
    given = {name: [update[name] for update in updates if name in update] for name in names}
    return {name: sum(values) / len(values) for name, values in given.items()} | {"episode": updates[-1]["episode"]}
