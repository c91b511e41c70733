"""The loss of one micro-batch, as its share of the minibatch's mean over tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_recipes.ppo import core
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.experience import Experience
from rlhf_recipes.ppo.plan import Plan


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


@dataclass
class Terms:
    """A micro-batch's terms for the statistics, without gradient: (N,) a token, and (B, T) a step under `mask`."""

    tokens: list[Tensor]
    values: list[Tensor]
    mask: Tensor


def ppo_loss(
    model: nn.Module,
    exp: Experience,
    batch: MicroBatch,
    args: PPOConfig,
    world: int,
    learning: bool,
    corpus: tuple[Tensor, int] | None,
) -> tuple[Tensor, dict[str, Tensor], Terms]:
    """L = mean_t L_clip - c_H mean_t H + c_V mean_t L_V + gamma L_lm        (arXiv:1707.06347 eq. 9)

    Args:
        model: an ActorCritic, as Trainer wrapped it.
        world: processes; DDP averages over them, so that sums are taken that many times.
        learning: false for the critic's loss only.
        corpus: token ids (C, L), -1 on padding, and the tokens of the minibatch's corpus rows; None for no mix.

    Returns:
        the loss (scalar), what the model returned, and terms for the statistics.
    """
    rows = batch.rows[exp.mask[batch.rows].any(1)]
    if silent := not len(rows):  # a row that counts nothing: every process takes part in a step's last forward
        rows = batch.rows[:1]
    seq = exp.sequences[rows].trim()
    width = seq.mask.shape[1]
    per_token, per_step = 0.0 if silent else world / max(1, batch.tokens), world / max(1, batch.values)
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
    loss = args.vf_coef * (value_terms * mask).sum() * per_step
    token_terms = []
    if learning:
        loss = loss + out["policy_loss"]
    if learning and not silent:
        policy_terms, clipped = core.clipped_policy_terms(out["logprobs"], old, advantages, args.cliprange)
        log_ratio = out["logprobs"] - old
        token_terms = [0.5 * log_ratio**2, clipped, policy_terms, out["entropies"], log_ratio.exp()]
    if corpus is not None:
        loss = loss + args.ptx_coef * out["corpus_loss"] * world / corpus[1]
    return loss, out, Terms(token_terms, [value_terms.detach(), value_clipped], mask)
