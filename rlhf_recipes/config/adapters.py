"""What `peft=` brings with it and needs no model to be known: LoRA's learning rate, and what cannot be trained."""

from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.errors import UserError

_REFUSED = ("corda", "eva", "loftq")


def tenfold_with_lora(rate: float, *, _root_: DictConfig) -> float:
    """`${tenfold_with_lora:2.0e-5}` in a YAML: that rate for all weights, and ten times it where an adapter is trained.

    LoRA's best rate is about ten times that of full fine-tuning, whatever the model and task (Schulman et al. 2025,
    «LoRA Without Regret»; TRL's documentation has the same factor for sft, dpo and grpo).
    """
    return float(f"{float(rate) * (10 if trained(_root_) else 1):.12g}")


OmegaConf.register_new_resolver("tenfold_with_lora", tenfold_with_lora, replace=True)


def trained(cfg: DictConfig) -> bool:
    """Whether `peft` names an adapter."""
    return bool(cfg.get("peft") and "_target_" in cfg.peft)


def learning_rate(cfg: DictConfig) -> str | None:
    """The line for the screen where the stage's rates, and no person's or recipe's, were made LoRA's; else None."""
    given = OmegaConf.to_container(cfg.trainer)
    names = [name for name, value in given.items() if "tenfold_with_lora" in str(value)]
    if not trained(cfg) or not names:
        return None
    rates = " and ".join(f"{name} {cfg.trainer[name]:g}" for name in names)
    return f"{rates}, ten times that for all weights, because an adapter is trained; trainer.{names[0]}=… sets another"


def check(cfg: DictConfig) -> None:
    """Raise UserError for an adapter, or a base in 4 bits, that this stage or this machine cannot train."""
    init = str((cfg.peft or {}).get("init_lora_weights", True)).lower()
    if init.startswith(_REFUSED):
        raise UserError(
            f"peft.init_lora_weights={init} needs a pass over data or a quantisation of its own before training, which "
            "no stage makes; expected true, gaussian, orthogonal, pissa or olora"
        )
    if not cfg.model.quantization:
        return
    if not trained(cfg):
        raise UserError("model.quantization: weights in 4 or 8 bits cannot be trained, only an adapter; use peft=qlora")
    if init.startswith(("pissa", "olora")):
        raise UserError(
            f"peft.init_lora_weights={init} changes the base, which peft=qlora keeps in 4 bits; use peft=lora"
        )
    if not find_spec("bitsandbytes"):
        raise UserError("peft=qlora needs bitsandbytes: pip install 'rlhf-recipes[qlora]'")
    import torch  # seconds, and only where a base in 4 bits is asked for

    if not torch.cuda.is_available():
        raise UserError("peft=qlora keeps the base in 4 bits, which needs a GPU; expected CUDA, use peft=lora here")
