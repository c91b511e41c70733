"""`preflight=true`: everything that can be known before the hours are spent; and the brief form of it."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from rlhf_recipes import models
from rlhf_recipes.data import chat_template
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import bottom_of
from rlhf_recipes.preflight import remedies, scores, tokens
from rlhf_recipes.preflight.machine import Machine, free_disk, this_machine
from rlhf_recipes.preflight.rehearsal import TALK, Rehearsal, rehearse
from rlhf_recipes.preflight.weights import language_models, least, quiet_arguments, scorers
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.provenance import peak_memory

Stage = Callable[[DictConfig, StageRun], dict]


def run(cfg: DictConfig, stage_run: StageRun, stage: Stage, machine: Machine | None = None) -> dict:
    """Say what the stage will load, train, cut and write, and whether it fits. Writes nothing.

    Args:
        cfg: the checked config.
        stage_run: with its inputs resolved.
        stage: the stage's own `run`.
        machine: None for this one, or as much as `preflight_gb` says.

    Raises:
        SystemExit: code 1, when it will not fit.
        UserError: bad input, as the stage itself would meet it.
    """
    print(f"preflight of stage={cfg.stage}: nothing is trained, nothing is written")
    machine = machine or _machine(cfg)
    if cfg.stage == "report" or (cfg.stage == "score" and not scorers(cfg, stage_run)):
        print("  no model is loaded")
        print(_verdict(machine.libraries, machine))
        return {}

    def rehearsed(cfg: DictConfig, stage_run: StageRun) -> Rehearsal:
        return rehearse(_question(cfg, stage_run), stage_run, stage, machine.device)

    seen = _in_one_line(cfg, lambda: rehearsed(cfg, stage_run))
    libraries = machine.libraries
    total = libraries + seen.ledger.peak
    print("\n".join([*_models(seen), *_table(seen, libraries)]))
    for kind, split in seen.splits.items():
        if kind in stage_run.stage.rows[:1]:
            print(f"rows: {split.describe()}")
    for finding in _tokens(cfg, stage_run, seen):
        print(f"{'WRONG ' if finding.wrong else ''}{finding.text}")
    args = quiet_arguments(cfg, stage_run) if cfg.get("trainer") is not None else None
    disk = _disk(cfg, args, seen)
    place = Path((cfg.export.to if cfg.stage == "export" else None) or cfg.run.root)
    room = free_disk(place)
    if disk.total:
        kept = f"{disk.count} checkpoints of {size(disk.checkpoint)} at once, and " if disk.count else ""
        print(f"disk: {size(disk.total)} of {size(room)} free: {kept}the model, {size(disk.model)}")
    fits = total <= machine.free
    if stage_run.stage.scores and fits:
        print(scores.told_apart(cfg, stage_run))
    if args is not None:
        print("time: told after the first steps of the run")
    print(_verdict(total, machine) + ("" if disk.total <= room else "; THE DISK WILL NOT HOLD IT"))
    if not fits:
        candidates = remedies.candidates(cfg, args, seen, machine.device)
        size_of = remedies.sizer(cfg, stage_run, rehearsed)
        ways = remedies.ways(candidates, size_of, seen.ledger.peak, machine.free - libraries)
        ways = [remedies.Way(way.overrides, way.bytes + libraries, way.fits) for way in ways]
        print("\n".join(_remedies(ways, seen, machine.free - libraries)))
    if disk.total > room:
        print(
            "\n".join(
                [
                    *_listed(disk.ways(room)),
                    f"  or another disk: {'export.to' if args is None else 'run.root'}=<folder>",
                ]
            )
        )
    if not fits or disk.total > room:
        sys.exit(1)
    return {}


def brief(cfg: DictConfig, stage_run: StageRun, machine: Machine | None = None) -> float | None:
    """One or two lines at the start of a stage: what its models take at least. Returns MB (10^6 bytes).

    The stage goes on whatever comes out: what is wrong with its input it will say itself.
    """
    try:
        machine = machine or _machine(cfg)
        parts = {"libraries": machine.libraries} | least(cfg, stage_run, machine.device)
    except Exception as error:  # whatever it is: an estimate is no reason not to start
        print(f"preflight: no estimate of the memory ({_first_line(error)})")
        return None
    total = sum(parts.values())
    listed = ", ".join(f"{name} {size(amount)}" for name, amount in parts.items() if amount)
    print(f"preflight: {size(total)} before any activation ({listed}); {size(machine.free)} free")
    if total > machine.free:
        print("preflight: THIS WILL NOT FIT; the same command with preflight=true says what would")
    return round(total / 1e6, 1)


def afterwards(estimate_mb: float | None) -> str:
    """The measured peak beside the estimate, for stages that leave no summary.json to write it to."""
    found = peak_memory()
    measured = found["peak_gpu_mb"] or found["peak_rss_mb"]
    told = "" if estimate_mb is None else f", {size(estimate_mb * 1e6)} before any activation"
    return f"preflight: {size(measured * 1e6)} measured at the peak{told}"


def size(amount: float) -> str:
    """Bytes for a person: «1.98 GB», «340 MB».

    >>> size(1_976_000_000), size(340e6)
    ('1.98 GB', '340 MB')
    """
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def _machine(cfg: DictConfig) -> Machine:
    """An export is made in RAM, on a machine with a GPU too."""
    return this_machine(cfg.preflight_gb, gpu=cfg.stage != "export")


def _first_line(error: Exception) -> str:
    text = next(filter(None, map(str.strip, str(error).splitlines())), "")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _in_one_line(cfg: DictConfig, rehearsed: Callable[[], Rehearsal]) -> Rehearsal:
    """A rehearsal; a model whose code cannot run without numbers is told in one line."""
    try:
        return rehearsed()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the memory of stage={cfg.stage} cannot be estimated ({_first_line(error)}); without preflight=true the "
            "stage starts all the same"
        ) from error


def _question(cfg: DictConfig, run: StageRun) -> DictConfig:
    """A talk as long as the model reads, as one question, where chat is not given one."""
    if cfg.stage != "chat" or cfg.prompt is not None:
        return cfg
    context = models.context_length(cfg.model, language_models(cfg, run)[0].path) or TALK
    cfg = cfg.copy()
    cfg.prompt = " a" * max(1, min(context, TALK) - cfg.chat.max_new_tokens - 64)
    return cfg


# ---- what is printed ----


def _parameters(model: nn.Module, *, trained: bool = False) -> list:
    return [p for p in model.parameters() if p.requires_grad or not trained]


def _models(seen: Rehearsal) -> list[str]:
    """One line a model: what is loaded, and how much of it is trained."""
    lines = []
    for part, model in seen.models.items():
        learns = part in ("policy", "critic") and seen.trainer is not None
        count, trained = (sum(p.numel() for p in _parameters(model, trained=only)) for only in (False, True))
        share = "all trained" if trained == count else f"{trained / 1e6:.2f} M trained"
        width = sum(p.nbytes for p in model.parameters()) / max(1, count)
        name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
        told = share if learns and trained else "frozen"
        lines.append(f"  {part:<10} {name}, {count / 1e6:.1f} M parameters of {width:.3g} bytes, {told}")
    return lines


def _table(seen: Rehearsal, libraries: float) -> list[str]:
    """Memory by part at the largest moment, and what was alive at most in each kind of moment."""
    lines = [f"  {'memory by part':<16} {'at the peak':>12}"]
    parts = {"libraries": libraries} | {name: amount for name, amount in seen.ledger.parts.items() if amount}
    lines += [f"  {name:<16} {size(amount):>12}" for name, amount in parts.items()]
    lines.append(f"  {'together':<16} {size(sum(parts.values())):>12}")
    moments = (f"{name} {size(libraries + amount)}" for name, amount in seen.ledger.moments.items())
    lines.append("  by moment: " + " · ".join(moments))
    if seen.measured:
        lines.append(f"  rows of up to {seen.whole} tokens, prompts of up to {seen.prompt} ({seen.measured} looked at)")
    return lines


def _verdict(total: float, machine: Machine) -> str:
    outcome = "fits" if total <= machine.free else "WILL NOT FIT"
    return f"verdict: {outcome}: {size(total)} at the peak, {size(machine.free)} free ({machine.name})"


def _remedies(ways: list[remedies.Way], seen: Rehearsal, room: float) -> list[str]:
    """The ways out of too little memory, and how large a model would fit as it is: bytes follow its size, roughly."""
    first = next(iter(seen.models.values()), None)
    largest = sum(p.numel() for p in first.parameters()) * room / seen.ledger.peak if first is not None else 0.0
    instead = f"a model of {largest / 1e6:,.1f} M parameters would" if room > 0 else "the libraries alone are too much"
    if not ways:
        return [f"  no setting makes it smaller; {instead}"]
    return [*_listed(ways), *([] if any(way.fits for way in ways) else [f"  {instead}"])]


def _listed(ways: list[remedies.Way]) -> list[str]:
    head = "what would make it fit:" if any(way.fits for way in ways) else "nothing here makes it fit; what helps most:"
    rows = [f"  {size(w.bytes):>10} {'fits    ' if w.fits else 'too much'} {w.overrides}" for w in ways]
    return [f"  {head}", *rows] if ways else []


# ---- tokens ----


def _tokens(cfg: DictConfig, run: StageRun, seen: Rehearsal) -> list[tokens.Finding]:
    """The policy's special tokens, and every reward model's against them."""
    findings, written, policy = [], next(iter(language_models(cfg, run)), None), None
    chat = cfg.get("data") is not None and cfg.data.get("template") == "chat"
    if written is not None:
        policy = models.load_tokenizer(cfg.model, written.path)
        if resolve.is_reward_model(written.path):
            return tokens.of_scorer("reward model", policy)
        stops, chat = _stops(cfg, run, policy, written, chat)
        findings = tokens.of_one("policy", policy, stops, vocab=seen.vocab, chat=chat)
    answer = next(
        (n for key in ("response_length", "max_completion_length") if (n := (cfg.get("trainer") or {}).get(key))), 0
    )
    answer = answer or (cfg.get(cfg.stage) or {}).get("max_new_tokens", 0)
    readers = [model for part, model in seen.models.items() if part.startswith("reward")]
    for scorer, reader in zip(scorers(cfg, run) if run.stage.scores else [], readers, strict=False):
        name, own = f"reward model {scorer.name}", models.scorer_tokenizer(models.plain(cfg.model), scorer.path)
        if policy is None:
            findings += tokens.of_scorer(name, own)
        elif scorer.classifies:
            findings += tokens.of_classifier(name, policy, own)
        else:
            critic = scorer.path == run.inputs.get("value_model", {}).get("path")
            findings += tokens.of_two(policy, own, name, critic, chat)
        context = getattr(reader.config, "max_position_embeddings", None)
        findings += tokens.too_long(name, context, seen.whole + answer)
    return findings


def _stops(
    cfg: DictConfig, run: StageRun, tokenizer, written: resolve.ModelSource, chat: bool
) -> tuple[list[int], bool]:
    """Every token that ends an answer, from the files alone; and whether turns go through the tokenizer's template."""
    like = _Generating(bottom_of(written.path))
    if cfg.stage in ("chat", "export"):
        asked = cfg.chat.template if cfg.stage == "chat" else "auto"
        own = chat_template.choose(asked, written, bool(tokenizer.chat_template), cfg.data).jinja is None
        return stop_ids(tokenizer, like, written.stops, serving=True), own
    trainer = cfg.get("trainer") or {}
    stops = resolve.Stops.of(trainer) if "stop_token" in trainer else resolve.at(written.path).stops
    return stop_ids(tokenizer, like, stops), chat


