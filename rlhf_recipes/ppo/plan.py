"""Which episodes each optimizer step and each forward takes: the arithmetic of one PPO run."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor

from rlhf_recipes.errors import UserError
from rlhf_recipes.models.sharding import by_fsdp
from rlhf_recipes.ppo.config import PPOConfig

logger = logging.getLogger(__name__)

JOINED_BYTES = 2**28  # bytes of activations up to which small forwards are joined


@dataclass
class Plan:
    """Sizes in episodes, over all processes unless it says local.

    Args:
        batch_size: episodes a rollout, and so an update.
        mini_batch_size: episodes an optimizer step.
        micro_batch_size: episodes a forward, in one process; more where they are short, see `forwards`.
        micro_batches: forwards an optimizer step, in one process, at most.
        steps: optimizer steps an update.
        updates: updates in the run.
        world: processes; rank: this one.
        row_bytes: what a row of so many tokens leaves for the backward pass, about; None: forwards are never joined.
    """

    batch_size: int
    mini_batch_size: int
    micro_batch_size: int
    micro_batches: int
    steps: int
    updates: int
    epochs: int
    world: int = 1
    rank: int = 0
    row_bytes: Callable[[int], int] | None = None

    @property
    def local(self) -> slice:
        """The rows of a rollout that this process answers."""
        size = self.batch_size // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def forwards(self, lengths: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Every minibatch of an update, in order, and its rows as this process's forwards take them.

        A fresh permutation for each epoch. Inside a minibatch rows are dealt to processes and forwards by length, so
        that little padding is computed; the sum over the minibatch is the same whatever the order. Short rows are
        joined into larger forwards while these leave no more than JOINED_BYTES; alike in every process.

        Args:
            lengths: (batch_size,) prompt and completion tokens of each row.
            generator: seeded alike in every process.

        Yields:
            rows (mini_batch_size,) of all processes, and at most `micro_batches` tensors of rows of this one.
        """
        for _ in range(self.epochs):
            order = torch.randperm(self.batch_size, generator=generator)
            for minibatch in order.split(self.mini_batch_size):
                dealt = minibatch[lengths[minibatch].argsort(descending=True, stable=True)]
                longest = lengths[dealt[:: self.world]].tolist()  # of the processes' rows in this place
                mine, parts = dealt[self.rank :: self.world], []
                while len(mine):
                    row = self.row_bytes(longest[-len(mine)]) if self.row_bytes else 0
                    room = max(1, JOINED_BYTES // row) if row else 1
                    alike = math.ceil(len(mine) / math.ceil(len(mine) / room))  # no forward for one last row
                    size = max(self.micro_batch_size, alike)
                    parts.append(mine[:size])
                    mine = mine[size:]
                yield minibatch, parts


def activation_bytes(config, length: int) -> int:
    """Bytes that a row of `length` tokens leaves for the backward pass, about, in float32; 0 where nothing tells.

    A layer keeps a token's dozen vectors of the hidden size, three of the MLP's, and a row of attention a head.
    """
    config = config.get_text_config()
    layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    inner, heads = getattr(config, "intermediate_size", 4 * width), getattr(config, "num_attention_heads", 0)
    return 4 * layers * (12 * width + 3 * inner + length * heads) * length


def make_plan(args: PPOConfig, dataset_size: int, row_bytes: Callable[[int], int] | None = None) -> Plan:
    """The plan of a run.

    Args:
        row_bytes: what a row of so many tokens leaves for the backward pass, in policy and critic together.

    Raises:
        UserError: a rollout does not divide into num_mini_batches equal minibatches in each process.
    """
    world = PartialState().num_processes
    local = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if local % args.num_mini_batches:
        raise UserError(
            f"a rollout has {local} episodes a process (per_device_train_batch_size x gradient_accumulation_steps), "
            f"which num_mini_batches={args.num_mini_batches} does not divide; change one of the three"
        )
    local_mini = local // args.num_mini_batches
    micro = min(args.per_device_train_batch_size, local_mini)
    batch = local * world
    if args.max_steps > 0:
        updates = args.max_steps
    else:
        episodes = args.total_episodes or math.ceil(args.num_train_epochs * dataset_size)
        updates = math.ceil(episodes / batch)
        if args.total_episodes and updates * batch != args.total_episodes:
            logger.warning(
                "total_episodes=%d is not a multiple of the rollout of %d episodes: %d will be played",
                args.total_episodes,
                batch,
                updates * batch,
            )
    # DeepSpeed and FSDP synchronise processes at every forward: all run the same number of them
    every_forward_meets = by_fsdp(args) or PartialState().distributed_type == DistributedType.DEEPSPEED
    return Plan(
        batch_size=batch,
        mini_batch_size=local_mini * world,
        micro_batch_size=micro,
        micro_batches=math.ceil(local_mini / micro),
        steps=args.num_ppo_epochs * args.num_mini_batches,
        updates=updates,
        epochs=args.num_ppo_epochs,
        world=world,
        rank=PartialState().process_index,
        row_bytes=None if every_forward_meets else row_bytes,
    )


def trainer_arguments(args: PPOConfig, plan: Plan) -> PPOConfig:
    """A copy of the arguments in Trainer's unit: steps given in updates become optimizer steps.

    The fields that TRL fills in (`batch_size`, `num_total_batches` ...) are filled in as TRL does.
    """
    new = copy.copy(args)
    new.max_steps = plan.updates * plan.steps
    new.gradient_accumulation_steps = plan.micro_batches
    for name in ("logging_steps", "save_steps", "eval_steps"):
        value = getattr(args, name)
        if value is not None:
            updates = math.ceil(value * plan.updates) if 0 < value < 1 else int(value)
            setattr(new, name, updates * plan.steps)
    if args.eval_strategy == "steps":  # else it counts epochs
        new.eval_delay = args.eval_delay * plan.steps
    new.total_episodes = plan.updates * plan.batch_size
    new.num_total_batches = plan.updates
    new.world_size = plan.world  # TRL's field hides Trainer's property
    new.batch_size = plan.batch_size
    new.local_batch_size = plan.batch_size // plan.world
    new.micro_batch_size = args.per_device_train_batch_size * plan.world
    new.mini_batch_size = plan.mini_batch_size
    new.local_mini_batch_size = plan.mini_batch_size // plan.world
    return new
