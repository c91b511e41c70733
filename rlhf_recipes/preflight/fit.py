"""Settings that make a run smaller, each with the memory it would give: estimated again, not guessed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.paths import CONF
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import disk
from rlhf_recipes.preflight.phases import peak, phases
from rlhf_recipes.preflight.setting import Setting, settle
from rlhf_recipes.runs.artifacts import StageRun

MOST = 3


@dataclass(frozen=True)
class Way:
    """Overrides as they are typed, and the peak, or the room on disk, that they would give, bytes."""

    overrides: tuple[str, ...]
    bytes: float
    fits: bool


def ways(setting: Setting, run: StageRun) -> list[Way]:
    """Three ways to make a stage fit into memory; fewer where it has fewer settings that matter."""
    return _three(setting, run, _candidates(setting), _memory, setting.machine.free)


def disk_ways(setting: Setting, run: StageRun, steps: int | None, free: float) -> list[Way]:
    """Three ways to make what a stage writes fit on the disk."""
    return _three(setting, run, _disk_candidates(setting), lambda s: disk.needed(s, steps).total, free)


def _three(setting: Setting, run: StageRun, candidates: list[str], size_of: Callable, limit: float) -> list[Way]:
    """First the settings that are enough alone, those that change the result least before the others. Then two and
    three together, those that save most first; then what fits already with one more, for room. Where nothing is
    enough, the last way is everything at once.
    """
    before = size_of(setting)
    alone = {}
    for override in candidates:
        after = estimate(setting, run, (override,), size_of)
        if after is not None and after < before:
            alone[override] = after
    found = [Way((one,), size, True) for one, size in alone.items() if size <= limit][:MOST]
    best = sorted((one for one in alone if alone[one] > limit), key=alone.get)

    def add(overrides: tuple[str, ...], below: float) -> None:
        keys = [key for override in overrides for key in _keys(override)]
        told = any(set(way.overrides) <= set(overrides) for way in found if below == limit)
        if len(found) == MOST or len(set(keys)) < len(keys) or told:
            return
        after = estimate(setting, run, overrides, size_of)
        if after is not None and after <= below and all(set(way.overrides) != set(overrides) for way in found):
            found.append(Way(overrides, after, True))

    for several in (2, 3):
        for overrides in combinations(best[:7], several):
            add(overrides, limit)
    together, size = _everything(setting, run, sorted(alone, key=alone.get), size_of, before)
    if size <= limit:
        add(together, limit)
        for way in list(found):
            for override in alone:
                add((*way.overrides, override), way.bytes - 1)
    if not found:
        found = [Way((one,), alone[one], False) for one in best[: MOST - 1]]
        found += [Way(together, size, False)] if len(together) > 1 else []
    return found


def _everything(setting: Setting, run: StageRun, best: list[str], size_of: Callable, before: float) -> tuple:
    """Every override that still makes it smaller when the better ones are there, and the size that is left."""
    together: tuple[str, ...] = ()
    size = before
    for override in best:
        after = estimate(setting, run, (*together, override), size_of)
        if after is not None and after < size:
            together, size = (*together, override), after
    return together, size


def _keys(override: str) -> list[str]:
    return [word.partition("=")[0] for word in override.split()]


def largest(setting: Setting) -> float:
    """Parameters of a model that would fit, all else as it is: bytes beside the libraries follow its size. Rough."""
    top = peak(phases(setting)).total - setting.libraries
    network = setting.find("policy") or next(iter(setting.networks), None)
    room = setting.machine.free - setting.libraries
    return network.shape.parameters * room / top if network and room > 0 else 0.0


def _memory(setting: Setting) -> float:
    return peak(phases(setting)).total


def estimate(
    setting: Setting, run: StageRun, overrides: tuple[str, ...], size_of: Callable[[Setting], float] = _memory
) -> float | None:
    """Bytes with some settings changed, at the peak or as `size_of` has it; None where they do not go together."""
    cfg, other, rows = copy.deepcopy(setting.cfg), copy.copy(run), setting.rows
    other.inputs, other.cfg = dict(run.inputs), cfg
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
        return size_of(settle(cfg, other, rows, setting.machine, setting.tokenizer))
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
        return _lighter(setting)
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
    for length in ("max_length", "response_length", "max_completion_length"):
        if whole := getattr(args, length, None):
            found += [f"trainer.{length}={max(1, whole // part)}" for part in (2, 4)]
    if cfg.stage in ("ppo", "grpo") and rows.prompt > 64:
        found.append(f"data.max_prompt_length={rows.prompt // 2}")
    return [*found, "model.dtype=bfloat16"]


def _lighter(setting: Setting) -> list[str]:
    """Overrides to try for a stage that trains nothing. An export is made in float32, whatever is asked for."""
    cfg = setting.cfg
    match cfg.stage:
        case "collect" | "evaluate":
            own = cfg[cfg.stage]
            found = [f"{cfg.stage}.batch_size={n}" for n in dict.fromkeys((own.batch_size // 4, 1)) if n >= 1]
            found.append(f"{cfg.stage}.max_new_tokens={max(1, own.max_new_tokens // 2)}")
            return [*found, *_scored_at_once(setting), "model.dtype=bfloat16"]
        case "score":
            return [*_scored_at_once(setting), "model.dtype=bfloat16"]
        case "chat":
            asked = cfg.chat.models
            several = [] if isinstance(asked, str) or len(asked or ()) < 2 else [f"chat.models=[{asked[0]}]"]
            return [*several, "model.dtype=bfloat16"]
    return []


def _scored_at_once(setting: Setting) -> list[str]:
    names = [name for name, spec in (setting.cfg.reward.get("models") or {}).items() if spec is not None]
    return [f"reward.models.{name}.batch_size={n}" for name in names for n in (4, 1)]


def _disk_candidates(setting: Setting) -> list[str]:
    """Overrides that write less: first those that lose nothing but older checkpoints."""
    cfg, args = setting.cfg, setting.args
    if cfg.stage == "export":
        return ["export.dtype=bfloat16"] if cfg.export.dtype == "float32" else []
    if args is None:
        return []
    found = [f"trainer.save_total_limit={n}" for n in (2, 1) if n < (args.save_total_limit or 3)]
    found += ["trainer.save_only_model=true", "trainer.optim=adafactor"]
    found += [] if cfg.peft and "_target_" in cfg.peft else ["peft=lora"]
    return [*found, "trainer.save_strategy=no"]
