"""`preflight=true`: everything that can be known before the hours are spent; and the brief form of it."""

import sys
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.data import chat_template
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import disk, fit, scores, screen, tokens
from rlhf_recipes.preflight import rows as lengths
from rlhf_recipes.preflight.machine import Machine, free_disk, resident, this_machine
from rlhf_recipes.preflight.phases import peak, phases
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.setting import (
    Scorer,
    Setting,
    language_model,
    node_of,
    quiet_arguments,
    scorers,
    settle,
)
from rlhf_recipes.preflight.shapes import base_of
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.hub import reach_hub
from rlhf_recipes.runs.provenance import peak_memory


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
    rows = _rows(cfg, stage_run, loaded, tokenizer)
    machine = machine or _machine(cfg)
    setting, found = _estimated(cfg, stage_run, rows, machine, weight)
    print("\n".join(screen.models(setting) or ["  no model is loaded"]))
    print("\n".join(screen.table(found)))
    if loaded is not None:
        print(f"  rows of up to {rows.whole} tokens, prompts of up to {rows.prompt} ({rows.seen} looked at)")
        print(f"rows: {loaded.describe()}")
    if cfg.stage == "chat" and setting.networks:
        context = setting.networks[0].shape.context
        print(f"  a talk of {rows.whole} tokens" + (f"; it reads {context}" if context else ""))
    if cfg.stage == "score":
        print(f"  answers of up to {rows.whole} tokens with their prompts ({rows.seen} looked at)")
    for finding in _tokens(cfg, stage_run, setting, tokenizer, rows):
        print(f"{'WRONG ' if finding.wrong else ''}{finding.text}")
    steps = _steps(setting, loaded)
    wanted, free = disk.needed(setting, steps), free_disk(disk.place(setting))
    if wanted.total:
        print(screen.disk(wanted, free))
    disk_fits = wanted.total <= free
    fits = peak(found).total <= machine.free
    if run.stage.scores and fits:
        print(scores.told_apart(cfg, stage_run))
    if setting.args is not None:
        print("time: told after the first steps of the run")
    print(screen.verdict(peak(found).total, machine) + ("" if disk_fits else "; THE DISK WILL NOT HOLD IT"))
    if not fits:
        print("\n".join(screen.remedies(fit.ways(setting, stage_run), fit.largest(setting))))
    if not disk_fits:
        ways = fit.disk_ways(setting, stage_run, steps, free)
        print("\n".join(screen.more_room(ways, "export.to" if cfg.stage == "export" else "run.root")))
    if not (fits and disk_fits):
        sys.exit(1)
    return {}


def brief(cfg: DictConfig, stage_run: StageRun, machine: Machine | None = None) -> float | None:
    """One or two lines at the start of a stage; returns the estimate in MB (10^6 bytes), for summary.json.

    The stage goes on whatever is found here: what is wrong with its input it will say itself.
    """
    try:
        tokenizer, weight = _tokenizer(cfg, stage_run)
        rows = _sampled(cfg, stage_run, tokenizer)
        machine = machine or _machine(cfg)
        setting = settle(cfg, stage_run, rows, machine, weight)
        found = phases(setting)
    except Exception as error:  # whatever it is: an estimate is no reason not to start
        print(f"preflight: no estimate of the memory ({_in_a_line(error)})")
        return None
    top = peak(found)
    parts = ", ".join(f"{name} {screen.size(amount)}" for name, amount in top.parts.items() if amount)
    print(f"preflight: {screen.size(top.total)} at the peak ({top.name}: {parts}); {screen.size(machine.free)} free")
    if top.total > machine.free:
        print("preflight: THIS WILL NOT FIT; the same command with preflight=true says what would")
    return round(top.total / 1e6, 1)


