"""Settings that make a run smaller, each with the memory it would give: estimated again, not guessed."""

import copy
from dataclasses import dataclass, replace

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.errors import UserError
from rlhf_recipes.paths import CONF
from rlhf_recipes.preflight.phases import peak, phases
from rlhf_recipes.preflight.setting import Setting, settle

MOST = 3


@dataclass(frozen=True)
class Way:
    """Overrides as they are typed, and the peak they would give, bytes."""

    overrides: tuple[str, ...]
    bytes: float
    fits: bool


def ways(setting: Setting, run: StageRun) -> list[Way]:
    """Three ways to make a stage fit.

    First the settings that are enough alone, those that change the result least before the others. Then several
    together, the one that saves most first. Where nothing is enough, the last way is everything at once.
    """
    before, limit = peak(phases(setting)).total, setting.machine.free
    alone = {}
    for override in _candidates(setting):
        after = estimate(setting, run, (override,))
        if after is not None and after < before:
            alone[override] = after
    found = [Way((one,), size, True) for one, size in alone.items() if size <= limit][:MOST]
    together: tuple[str, ...] = ()
    size = before
    for override in sorted(alone, key=alone.get):
        if len(found) == MOST:
            break
        after = estimate(setting, run, (*together, override))
        if after is None or after >= size:
            continue
        together, size = (*together, override), after
        if len(together) > 1 and size <= limit:
            found.append(Way(together, size, True))
    if not found:
        found = [Way((one,), alone[one], False) for one in sorted(alone, key=alone.get)[: MOST - 1]]
        found += [Way(together, size, size <= limit)] if len(together) > 1 else []
    return found


def estimate(setting: Setting, run: StageRun, overrides: tuple[str, ...]) -> float | None:
    """Peak bytes with some settings changed; None where they do not go together."""
    cfg, other, rows = copy.deepcopy(setting.cfg), copy.copy(run), setting.rows
    other.inputs = dict(run.inputs)
    for override in " ".join(overrides).split():
        key, _, value = override.partition("=")
        if key == "peft":
            _choose_adapter(cfg, value)
        elif key == "inputs.value_model":
            other.inputs.pop("value_model")
        else:
            OmegaConf.update(cfg, key, OmegaConf.create(f"v: {value}").v, force_add=True)
        if key == "data.max_prompt_length":
            rows = replace(rows, prompt=min(rows.prompt, int(value)))
    try:
        return peak(phases(settle(cfg, other, rows, setting.machine, setting.tokenizer))).total
    except (UserError, ValueError):  # two settings that the trainer refuses together
        return None


def _choose_adapter(cfg: DictConfig, name: str) -> None:
    """What `peft=lora` or `peft=qlora` puts into a composed config."""
    cfg.peft = OmegaConf.load(CONF / "peft" / "lora.yaml")
    if name == "qlora":
        cfg.model.quantization = OmegaConf.load(CONF / "peft" / "qlora.yaml").model.quantization


def _candidates(setting: Setting) -> list[str]:
    """Overrides to try: first those that learn the same, then those that change what is learned."""
    cfg, args, rows = setting.cfg, setting.args, setting.rows
    if args is None:
        own = cfg.get(cfg.stage) or {}
        size = own.get("batch_size") or 1
        return [f"{cfg.stage}.batch_size={n}" for n in (size // 4, 1) if n >= 1] + ["model.dtype=bfloat16"]
    found = []
    if not args.gradient_checkpointing:
        found.append("trainer.gradient_checkpointing=true")
    batch, often = args.per_device_train_batch_size, args.gradient_accumulation_steps
    for less in dict.fromkeys((batch // 2, batch // 8, 1)):
        if 1 <= less < batch and batch % less == 0:  # the batch an optimizer step sees stays what it was
            more = often * batch // less
            found.append(f"trainer.per_device_train_batch_size={less} trainer.gradient_accumulation_steps={more}")
    if cfg.stage == "ppo":
        at_once = args.local_rollout_forward_batch_size
        found += [f"trainer.local_rollout_forward_batch_size={n}" for n in (at_once // 4,) if n >= 1]
    full = not (cfg.peft and "_target_" in cfg.peft)
    if setting.machine.device == "cuda":
        found.append("trainer.optim=paged_adamw_8bit")
    found.append("trainer.optim=adafactor")
    if full:
        found += ["peft=lora", *(["peft=qlora"] if setting.machine.device == "cuda" else [])]
    if cfg.stage == "ppo" and setting.find("critic") is not None:
        found.append("inputs.value_model=none")
    if getattr(args, "max_length", None):
        found.append(f"trainer.max_length={args.max_length // 2}")
    if cfg.stage == "ppo":
        found.append(f"trainer.response_length={max(1, args.response_length // 2)}")
    if cfg.stage == "grpo":
        found.append(f"trainer.max_completion_length={max(1, args.max_completion_length // 2)}")
    if cfg.stage in ("ppo", "grpo") and rows.prompt > 64:
        found.append(f"data.max_prompt_length={rows.prompt // 2}")
    return [*found, "model.dtype=bfloat16"]
