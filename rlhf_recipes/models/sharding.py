"""Weights that FSDP2 shares out among the processes: whole where they are read outside a training step."""

import os
from contextlib import contextmanager

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments


def by_fsdp(args: TrainingArguments) -> bool:
    """Whether the launch file or the trainer's own fields ask for FSDP."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


@contextmanager
def whole(module: nn.Module, accelerator: Accelerator):
    """Gather a module's parameters once, instead of at every forward; nothing where they are not shared out.

    Inside, processes may run different numbers of forwards, of any part of the module. Every process has to enter.
    """
    shards = [m for m in module.modules() if isinstance(m, FSDPModule)]
    if not shards:
        yield
        return
    # FSDP takes the first module that runs for the root: a layer, were a rollout played before the first training step
    module._get_fsdp_state()._lazy_init()
    module.set_reshard_after_forward(False)
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        module.set_reshard_after_forward(bool(accelerator.state.fsdp_plugin.reshard_after_forward))
        module.set_reshard_after_forward(False, recurse=False)  # FSDP's own rule for the root
        for shard in shards:
            shard.reshard()


def weights(module: nn.Module, accelerator: Accelerator) -> dict[str, Tensor]:
    """A module's whole state by name; where it is shared out, in the first process only. Every process has to ask."""
    return accelerator.get_state_dict(module) if isinstance(module, FSDPModule) else module.state_dict()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A parameter, gathered where it is shared out. Every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