def _estimated(cfg: DictConfig, run: StageRun, rows: Rows, machine: Machine, weight: float):
    """The setting and its phases; a model whose config is like no other's is told in one line."""
    try:
        setting = settle(cfg, run, rows, machine, weight)
        return setting, phases(setting)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the memory of stage={cfg.stage} cannot be estimated ({_in_a_line(error)}); without preflight=true the "
            "stage starts all the same"
        ) from error


def _in_a_line(error: Exception) -> str:
    said = next(filter(None, map(str.strip, str(error).splitlines())), "")
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def afterwards(estimate_mb: float | None) -> str:
    """The measured peak beside the estimate, for stages that leave no summary.json to write it to."""
    found = peak_memory()
    measured = found["peak_gpu_mb"] or found["peak_rss_mb"]
    told = "" if estimate_mb is None else f", {screen.size(estimate_mb * 1e6)} estimated"
    return f"preflight: {screen.size(measured * 1e6)} measured at the peak{told}"


def _machine(cfg: DictConfig) -> Machine:
    """An export is made in RAM, on a machine with a GPU too."""
    return this_machine(cfg.preflight_gb, gpu=cfg.stage != "export")


def _tokenizer(cfg: DictConfig, run: StageRun) -> tuple:
    """The policy's tokenizer and the bytes it takes; None where there is none yet or none is needed."""
    found, before = language_model(cfg, run), resident()
    if found is None:
        known = scorers(cfg, run) if cfg.stage == "score" else []
        tokenizer = _scorers_own(known[0]) if known else None
    else:
        tokenizer = models.load_tokenizer(node_of(cfg, run, found), found.path)
    return tokenizer, max(0.0, resident() - before)


def _scorers_own(scorer: Scorer):
    """A reward model's tokenizer, as it is."""
    from transformers import AutoTokenizer

    reach_hub(scorer.path)
    try:
        return AutoTokenizer.from_pretrained(scorer.path)
    except (OSError, ValueError) as error:
        raise UserError(f"{scorer.name}: no tokenizer in {scorer.path}: {str(error).splitlines()[0]}") from error


def _kind(run: StageRun) -> str | None:
    return next(iter(run.stage.rows), None)


def _answer(cfg: DictConfig, run: StageRun) -> int | None:
    """Tokens of an answer, for stages that write them."""
    if cfg.stage in ("collect", "evaluate"):
        return cfg[cfg.stage].max_new_tokens
    args = quiet_arguments(cfg, run) if cfg.trainer is not None else None
    return getattr(args, "response_length", None) or getattr(args, "max_completion_length", None)


def _load(cfg: DictConfig, run: StageRun, tokenizer) -> data.Split | None:
    """The stage's rows, cut and dropped as the stage will cut and drop them."""
    if _kind(run) is None:
        return None
    limits = {}
    if tokenizer is not None and _kind(run) == "prompts":
        limits["max_prompt_length"] = models.room_for_prompt(cfg, language_model(cfg, run).path, _answer(cfg, run))
    elif tokenizer is not None and cfg.trainer is not None:
        limits["max_length"] = quiet_arguments(cfg, run).max_length
    return data.load(cfg.data, _kind(run), tokenizer=tokenizer, seed=cfg.seed, stage=cfg.stage, **limits)


def _rows(cfg: DictConfig, run: StageRun, loaded: data.Split | None, tokenizer) -> Rows:
    if loaded is None or tokenizer is None:
        return _asked(cfg, run, tokenizer)
    kept = loaded.eval if cfg.stage == "evaluate" else loaded.train
    return lengths.measure([kept[i] for i in range(min(len(kept), lengths.MANY))], _kind(run), tokenizer)


def _asked(cfg: DictConfig, run: StageRun, tokenizer) -> Rows:
    """Rows that come from no data node: a talk's, a file's; those nobody has measured are as long as they may be."""
    if cfg.stage == "chat":
        found = language_model(cfg, run)
        context = models.context_length(node_of(cfg, run, found), found.path)
        return lengths.of_talk(cfg.prompt, tokenizer, cfg.chat.max_new_tokens, context)
    if cfg.stage == "score" and tokenizer is not None:
        return lengths.of_file(Path(cfg.score.file), tokenizer)
    longest = int((cfg.trainer or {}).get("max_length") or 1024)
    return Rows(longest, longest, 0)


