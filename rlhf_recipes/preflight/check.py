"""`preflight=true`: everything that can be known before the hours are spent; and the brief form of it."""

import sys
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import disk, fit, scores, screen, tokens
from rlhf_recipes.preflight import rows as lengths
from rlhf_recipes.preflight.machine import Machine, free_disk, resident, this_machine
from rlhf_recipes.preflight.phases import peak, phases
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.setting import Setting, language_model, quiet_arguments, settle

SCORED = ("ppo", "grpo", "collect", "evaluate", "score")  # stages that read the reward signal


def run(cfg: DictConfig, stage_run: StageRun, machine: Machine | None = None) -> dict:
    """Say what the stage will load, train, cut and write, and whether it fits. Writes nothing.

    Args:
        cfg: the checked config.
        stage_run: with its inputs resolved.
        machine: None for this one, or as much as `preflight_gb` says.

    Raises:
        SystemExit: code 1, when it will not fit.
        UserError: bad input, as the stage itself would meet it.
    """
    print(f"preflight of stage={cfg.stage}: nothing is trained, nothing is written")
    tokenizer, weight = _tokenizer(cfg, stage_run)
    loaded = _load(cfg, stage_run, tokenizer)
    rows = _rows(cfg, loaded, tokenizer)
    machine = machine or this_machine(cfg.preflight_gb)
    setting = settle(cfg, stage_run, rows, machine, weight)
    found = phases(setting)
    print("\n".join(screen.models(setting) or ["  no model is loaded"]))
    print("\n".join(screen.table(found)))
    if loaded is not None:
        print(f"  rows of up to {rows.whole} tokens, prompts of up to {rows.prompt} ({rows.seen} looked at)")
        print(f"rows: {loaded.describe()}")
    for finding in _tokens(cfg, stage_run, setting, tokenizer):
        print(f"{'WRONG ' if finding.wrong else ''}{finding.text}")
    disk_fits = _say_disk(cfg, setting, loaded)
    fits = peak(found).total <= machine.free
    if cfg.stage in SCORED and fits:
        print(scores.told_apart(cfg, stage_run))
    if setting.args is not None:
        print("time: told after the first steps of the run")
    print(screen.verdict(peak(found).total, machine) + ("" if disk_fits else "; THE DISK WILL NOT HOLD IT"))
    if not fits:
        print("\n".join(screen.remedies(fit.ways(setting, stage_run))))
    if not (fits and disk_fits):
        sys.exit(1)
    return {}


def brief(cfg: DictConfig, stage_run: StageRun, machine: Machine | None = None) -> float | None:
    """One or two lines at the start of a training stage; returns the estimate in MB (10^6 bytes), for summary.json.

    The stage goes on whatever is found here: what is wrong with its input it will say itself.
    """
    try:
        tokenizer, weight = _tokenizer(cfg, stage_run)
        rows = _sampled(cfg, stage_run, tokenizer)
        machine = machine or this_machine(cfg.preflight_gb)
        setting = settle(cfg, stage_run, rows, machine, weight)
        found = phases(setting)
    except (UserError, ValueError, AttributeError) as error:
        print(f"preflight: no estimate of the memory ({str(error).splitlines()[0]})")
        return None
    top = peak(found)
    parts = ", ".join(f"{name} {screen.size(amount)}" for name, amount in top.parts.items() if amount)
    print(f"preflight: {screen.size(top.total)} at the peak ({top.name}: {parts}); {screen.size(machine.free)} free")
    if top.total > machine.free:
        print("preflight: THIS WILL NOT FIT; the same command with preflight=true says what would")
    return round(top.total / 1e6, 1)


def _tokenizer(cfg: DictConfig, run: StageRun) -> tuple:
    """The policy's tokenizer and the bytes it takes; None where there is none yet or none is needed."""
    path, before = language_model(run), resident()
    tokenizer = models.load_tokenizer(cfg.model, path) if path else None
    return tokenizer, max(0.0, resident() - before)


def _kind(cfg: DictConfig) -> str | None:
    return next(iter(cfg.needs), None)


def _answer(cfg: DictConfig, run: StageRun) -> int | None:
    """Tokens of an answer, for stages that write them."""
    if cfg.stage in ("collect", "evaluate"):
        return cfg[cfg.stage].max_new_tokens
    args = quiet_arguments(cfg, run) if cfg.trainer is not None else None
    return getattr(args, "response_length", None) or getattr(args, "max_completion_length", None)


