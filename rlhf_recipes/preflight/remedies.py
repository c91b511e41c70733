"""Settings that make a run smaller, each with what it would take: rehearsed again, not guessed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.paths import CONF
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight.rehearsal import Rehearsal
from rlhf_recipes.runs.artifacts import StageRun

MOST = 3


@dataclass(frozen=True)
class Way:
    """Overrides as they are typed, and the bytes that they would give."""

    overrides: str
    bytes: float
    fits: bool


def ways(candidates: list[str], size_of: Callable[[str], float | None], before: float, limit: float) -> list[Way]:
    """At most three ways out, in the order of the candidates: those that are enough alone.

    Where none is, the two that help most alone, and the best ones together: as few as are enough, else all that help.

    Args:
        size_of: overrides -> bytes; None where the trainer refuses them.
        before: bytes as it is; limit: bytes there are.
    """
    alone: dict[str, float] = {}
    for override in candidates:
        size = size_of(override)
        if size is not None and size < before:
            alone[override] = size
        if sum(size <= limit for size in alone.values()) == MOST:
            break
    enough = [Way(override, size, True) for override, size in alone.items() if size <= limit]
    if enough or not alone:
        return enough
    best = sorted(alone, key=alone.get)
    chosen = {override.split("=")[0]: override for override in reversed(best)}  # of one setting the best value
    together = list(accumulate(sorted(chosen.values(), key=alone.get), lambda a, b: f"{a} {b}"))[1:]
    found = [Way(override, alone[override], False) for override in best[: MOST - 1]]
    smallest = min(alone.values())
    for overrides in together:
        size = size_of(overrides)
        if size is not None and size < smallest:
            smallest, last = size, Way(overrides, size, size <= limit)
            if last.fits:
                return [last]
            found = [*found[: MOST - 1], last]
    return found


def changed(cfg: DictConfig, run: StageRun, overrides: str) -> tuple[DictConfig, StageRun]:
    """The config and the run with some settings changed, as at the shell."""
    cfg, run = copy.deepcopy(cfg), copy.copy(run)
    run.inputs, run.cfg = dict(run.inputs), cfg
    for override in overrides.split():
        key, _, value = override.partition("=")
        if key == "peft":
            cfg.peft = OmegaConf.load(CONF / "peft" / "lora.yaml")
            if value == "qlora":
                cfg.model.quantization = OmegaConf.load(CONF / "peft" / "qlora.yaml").model.quantization
        elif key == "inputs.value_model":
            run.inputs.pop("value_model")
        else:
            OmegaConf.update(cfg, key, OmegaConf.create(f"v: {value}").v, force_add=True)
    return cfg, run


def sizer(cfg: DictConfig, run: StageRun, rehearse: Callable[[DictConfig, StageRun], Rehearsal]):
    """overrides -> bytes of tensors at the peak of a rehearsal with them."""

    def size_of(overrides: str) -> float | None:
        try:
            return rehearse(*changed(cfg, run, overrides)).ledger.peak
        except (UserError, ValueError):  # two settings that the trainer refuses together
            return None

    return size_of


def candidates(cfg: DictConfig, args, seen: Rehearsal, device: str) -> list[str]:
    """Overrides to try: first those that learn the same, then those that change what is learned."""
    own = cfg.get(cfg.stage) or {}
    if args is None:
        found = [f"{cfg.stage}.batch_size={n}" for n in dict.fromkeys((own.get("batch_size", 1) // 4, 1)) if n >= 1]
        found = found if "batch_size" in own else []
        if "max_new_tokens" in own and cfg.stage != "chat":
            found.append(f"{cfg.stage}.max_new_tokens={max(1, own.max_new_tokens // 2)}")
        if cfg.stage == "chat" and not isinstance(own.models, str) and len(own.models or ()) > 1:
            found.append(f"chat.models=[{own.models[0]}]")
        names = [name for name, spec in ((cfg.get("reward") or {}).get("models") or {}).items() if spec is not None]
        found += [f"reward.models.{name}.batch_size={n}" for name in names for n in (4, 1)]
        return [] if cfg.stage == "export" else [*found, "model.dtype=bfloat16"]  # an export is made in float32
    found = [] if args.gradient_checkpointing else ["trainer.gradient_checkpointing=true"]
    batch, often = args.per_device_train_batch_size, args.gradient_accumulation_steps
    for less in dict.fromkeys((batch // 2, batch // 8, 1)):
        if 1 <= less < batch and batch % less == 0:  # the batch an optimizer step sees stays what it was
            more = often * batch // less
            found.append(f"trainer.per_device_train_batch_size={less} trainer.gradient_accumulation_steps={more}")
    if at_once := getattr(args, "local_rollout_forward_batch_size", 0) // 4:
        found.append(f"trainer.local_rollout_forward_batch_size={at_once}")
    found += ["trainer.optim=paged_adamw_8bit"] if device == "cuda" else []
    found.append("trainer.optim=adafactor")
    if not (cfg.peft and "_target_" in cfg.peft):
        found += ["peft=lora", *(["peft=qlora"] if device == "cuda" else [])]
    if "critic" in seen.models and cfg.inputs.get("value_model"):
        found.append("inputs.value_model=none")
    for length in ("max_length", "response_length", "max_completion_length"):
        if whole := getattr(args, length, None):
            found += [f"trainer.{length}={max(1, whole // part)}" for part in (2, 4)]
    return [*found, "model.dtype=bfloat16"]