def _sampled(cfg: DictConfig, run: StageRun, tokenizer) -> Rows:
    """How long rows are, from the first of them."""
    if tokenizer is None or _kind(run) is None:
        return _asked(cfg, run, tokenizer)
    found = lengths.sample(cfg.data, _kind(run), tokenizer, cfg.seed)
    room = None
    if _kind(run) == "prompts":
        room = models.room_for_prompt(cfg, language_model(cfg, run).path, _answer(cfg, run))
    return found if room is None else Rows(min(found.prompt, room), found.whole, found.seen)


def _tokens(cfg: DictConfig, run: StageRun, setting: Setting, tokenizer, rows: Rows) -> list[tokens.Finding]:
    """The policy's special tokens, and every reward model's against them."""
    found, written = [], language_model(cfg, run)
    chat = cfg.data.get("template") == "chat"
    if written is not None and resolve.is_reward_model(written.path):
        return tokens.of_scorer("reward model", tokenizer)
    if written is not None:
        stops, chat = _stops(cfg, setting, tokenizer, written, chat)
        vocab = setting.find("policy").shape.vocab
        found = tokens.of_one("policy", tokenizer, stops, vocab=vocab, chat=chat)
    whole = rows.whole if cfg.stage == "score" else rows.prompt + (_answer(cfg, run) or 0)
    readers = [n for n in setting.networks if n.part == "reward"]
    known = scorers(cfg, run) if run.stage.scores else []
    for scorer, network in zip(known, readers, strict=True):
        name, own = f"reward model {scorer.name}", _scorers_own(scorer)
        if written is None:
            found += tokens.of_scorer(name, own)
        elif scorer.classifies:
            found += tokens.of_classifier(name, tokenizer, own)
        else:
            critic = cfg.stage == "ppo" and scorer.path == run.inputs.get("value_model", {}).get("path")
            found += tokens.of_two(tokenizer, own, name, critic, chat)
        found += tokens.too_long(name, network.shape.context, whole)
    return found


def _stops(
    cfg: DictConfig, setting: Setting, tokenizer, written: resolve.ModelSource, chat: bool
) -> tuple[list[int], bool]:
    """Every token that ends an answer, from the files alone; and whether turns go through the tokenizer's template."""
    like = _Generating(base_of(written.path))
    if cfg.stage in ("chat", "export"):
        asked = cfg.chat.template if cfg.stage == "chat" else "auto"
        own = chat_template.choose(asked, written, bool(tokenizer.chat_template), cfg.data).jinja is None
        return stop_ids(tokenizer, like, written.stops, serving=True), own
    told = resolve.Stops()
    if cfg.stage == "ppo":
        told = setting.args
    elif cfg.stage in ("collect", "evaluate"):
        told = resolve.at(written.path).stops
    return stop_ids(tokenizer, like, told), chat


class _Generating:
    """What stop_ids reads of a model: its generation_config, from the file beside the weights."""

    def __init__(self, path: str):
        from transformers import GenerationConfig

        try:
            self.generation_config = GenerationConfig.from_pretrained(path)
        except (OSError, ValueError):  # a model need not bring one
            self.generation_config = None


def _steps(setting: Setting, loaded: data.Split | None) -> int | None:
    """Steps in the unit of save_steps: optimizer steps, or PPO's updates."""
    args = setting.args
    if args is None:
        return None
    if args.max_steps > 0:
        return args.max_steps
    if loaded is None:
        return None
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if getattr(args, "total_episodes", None):
        return ceil(args.total_episodes / batch)
    return ceil(args.num_train_epochs * loaded.counts["train"] / batch)
