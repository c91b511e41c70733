"""Settings that make a run smaller. Each is rehearsed again, so that nothing is guessed."""

import copy
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.adapters import trained
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.preflight.rehearsal import ANSWER

MOST = 3


def ways(words: list[str], size_of: Callable[[str], float | None], before: float, limit: float) -> list[tuple]:
    """At most three (overrides, bytes) that help: in their order those that fit, or else those that help most.

    Args:
        words: overrides to try. size_of: overrides -> bytes; None where the trainer refuses them.
        before: bytes as it is; limit: bytes there are.
    """
    helping = []
    for override in words:
        amount = size_of(override)
        if amount is not None and amount < before:
            helping.append((override, amount))
        if sum(amount <= limit for _, amount in helping) == MOST:
            break
    return [way for way in helping if way[1] <= limit] or sorted(helping, key=lambda way: way[1])[:MOST]


def changed(cfg: DictConfig, overrides: str) -> DictConfig:
    """The config with some settings changed, as at the shell."""
    cfg = copy.deepcopy(cfg)
    for key, _, value in (override.partition("=") for override in overrides.split()):
        if key == "peft":
            cfg.peft = OmegaConf.load(CONF / "peft" / "lora.yaml")
            cfg.model.update(OmegaConf.load(CONF / "peft" / "qlora.yaml").model if value == "qlora" else {})
        else:
            OmegaConf.update(cfg, key, OmegaConf.create(f"v: {value}").v, force_add=True)
    return cfg


def candidates(cfg: DictConfig, device: str) -> list[str]:
    """Overrides to try: first those that learn the same, then those that change what is learned."""
    node, at = (cfg.trainer, "trainer") if cfg.get("trainer") else (cfg.get(cfg.stage) or {}, cfg.stage)
    less = [f"{at}.{n}={node[n] // 4}" for n in ("batch_size", "max_length", *ANSWER) if (node.get(n) or 0) >= 4]
    if at != "trainer":
        return [*less, "model.dtype=bfloat16"]
    batch, often = node.get("per_device_train_batch_size", 8), node.get("gradient_accumulation_steps", 1)
    found = ["trainer.gradient_checkpointing=true"]
    for share in (n for n in (2, 8) if batch % n == 0):  # the batch of an optimizer step stays what it was
        words = f"trainer.per_device_train_batch_size={batch // share}"
        found.append(f"{words} trainer.gradient_accumulation_steps={often * share}")
    found += ["trainer.optim=adafactor"] if device == "cpu" else ["trainer.optim=paged_adamw_8bit"]
    found += [] if trained(cfg) else ["peft=lora"] if device == "cpu" else ["peft=lora", "peft=qlora"]
    found += ["inputs.value_model=none"] if cfg.inputs.get("value_model") else []
    return [*found, *less, "model.dtype=bfloat16"]