class _Generating:
    """What stop_ids reads of a model: its generation_config, from the file beside the weights."""

    def __init__(self, path: str):
        from transformers import GenerationConfig

        try:
            self.generation_config = GenerationConfig.from_pretrained(path)
        except (OSError, ValueError):  # a model need not bring one
            self.generation_config = None


# ---- disk ----


@dataclass(frozen=True)
class Disk:
    """Bytes. weights, state: of a checkpoint; count: checkpoints at once; model: what the stage leaves."""

    weights: float = 0.0
    state: float = 0.0
    count: int = 0
    model: float = 0.0

    @property
    def checkpoint(self) -> float:
        return self.weights + self.state

    @property
    def total(self) -> float:
        return self.checkpoint * self.count + self.model

    def ways(self, room: float) -> list[remedies.Way]:
        """Settings that write less, and what they would write."""
        found = {f"trainer.save_total_limit={n}": self.checkpoint * (n + 1) for n in (2, 1) if n + 1 < self.count}
        if self.count:
            found["trainer.save_only_model=true"] = self.weights * self.count
            found["trainer.save_strategy=no"] = 0.0
        else:
            found["export.dtype=bfloat16"] = -self.model / 2
        ways = [
            remedies.Way(override, amount + self.model, amount + self.model <= room)
            for override, amount in found.items()
        ]
        return [way for way in ways if way.fits][: remedies.MOST] or ways[: remedies.MOST]


