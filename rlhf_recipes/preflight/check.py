"""`preflight=true`: what can be known before the hours are spent; and `brief`, the lines at the start of a stage."""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

from omegaconf import DictConfig

from rlhf_recipes import models
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import remedies
from rlhf_recipes.preflight.machine import Machine, least, this_machine
from rlhf_recipes.preflight.rehearsal import Rehearsal, rehearse
from rlhf_recipes.runs.artifacts import StageRun

Stage = Callable[[DictConfig, StageRun], dict]  # a stage's own `run`


def run(cfg: DictConfig, stage_run: StageRun, stage: Stage, machine: Machine | None = None) -> dict:
    """Say what the stage will load, train and write, and whether it fits. Writes nothing.

    Raises:
        SystemExit: code 1, when it will not fit.
        UserError: bad input, as the stage itself would meet it.
    """
    print(f"preflight of stage={cfg.stage}: nothing is trained, nothing is written")
    logging.basicConfig(format="warning: %(message)s")  # what the stage warns of is said here, too
    machine = machine or this_machine(cfg)
    seen = None if cfg.stage == "report" else _rehearsed(cfg, stage_run, stage, machine)
    libraries = machine.libraries  # now that the rehearsal has imported them all
    total = libraries + (seen.ledger.peak if seen else 0.0)
    print("\n".join(_described(seen, libraries) if seen else ["  no model is loaded"]))
    written = _written(cfg, seen) if seen and seen.trainer is not None else 0.0
    root = Path(cfg.run.root).absolute()
    disk = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if written:
        advice = "" if written <= disk else "; THE DISK WILL NOT HOLD IT; try trainer.save_total_limit=1 or run.root="
        print(f"disk: at most {size(written)} of {size(disk)} free, for the model and checkpoints{advice}")
    outcome = f"{'fits' if total <= machine.free else 'WILL NOT FIT'}: {size(total)} at the peak"
    print(f"verdict: {outcome}, {size(machine.free)} free ({machine.name})")
    if total > machine.free:

        def size_of(overrides: str) -> float | None:
            try:
                changed = remedies.changed(cfg, overrides)
                return libraries + _rehearsed(changed, stage_run, stage, machine).ledger.peak
            except (UserError, ValueError):  # settings that the trainer refuses together
                return None

        for way, amount in remedies.ways(remedies.candidates(cfg, machine.device), size_of, total, machine.free):
            print(f"  {size(amount):>8} {'fits    ' if amount <= machine.free else 'too much'} {way}")
    if total > machine.free or written > disk:
        sys.exit(1)
    return {}


def brief(cfg: DictConfig, stage_run: StageRun, machine: Machine | None = None) -> float | None:
    """One or two lines at the start of a stage: what its models take at least. Returns MB (10^6 bytes)."""
    try:
        machine = machine or this_machine(cfg)
        parts = {"libraries": machine.libraries} | least(cfg, stage_run, machine.device)
    except Exception as error:  # whatever it is: an estimate is no reason not to start
        print(f"preflight: no estimate of the memory ({_in_one_line(error)})")
        return None
    total = sum(parts.values())
    listed = ", ".join(f"{name} {size(amount)}" for name, amount in parts.items() if amount)
    print(f"preflight: {size(total)} before any activation ({listed}); {size(machine.free)} free")
    if total > machine.free:
        print("preflight: THIS WILL NOT FIT; the same command with preflight=true says what would")
    return round(total / 1e6, 1)


def size(amount: float) -> str:
    """Bytes for a person: «1.98 GB», «340 MB»."""
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def _rehearsed(cfg: DictConfig, run: StageRun, stage: Stage, machine: Machine) -> Rehearsal:
    try:
        return rehearse(cfg, run, stage, machine.device)
    except UserError:
        raise
    except Exception as error:  # a model whose code cannot run without numbers
        text = f"stage={cfg.stage} cannot be estimated ({_in_one_line(error)})"
        raise UserError(f"{text}; without preflight=true it starts all the same") from error


def _in_one_line(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 200)


def _described(seen: Rehearsal, libraries: float) -> list[str]:
    """What is loaded, memory by part at the largest moment, and the rows."""
    lines = []
    for part, model in seen.models.items():
        name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
        counts = models.parameters(model)
        if seen.trainer is None or part not in ("policy", "critic"):
            counts = f"{counts.partition(',')[0]}, frozen"
        lines.append(f"  {part:<10} {name}, {counts}")
    lines.append(f"  memory at the peak, in the {seen.ledger.phase_at_peak}:" if lines else "  no model is loaded")
    parts = {"libraries": libraries, **seen.ledger.parts, "together": libraries + seen.ledger.peak}
    lines += [f"  {name:<16} {size(amount):>8}" for name, amount in parts.items() if amount]
    return [*lines, *(f"rows: {split.describe()}" for split in list(seen.splits.values())[:1])]


def _written(cfg: DictConfig, seen: Rehearsal) -> float:
    """Bytes that training writes at most: the model, and one checkpoint more than trainer.save_total_limit keeps."""
    trained = [sum(p.nbytes for p in m.parameters() if p.requires_grad) for m in seen.models.values()]
    if cfg.trainer.get("save_strategy") == "no":
        return trained[0]
    checkpoint = sum(trained) + (0 if cfg.trainer.get("save_only_model") else seen.ledger.live["optimizer"])
    return trained[0] + checkpoint * (1 + (cfg.trainer.get("save_total_limit") or 0))
