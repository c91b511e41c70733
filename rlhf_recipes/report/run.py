"""Reads runs/<run>/<stage>/ as it lies on disk. Nothing is required: a stage may be absent, unfinished or torn."""

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rlhf_recipes.errors import UserError

STAGES = ("pretrain", "sft", "collect", "reward", "ppo", "dpo", "grpo", "evaluate")  # in the order they are made
POLICY_STAGES = ("ppo", "grpo")  # trained on a reward, step by step

# One quantity, as the trainers name it; the first that a row has is taken.
NAMES = {
    "loss": ("loss",),
    "eval_loss": ("eval_loss",),
    "accuracy": ("accuracy", "mean_token_accuracy", "rewards/accuracies"),
    "eval_accuracy": ("eval_accuracy", "eval_rewards/accuracies"),
    "margin": ("margin", "rewards/margins"),
    "eval_margin": ("eval_margin", "eval_rewards/margins"),
    "score": ("objective/scores", "eval_score", "reward"),
    "gold": ("eval_gold", "reward/gold", "eval_reward/gold", "rewards/gold/mean", "rewards/gold_score/mean"),
    "kl": ("objective/kl", "eval_kl", "kl"),
    "kl_coef": ("objective/kl_coef", "kl_coef"),
    "win_rate": ("eval_win_rate",),
    "length": ("completions/mean_length", "eval_length"),
    "eos_rate": ("completions/eos_rate", "eval_eos_rate"),
    "entropy": ("policy/entropy_avg", "entropy", "objective/entropy"),
    "explained_variance": ("val/explained_variance",),
    "grad_norm": ("grad_norm", "policy/grad_norm"),
    "clip_fraction": ("policy/clipfrac_avg", "clip_ratio/region_mean"),
    "approxkl": ("policy/approxkl_avg",),
    "policy_loss": ("loss/policy_avg",),
    "value_loss": ("loss/value_avg",),
    "learning_rate": ("learning_rate", "lr"),
    "episode": ("episode",),
}


def pick(row: dict, quantity: str) -> float | None:
    """A quantity's value in one metrics row, None where no trainer's name for it is there or it is not finite."""
    for name in NAMES.get(quantity, (quantity,)):
        value = row.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            # GRPO logs the mean over tokens; here KL is always that of a whole response.
            return float(value) * row.get("completions/mean_length", 1.0) if name == "kl" else float(value)
    return None


@dataclass
class Stage:
    """One stage's folder. The files are read when first asked for."""

    name: str
    path: Path
    summary: dict = field(default_factory=dict)

    @property
    def metrics(self) -> dict:
        """The summary's `metrics`."""
        return self.summary.get("metrics") or {}

    @property
    def done(self) -> bool:
        """Whether summary.json says so."""
        return self.summary.get("status") == "done"

    @cached_property
    def rows(self) -> list[dict]:
        """metrics.jsonl, rows of the same step merged (training and evaluation log apart), by step."""
        merged: dict[int, dict] = {}
        for row in read_jsonl(self.path / "metrics.jsonl"):
            if isinstance(row.get("step"), int):
                merged.setdefault(row["step"], {}).update(row)
        return [merged[step] for step in sorted(merged)]

    @cached_property
    def samples(self) -> list[dict]:
        """samples.jsonl."""
        return read_jsonl(self.path / "samples.jsonl")

    @cached_property
    def tokens(self) -> list[dict]:
        """tokens.jsonl: `{"step", "prompt", "tokens": [{"token", "value", "kl", "reward", "advantage"}]}` a row."""
        return read_jsonl(self.path / "tokens.jsonl")

    @cached_property
    def config(self) -> dict:
        """config.yaml as a plain dict, empty where it is absent."""
        import yaml

        file = self.path / "config.yaml"
        if not file.is_file():
            return {}
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        return loaded if isinstance(loaded, dict) else {}

    def series(self, quantity: str) -> tuple[list[float], list[float]]:
        """Steps and values of a quantity where it was logged, all under one name: training and held-out do not mix."""
        logged = set().union(*self.rows)
        name = next((name for name in NAMES.get(quantity, (quantity,)) if name in logged), None)
        only = ("completions/mean_length", name)
        rows = ((row["step"], {key: row[key] for key in only if key in row}) for row in self.rows)
        found = [(step, value) for step, row in rows if (value := pick(row, quantity)) is not None]
        return [step for step, _ in found], [value for _, value in found]


