"""Reads runs/<run>/<stage>/ as it lies on disk. Any part may be missing: a stage absent, unfinished, or cut off."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from rlhf_recipes.errors import UserError
from rlhf_recipes.report.blocks import plain

FILES = ("config.yaml", "metrics.jsonl", "samples.jsonl", "summary.json")  # a folder with one of them is a stage's

# Quantities that the trainers log under several names; the first that a row has is taken. Others have one name.
NAMES = {
    "accuracy": ("accuracy", "rewards/accuracies"),
    "eval_accuracy": ("eval_accuracy", "eval_rewards/accuracies"),
    "margin": ("margin", "rewards/margins"),
    "eval_margin": ("eval_margin", "eval_rewards/margins"),
    "score": ("objective/scores", "eval_score", "reward"),
    "gold": ("eval_gold", "reward/gold", "eval_reward/gold", "rewards/gold/mean", "rewards/gold_score/mean"),
    "kl": ("objective/kl", "kl", "eval_kl"),
    "kl_coef": ("objective/kl_coef", "kl_coef"),
    "length": ("completions/mean_length", "eval_length"),
    "eos_rate": ("completions/eos_rate", "eval_eos_rate"),
    "entropy": ("policy/entropy_avg", "entropy", "objective/entropy"),
    "grad_norm": ("grad_norm", "policy/grad_norm"),
    "clip_fraction": ("policy/clipfrac_avg", "clip_ratio/region_mean"),
}


def pick(row: dict, quantity: str) -> float | None:
    """A quantity's value in one row of metrics.jsonl. None where the row lacks it or it is not finite."""
    for name in NAMES.get(quantity, (quantity,)):
        value = row.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            # GRPO and RLOO log the mean over tokens. The report shows the KL of a whole response.
            return float(value) * row.get("completions/mean_length", 1.0) if name == "kl" else float(value)
    return None


@dataclass
class Stage:
    """One stage's folder. Each file is read when it is first needed."""

    name: str
    path: Path
    summary: dict = field(default_factory=dict)
    title: str = ""
    figures: Sequence = ()  # (key in the summary's metrics, label, digits as in `blocks.Column`)

    def __post_init__(self):
        self.title = self.title or self.name

    @property
    def metrics(self) -> dict:
        """The summary's `metrics`."""
        return self.summary.get("metrics") or {}

    @property
    def done(self) -> bool:
        """Whether summary.json says that the stage finished."""
        return self.summary.get("status") == "done"

    @cached_property
    def rows(self) -> list[dict]:
        """metrics.jsonl by step. Rows of the same step are merged, as training and evaluation log separately."""
        merged: dict[int, dict] = {}
        for row in read_rows(self.path / "metrics.jsonl"):
            if isinstance(row.get("step"), int):
                merged.setdefault(row["step"], {}).update(row)
        return [merged[step] for step in sorted(merged)]

    @cached_property
    def samples(self) -> list[dict]:
        """samples.jsonl."""
        return read_rows(self.path / "samples.jsonl")

    @cached_property
    def scored_pairs(self) -> list[tuple[float, float]]:
        """(score of chosen, score of rejected) of held-out preferences, where the samples have them."""
        pairs = [(row.get("score_chosen"), row.get("score_rejected")) for row in self.samples]
        return [(c, r) for c, r in pairs if isinstance(c, int | float) and isinstance(r, int | float)]

    @cached_property
    def tokens(self) -> list[dict]:
        """tokens.jsonl, a row an answer: `{"step", "prompt", "tokens": [{"token", "value", "kl", "reward", …}]}`."""
        rows = read_rows(self.path / "tokens.jsonl")
        return [row for row in rows if isinstance(row.get("tokens"), list) and row["tokens"]]

    @cached_property
    def config(self) -> dict:
        """config.yaml as a plain dict, empty where it is absent."""
        file = self.path / "config.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        return config if isinstance(config, dict) else {}

    @cached_property
    def logged(self) -> set[str]:
        """Every metric name in metrics.jsonl."""
        return set().union(*self.rows)

    def logs(self, quantity: str) -> bool:
        """Whether any of the quantity's names is in metrics.jsonl."""
        return not self.logged.isdisjoint(NAMES.get(quantity, (quantity,)))

    def series(self, quantity: str) -> tuple[list[float], list[float]]:
        """Steps and values of a quantity, all under one of its names: training and held-out figures do not mix."""
        name = next((name for name in NAMES.get(quantity, (quantity,)) if name in self.logged), None)
        kept = ("completions/mean_length", name)
        rows = [(row["step"], pick({key: row[key] for key in kept if key in row}, quantity)) for row in self.rows]
        rows = [(step, value) for step, value in rows if value is not None]
        return [step for step, _ in rows], [value for _, value in rows]