def _load(cfg: DictConfig, run: StageRun, tokenizer) -> data.Split | None:
    """The stage's rows, cut and dropped as the stage will cut and drop them."""
    if _kind(cfg) is None:
        return None
    limits = {}
    if tokenizer is not None and _kind(cfg) == "prompts":
        limits["max_prompt_length"] = models.room_for_prompt(cfg, language_model(run), _answer(cfg, run))
    elif tokenizer is not None and cfg.trainer is not None:
        limits["max_length"] = quiet_arguments(cfg, run).max_length
    return data.load(cfg.data, _kind(cfg), tokenizer=tokenizer, seed=cfg.seed, stage=cfg.stage, **limits)


def _rows(cfg: DictConfig, loaded: data.Split | None, tokenizer) -> Rows:
    if loaded is None or tokenizer is None:
        return _unknown(cfg)
    kept = loaded.train
    return lengths.measure([kept[i] for i in range(min(len(kept), lengths.MANY))], _kind(cfg), tokenizer)


def _unknown(cfg: DictConfig) -> Rows:
    """Rows nobody has measured are as long as they may be."""
    longest = int((cfg.trainer or {}).get("max_length") or 1024)
    return Rows(longest, longest, 0)


def _sampled(cfg: DictConfig, run: StageRun, tokenizer) -> Rows:
    """How long rows are, from the first of them."""
    if tokenizer is None or _kind(cfg) is None:
        return _unknown(cfg)
    found = lengths.sample(cfg.data, _kind(cfg), tokenizer, cfg.seed)
    room = None
    if _kind(cfg) == "prompts":
        room = models.room_for_prompt(cfg, language_model(run), _answer(cfg, run))
    return found if room is None else Rows(min(found.prompt, room), found.whole, found.seen)


def _tokens(cfg: DictConfig, run: StageRun, setting: Setting, tokenizer) -> list[tokens.Finding]:
    """The policy's special tokens, and the reward model's against them."""
    if tokenizer is None:
        return []
    path = language_model(run)
    stops = _stops(cfg, setting, tokenizer, path)
    vocab = setting.find("policy").shape.vocab
    found = tokens.of_one("policy", tokenizer, stops, vocab=vocab, chat=cfg.data.get("template") == "chat")
    reward = run.inputs.get("reward_model", {}).get("path")
    if reward and cfg.stage in SCORED:
        own = models.plain(cfg.model)
        found += tokens.of_two(tokenizer, models.load_tokenizer(own, reward))
    return found


def _stops(cfg: DictConfig, setting: Setting, tokenizer, path: str) -> list[int]:
    """Every token that ends an answer: as find_stop_ids of rlhf_recipes.ppo.setup, from the files alone."""
    from transformers import GenerationConfig

    if cfg.stage == "ppo":
        from rlhf_recipes.ppo.setup import find_stop_ids

        return find_stop_ids(setting.args, tokenizer, _Generating(path))
    own = _Generating(path).generation_config
    eos = own.eos_token_id if isinstance(own, GenerationConfig) else None
    listed = eos if isinstance(eos, list) else [eos]
    return sorted({i for i in (tokenizer.eos_token_id, *listed) if i is not None})


class _Generating:
    """What find_stop_ids reads of a model: its generation_config, from the file beside the weights."""

    def __init__(self, path: str):
        from transformers import GenerationConfig

        try:
            self.generation_config = GenerationConfig.from_pretrained(path)
        except (OSError, ValueError):  # a model need not bring one
            self.generation_config = None


def _say_disk(cfg: DictConfig, setting: Setting, loaded: data.Split | None) -> bool:
    """Print what is written; whether the disk holds it."""
    if setting.args is None:
        return True
    wanted = disk.needed(setting, _steps(setting, loaded))
    free = free_disk(Path(cfg.run.root))
    print(
        f"disk: {screen.size(wanted.total)} of {screen.size(free)} free: {wanted.count} checkpoints of "
        f"{screen.size(wanted.checkpoint)} at once, and the model, {screen.size(wanted.model)}"
    )
    return wanted.total <= free


def _steps(setting: Setting, loaded: data.Split | None) -> int | None:
    """Steps in the unit of save_steps: optimizer steps, or PPO's updates."""
    args = setting.args
    if args.max_steps > 0:
        return args.max_steps
    if loaded is None:
        return None
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if getattr(args, "total_episodes", None):
        return ceil(args.total_episodes / batch)
    return ceil(args.num_train_epochs * loaded.counts["train"] / batch)