def _disk(cfg: DictConfig, args, seen: Rehearsal) -> Disk:
    """What a stage writes: a model, and when it trains checkpoints. Scores and answers count as nothing.

    A checkpoint is weights, those of the critic too, and the optimizer's state; an adapter alone where one is trained.
    The oldest is deleted once the newest is whole, so that one more than trainer.save_total_limit lies there.
    """
    if cfg.stage == "export":
        width = {"float32": 4}.get(cfg.export.dtype, 2)
        return Disk(model=width * sum(p.numel() for m in seen.models.values() for p in m.parameters()))
    if args is None:
        return Disk()
    trained = {part: sum(p.nbytes for p in _parameters(m, trained=True)) for part, m in seen.models.items()}
    model, weights = trained["policy"], trained["policy"] + trained.get("critic", 0)
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        return Disk(model=model)
    most = math.inf if args.save_total_limit is None else args.save_total_limit + 1
    if (steps := _steps(args, seen)) and args.save_steps:
        every = args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * steps))
        most = min(most, math.ceil(steps / every))
    state = 0.0 if args.save_only_model else seen.ledger.live["optimizer"]
    return Disk(weights, state, 1 if most == math.inf else int(max(1, most)), model)


def _steps(args, seen: Rehearsal) -> int | None:
    """Steps in the unit of save_steps: optimizer steps, or PPO's updates."""
    if args.max_steps > 0:
        return args.max_steps
    split = next(iter(seen.splits.values()), None)
    if split is None:
        return None
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if getattr(args, "total_episodes", None):
        return math.ceil(args.total_episodes / batch)
    return math.ceil(args.num_train_epochs * split.counts["train"] / batch)