@dataclass
class Run:
    """One run directory."""

    name: str
    path: Path
    stages: dict[str, Stage]  # those whose folder exists, in the order in which they run
    order: Sequence[str] = ()  # the names of all stages that were described, in that order

    @property
    def seconds(self) -> float:
        """Wall time of all finished stages."""
        return sum(stage.summary.get("wall_seconds") or 0 for stage in self.stages.values())

    def first(self, condition: Callable[[Stage], bool]) -> Stage | None:
        """The first stage for which the condition holds."""
        return next((stage for stage in self.stages.values() if condition(stage)), None)

    @cached_property
    def policy(self) -> Stage | None:
        """The stage that was trained on a reward: the first that logs a score or a gold score."""
        return self.first(lambda stage: stage.logs("score") or stage.logs("gold"))

    @property
    def judging(self) -> Stage | None:
        """The stage that compared models."""
        return self.first(lambda stage: bool(stage.metrics.get("models")))

    @property
    def evaluation(self) -> dict:
        """The metrics of the stage that compared models, empty where there is none."""
        return self.judging.metrics if self.judging else {}

    @property
    def contestants(self) -> dict[str, dict]:
        """The models that were compared, name -> figures, without the checkpoints (`ppo@100`) that led to them."""
        return {name: figures for name, figures in self.evaluation.get("models", {}).items() if "@" not in name}

    @property
    def final(self) -> str | None:
        """The name under which the run's last policy was evaluated: the one trained on a reward where there is one."""
        names = list(self.contestants)
        if self.policy and self.policy.name in names:
            return self.policy.name
        trained = [name for name in dict.fromkeys((*self.order, *self.stages)) if name in names]
        return (trained or names or [None])[-1]

    @property
    def judged(self) -> tuple[str | None, float]:
        """Whose figures decided the pairs (gold, score, a reward's name; judge: an endpoint), and the tie band."""
        settings = self.judging.config.get(self.judging.name) if self.judging else None
        return self.evaluation.get("judge"), (settings or {}).get("tie") or 0.0

    @cached_property
    def answers(self) -> list[dict]:
        """Held-out prompts and how each model answered: `{"prompt", "by": {model: sample row}}`, in sample order.

        They come from the evaluation. Without one they are the policy's at its first and last sampled step.
        """
        if self.judging and self.judging.samples:
            return _by_prompt(self.judging.samples, lambda row: str(row.get("model", "model")))
        source = self.policy or self.first(lambda stage: any("completion" in row for row in stage.samples))
        rows = source.samples if source else []
        rows = [row | {"gold": row["reward/gold"]} if "reward/gold" in row else row for row in rows]
        steps = [row.get("step", 0) for row in rows] or [0]
        ends = [row for row in rows if row.get("step", 0) in (min(steps), max(steps))]
        return _by_prompt(ends, lambda row: f"step {row.get('step', 0)}")


def read(path: Path, known: Sequence = ()) -> Run:
    """Reads a run directory.

    Args:
        path: runs/<name>.
        known: the stages' own descriptions (`name`, `title`, `figures`), in the order in which stages run. A stage
            without one is shown under its folder's name, after the others.

    Raises:
        UserError: the directory does not exist, or holds no stage.
    """
    path = Path(path)
    described = {stage.name: (stage.title, stage.figures) for stage in known}
    names = _stages_in(path)
    if not names:
        raise UserError(f"{path} holds no stage; expected a run directory such as runs/<name>, with a folder a stage")
    order = list(described)
    names = sorted(names, key=lambda name: (order.index(name) if name in described else len(order), name))
    stages = {
        name: Stage(name, path / name, read_json(path / name / "summary.json"), *described.get(name, ()))
        for name in names
    }
    return Run(path.resolve().name, path, stages, order)


def members(path: Path) -> list[Path]:
    """The run directories that a path names: itself, or those in it (a sweep: `x.sweep/0`, `x.sweep/1` ...), in order.

    Raises:
        UserError: it is no directory.
    """
    inside = [] if _stages_in(path) else [folder for folder in path.iterdir() if folder.is_dir() and _stages_in(folder)]
    return sorted(inside, key=lambda folder: (not folder.name.isdigit(), folder.name.zfill(9))) or [path]


def _stages_in(path: Path) -> list[str]:
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory; expected runs/<name>. Make one with: make pipeline RUN=<name>")
    return [folder.name for folder in path.iterdir() if any((folder / file).is_file() for file in FILES)]


def name_apart(runs: list[Run]) -> list[Run]:
    """Runs whose folders have the same name (sweeps: 0, 1, 2) are told apart by the folder above."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1 or run.name.isdigit():
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    return runs


def read_json(path: Path) -> dict:
    """A JSON object, empty where the file is absent or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_rows(path: Path) -> list[dict]:
    """One object a line. A line that is no JSON is left out: a run that was killed leaves half of one."""
    rows = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def _by_prompt(rows: list[dict], label: Callable[[dict], str]) -> list[dict]:
    prompts: dict[tuple, dict] = {}
    for row in rows:
        prompt = plain(row.get("prompt"))
        prompts.setdefault((row.get("index"), prompt), {"prompt": prompt, "by": {}})["by"].setdefault(label(row), row)
    return list(prompts.values())