@dataclass
class Run:
    """One run directory."""

    name: str
    path: Path
    stages: dict[str, Stage]  # those whose folder exists, in the order they are made

    @property
    def seconds(self) -> float:
        """Wall time of all finished stages."""
        return sum(stage.summary.get("wall_seconds") or 0 for stage in self.stages.values())

    @property
    def policy(self) -> Stage | None:
        """The stage trained on a reward, PPO before GRPO."""
        return next((self.stages[name] for name in POLICY_STAGES if name in self.stages), None)

    @property
    def evaluation(self) -> dict:
        """The evaluate stage's metrics, empty where there is none."""
        stage = self.stages.get("evaluate")
        return stage.metrics if stage else {}

    @property
    def judged(self) -> tuple[str | None, float]:
        """Who decided the pairs (gold, score, a reward's name; judge: an endpoint), None without any; the tie band."""
        settings = self.stages["evaluate"].config.get("evaluate") or {} if "evaluate" in self.stages else {}
        return self.evaluation.get("judge"), settings.get("tie") or 0.0

    @cached_property
    def answers(self) -> list[dict]:
        """Held-out prompts and how each model answered: `{"prompt", "by": {model: sample row}}`, in sample order.

        Taken from evaluate; without it, from the policy stage's first and last sampled step.
        """
        if "evaluate" in self.stages and self.stages["evaluate"].samples:
            return _grouped(self.stages["evaluate"].samples, lambda row: str(row.get("model", "model")))
        rows = [_with_gold(row) for row in self.policy.samples] if self.policy else []
        ends = {min((r.get("step", 0) for r in rows), default=0), max((r.get("step", 0) for r in rows), default=0)}
        kept = [row for row in rows if row.get("step", 0) in ends]
        return _grouped(kept, lambda row: f"step {row.get('step', 0)}")


def members(path: Path) -> list[Path]:
    """The run directories that a path names: itself, or those in it (a sweep: `x.sweep/0`, `x.sweep/1` ...), in order.

    Raises:
        UserError: it is no directory.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory; expected runs/<name>. Make one with: make pipeline RUN=<name>")
    if any((path / name).is_dir() for name in STAGES):
        return [path]
    inside = [run for run in path.iterdir() if any((run / name).is_dir() for name in STAGES)]
    return sorted(inside, key=lambda run: (not run.name.isdigit(), run.name.zfill(9))) or [path]


def read(path: Path) -> Run:
    """Reads a run directory.

    Raises:
        UserError: it does not exist, or holds no stage.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory; expected runs/<name>. Make one with: make pipeline RUN=<name>")
    stages = {
        name: Stage(name, path / name, read_json(path / name / "summary.json"))
        for name in STAGES
        if (path / name).is_dir()
    }
    if not stages:
        raise UserError(f"{path} holds no stage ({', '.join(STAGES)}): expected a run directory such as runs/<name>")
    return Run(path.resolve().name, path, stages)


def name_apart(runs: list[Run]) -> list[Run]:
    """Runs of the same folder name (sweeps: 0, 1, 2) are told apart by the folder above."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1 or run.name.isdigit():
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    return runs


def read_json(path: Path) -> dict:
    """A JSON object, empty where the file is absent or torn."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_jsonl(path: Path) -> list[dict]:
    """One object a line; a torn line (the run was killed while writing it) is passed over."""
    if not path.is_file():
        return []
    rows = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def plain(text) -> str:
    """A prompt or completion as one string: messages become `role: content` lines, a lone answer its content."""
    if isinstance(text, list):
        if len(text) == 1 and text[0].get("role") == "assistant":
            return str(text[0].get("content", ""))
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in text)
    return "" if text is None else str(text)


def _with_gold(row: dict) -> dict:
    """PPO samples hold the gold scorer among the rewards."""
    return row | {"gold": row["reward/gold"]} if "reward/gold" in row and "gold" not in row else row


def _grouped(rows: list[dict], label) -> list[dict]:
    grouped: dict[tuple, dict] = {}
    for row in rows:
        prompt = plain(row.get("prompt"))
        grouped.setdefault((row.get("index"), prompt), {"prompt": prompt, "by": {}})["by"].setdefault(label(row), row)
    return list(grouped.values())
