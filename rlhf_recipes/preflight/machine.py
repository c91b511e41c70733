"""What this machine has, and what a stage's models take of it at least: both cost no time to know."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from omegaconf import DictConfig, OmegaConf
from peft import inject_adapter_in_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.modeling_utils import set_zero3_state

from rlhf_recipes.config.adapters import trained
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import bottom_of
from rlhf_recipes.models.pretrained import from_hub
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import peft_config

KERNELS = 60e6  # bytes that come with the first real product on a CPU: the kernels' code and their own buffers
CUDA_CONTEXT = 0.5e9  # bytes a GPU loses to the driver and kernels of one process, beside what torch allocates
# Optimizer state for each byte of a trained float32 parameter, by transformers' names; Adam's two moments otherwise.
STATES = {"adafactor": 0, "sgd": 0, "rmsprop": 1, "adagrad": 1, "lion_32bit": 1, "lion_8bit": 0.25, "adamw_8bit": 0.5}


class Machine(NamedTuple):
    """`device` ("cpu" or "cuda"), its name for the screen, and the bytes this process can have, its own included."""

    device: str
    name: str
    free: float

    @property
    def libraries(self) -> float:
        """Bytes a process holds beside tensors: this one's own, and KERNELS; 0 on a GPU."""
        return psutil.Process().memory_info().rss + KERNELS if self.device == "cpu" else 0.0


def this_machine(cfg: DictConfig) -> Machine:
    """The first GPU where there is one and the stage uses it, else RAM; as if `preflight_gb` were free, where given.

    Raises:
        UserError: preflight_gb is not above 0.
    """
    device = "cuda" if torch.cuda.is_available() and cfg.stage != "export" else "cpu"  # an export is made in RAM
    if (limit := cfg.preflight_gb) is not None:
        if not limit > 0:
            raise UserError(f"preflight_gb={limit}: expected gigabytes above 0, or null for what this machine has")
        return Machine(device, f"preflight_gb={limit:g}", limit * 1e9)
    if device == "cuda":
        return Machine(device, torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] - CUDA_CONTEXT)
    return Machine(device, "RAM", available() + psutil.Process().memory_info().rss)


def available(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Available RAM, bytes: the machine's, or the control group's where that has less (containers)."""
    free = float(psutil.virtual_memory().available)
    try:
        limit, used = (float((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group; `max` is no limit
        return free
    return min(free, max(0.0, limit - used))


def least(cfg: DictConfig, run: StageRun, device: str) -> dict[str, float]:
    """{part: bytes} that a stage holds for certain: weights, gradients, optimizer state.

    Raises:
        UserError: a model's config cannot be read.
    """
    node, trains, parts = cfg.model, run.stage.learns_from is not None, Counter()
    heads = {"value_model": "critic", "reward_model": "reward"}  # by input, what it is in memory
    policies = [entry["path"] for name, entry in run.inputs.items() if name not in heads] or [None]
    networks = [("policy", policies[0]), *((heads[n], entry["path"]) for n, entry in run.inputs.items() if n in heads)]
    for part, path in networks:
        learns, head = trains and part != "reward", part != "policy" or run.stage.makes == "reward_model"
        network = _on_meta(cfg, path, head, learns and trained(cfg))
        width = 4 if node.dtype == "auto" else getattr(torch, node.dtype).itemsize
        if node.dtype == "auto" and not learns and device == "cuda":
            width = (network.config.dtype or torch.float32).itemsize
        if node.quantization and part != "reward":
            width = (4 if node.quantization.get("load_in_4bit") else 8) * 9 / 64
        parts[part] += width * sum(p.numel() for p in network.parameters())
        if learns:
            state = STATES.get(str(cfg.trainer.get("optim")).removeprefix("paged_"), 2)
            gradients = sum(p.numel() for p in network.parameters() if p.requires_grad) * (4 if trained(cfg) else width)
            parts.update(gradients=gradients, optimizer=gradients * state)
    return dict(parts)


def _on_meta(cfg: DictConfig, path: str | None, head: bool, adapter: bool):
    """A model without memory, with the adapter that is to be trained."""
    if path is None:
        fields = OmegaConf.to_container(cfg.model.init) | {"vocab_size": cfg.model.tokenizer_init.vocab_size}
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    else:
        more = {"num_labels": 1} if head else {"revision": cfg.model.revision}
        config = from_hub(AutoConfig, bottom_of(path), trust_remote_code=cfg.model.trust_remote_code, **more)
    cls = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    with torch.device("meta"), set_zero3_state():  # under ZeRO-3 it would meet with processes that do not estimate
        network = cls.from_config(config, trust_remote_code=cfg.model.trust_remote_code)
        if adapter:
            inject_adapter_in_model(peft_config(cfg, "SEQ_CLS" if head else "CAUSAL_LM"), network)
    return network
