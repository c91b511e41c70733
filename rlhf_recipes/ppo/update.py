"""One update: how its rollout is cut into forwards, the loss of each, and what is measured on the way."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rlhf_recipes.ppo import core
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.experience import Experience
from rlhf_recipes.ppo.plan import Plan

TOKENS, VALUES = "tokens", "values"  # what the sums below are divided by: real tokens, and steps that have a value
# TRL's names of the metrics that are means over tokens, and over steps that have a value
METRICS = {
    TOKENS: ("policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "policy/entropy_avg", "val/ratio"),
    VALUES: ("loss/value_avg", "val/clipfrac_avg"),
}


@dataclass
class MicroBatch:
    """What one forward learns from.

    Args:
        rows: (b,) episodes of the rollout; none where its rows were joined to a later forward's.
        step: optimizer step of the update, from 0; first: whether it is the first of that step.
        place: which forward with rows, of `places`.
        tokens, values: true positions of mask and of value_mask in the whole minibatch, over all processes.
    """

    rows: Tensor
    step: int
    first: bool
    place: int
    places: int
    tokens: int
    values: int


def micro_batches(exp: Experience, plan: Plan, generator: torch.Generator) -> Iterator[MicroBatch]:
    """An update's forwards in this process, in order: `plan.micro_batches` a step, the joined ones last.

    Trainer synchronises processes at a step's last forward: that one always has rows.
    """
    tokens, values = exp.mask.sum(1).cpu(), exp.value_mask.sum(1).cpu()
    lengths = (exp.sequences.prompt_mask.sum(1) + exp.lengths).cpu()
    device = exp.mask.device
    for step, (minibatch, parts) in enumerate(plan.forwards(lengths, generator)):
        sizes = (len(parts), int(tokens[minibatch].sum()), int(values[minibatch].sum()))
        empty = plan.micro_batches - len(parts)
        for i in range(empty):
            yield MicroBatch(minibatch[:0].to(device), step, i == 0, 0, *sizes)
        for i, rows in enumerate(parts):
            yield MicroBatch(rows.to(device), step, i + empty == 0, i, *sizes)


def ppo_loss(
    model: nn.Module,
    exp: Experience,
    batch: MicroBatch,
    args: PPOConfig,
    world: int,
    learning: bool,
    corpus: tuple[Tensor, int] | None,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """L = mean_t L_clip - c_H mean_t H + c_V mean_t L_V + gamma L_lm        (arXiv:1707.06347 eq. 9)

    Args:
        model: an ActorCritic, as Trainer wrapped it.
        world: processes; DDP averages over them, so that sums are taken that many times.
        learning: false for the critic's loss only.
        corpus: token ids (C, L), -1 on padding, and the tokens of the minibatch's corpus rows; None for no mix.

    Returns:
        the loss (scalar), what the model returned, and the micro-batch's sums for StepStatistics.
    """
    rows = batch.rows[exp.mask[batch.rows].any(1)]
    if silent := not len(rows):  # a row that counts nothing: every process takes part in a step's last forward
        rows = batch.rows[:1]
    seq = exp.sequences[rows].trim()
    width = seq.mask.shape[1]
    per_token, per_value = 0.0 if silent else world / max(1, batch.tokens), world / max(1, batch.values)
    old, advantages = (x[rows][:, :width][seq.mask] for x in (exp.logprobs, exp.advantages))

    def terms(logp: Tensor, part: slice) -> Tensor:
        return core.clipped_policy_terms(logp, old[part], advantages[part], args.cliprange)[0] * per_token

    span = min(width + 1, exp.values.shape[1])
    out = model(
        seq,
        span,
        terms if learning else None,
        args.entropy_coef * per_token,
        None if corpus is None else corpus[0].to(seq.mask.device),
    )
    old_values, returns, mask = (x[rows][:, :span] for x in (exp.values, exp.returns, exp.value_mask))
    values = torch.where(mask, out["values"], 0.0)
    value_terms, value_clipped = core.clipped_value_terms(values, old_values, returns, args.cliprange_value)
    value_loss = (value_terms * mask).sum()
    loss = args.vf_coef * value_loss * per_value
    sums = {VALUES: mask.sum(), "loss/value_avg": value_loss.detach(), "val/clipfrac_avg": (value_clipped * mask).sum()}
    if learning:
        loss = loss + out["policy_loss"]
    if learning and not silent:
        policy_terms, clipped = core.clipped_policy_terms(out["logprobs"], old, advantages, args.cliprange)
        log_ratio = out["logprobs"] - old
        sums |= {
            TOKENS: seq.mask.sum(),
            "policy/approxkl_avg": 0.5 * log_ratio.double().square().sum(),
            "policy/clipfrac_avg": clipped.sum(),
            "loss/policy_avg": policy_terms.double().sum(),
            "policy/entropy_avg": out["entropies"].double().sum(),
            "val/ratio": log_ratio.exp().double().sum(),
        }
    if corpus is not None:
        loss = loss + args.ptx_coef * out["corpus_loss"] * world / corpus[1]
    return loss, out, sums


class StepStatistics:
    """Sums of each optimizer step of an update, so that a step's mean weighs all its tokens alike.

    Args:
        steps: optimizer steps an update.
        reduce: sums a tensor over processes.
    """

    def __init__(self, steps: int, device: torch.device, reduce: Callable[[Tensor], Tensor]):
        names = [*METRICS, *(name for several in METRICS.values() for name in several)]
        self.sums = {name: torch.zeros(steps, dtype=torch.float64, device=device) for name in names}
        self.reduce = reduce

    def add(self, step: int, sums: dict[str, Tensor]) -> None:
        """Add a micro-batch's sums to a step's."""
        for name, value in sums.items():
            self.sums[name][step] += value

    def _totals(self, steps: slice = slice(None)) -> dict[str, Tensor]:
        stacked = self.reduce(torch.stack([sums[steps] for sums in self.sums.values()]))
        return dict(zip(self.sums, stacked, strict=True))

    def epoch_kl(self, steps: slice) -> float:
        """Mean approxkl over some steps and all processes, nats a token."""
        totals = self._totals(steps)
        return (totals["policy/approxkl_avg"].sum() / totals[TOKENS].sum().clamp(min=1)).item()

    def metrics(self) -> dict[str, float]:
        """TRL's names: the mean over steps of each step's mean. Steps that did not run do not count."""
        totals, out = self._totals(), {}
        for counted, names in METRICS.items():
            ran = totals[counted] > 0
            for name in names if ran.any() else ():
                means = totals[name][ran] / totals[counted][ran]
                out[name] = means.mean().item()
                if name == "val/ratio":
                    out["val/ratio_var"] = means.var(correction=int(len(means) > 1)).item()
        return out | {"ppo/optimizer_steps": float((totals[VALUES] > 0).sum())}


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

    def stop_at(self, batch: MicroBatch, target_kl: float | None, steps_an_epoch: int) -> bool:
        """Whether an epoch of this update before the one `batch` belongs to or begins exceeded target_kl."""
        if target_kl is None or self.stopped:
            return self.stopped
        epoch, step = divmod(batch.step, steps_an_epoch)
        if epoch and step == 0 and batch.first:
            past = slice((epoch - 1) * steps_an_epoch, epoch * steps_an_epoch)
            self.stopped = self.statistics.epoch_kl(past) > target_kl
        return self.stopped

    def close(self, batch_size: int) -> dict[str, float]:
        """All metrics of the update, once its buffer is empty. batch_size: episodes of the rollout."""
        now = time.perf_counter()
        return (
            self.metrics
            | self.statistics.metrics()
            | {
                "policy/grad_norm": sum(self.norms) / max(1, len(self.norms)),
                "time/optimise": now - self.learned,
                "tokens_per_second": self.experience.lengths.sum().item() / (now - self.began),
                "eps": batch_size / (now - self.began),
                "lr": self.rate,
            }
        )


def mean_of(updates: list[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates that have it; `episode` is the last one's."""
    names = dict.fromkeys(name for update in updates for name in update)
    given = {name: [update[name] for update in updates if name in update] for name in names}
    return {name: sum(values) / len(values) for name, values in given.items()} | {"episode": updates[-1]["episode"]}
