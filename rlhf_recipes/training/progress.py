"""Callbacks every stage has: metrics.jsonl, and plain progress lines where no terminal shows a bar."""

import json
import math
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback

from rlhf_recipes.runs.jsonl import forget_after, read_jsonl
from rlhf_recipes.training.samples import SamplesFile

SHOWN = ("loss", "eval_loss", "eval_accuracy", "objective/scores", "objective/kl", "reward", "kl")


def terminal() -> bool:
    """Whether progress bars can be redrawn: a terminal, or make's log pipe in front of one."""
    return sys.stderr.isatty() or os.environ.get("RLHF_RECIPES_PROGRESS") == "bar"


class MetricsFile(TrainerCallback):
    """Appends one JSON object a logged step: {"step": int, "time": seconds since the epoch, <TRL's metric names>}."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        """On resume, forget what was logged after the checkpoint; on a fresh start, forget everything."""
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not state.global_step:
            self.path.unlink(missing_ok=True)
        forget_after(self.path, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write what Trainer logs, numbers as they are."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "time": round(time.time(), 3)} | dict(logs)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, default=float) + "\n")


class Bar(ProgressCallback):
    """Trainer's bar with the figures that tell how it goes beside it, instead of a dict a line between its redraws."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show, do not print: metrics.jsonl has all of it."""
        if state.is_world_process_zero and self.training_bar is not None and (figures := _figures(logs or {})):
            self.training_bar.set_postfix_str(figures)


class PlainProgress(TrainerCallback):
    """One line every tenth of the run, for logs and terminals that cannot redraw."""

    def __init__(self):
        self.started = 0.0
        self.said = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.started, self.first = time.time(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Step, share done, time left, and the figures that tell how it goes."""
        if not state.is_world_process_zero or not state.max_steps:
            return
        tenth = 10 * state.global_step // state.max_steps
        if tenth == self.said or not logs:
            return
        self.said = tenth
        spent = time.time() - self.started
        left = spent / max(state.global_step - self.first, 1) * (state.max_steps - state.global_step)
        figures = " ".join(f"{k.split('/')[-1]} {float(logs[k]):.3g}" for k in SHOWN if logs.get(k) is not None)
        print(
            f"  step {state.global_step}/{state.max_steps} · {left:.0f} s left · {figures}", file=sys.stderr, flush=True
        )


class TimeEstimate(TrainerCallback):
    """One line after the first steps: how long the rest takes at their pace.

    The first step warms up and is not timed. PPO and GRPO are timed in whole rollouts: the steps that learn from one
    take a moment each, the rollout before them long. Evaluation and checkpoints come on top.
    """

    TIMED = 3  # steps, or rollouts

    def on_train_begin(self, args, state, control, **kwargs):
        """Count from here, on resume too."""
        self.first, self.unit, self.began = state.global_step, steps_a_rollout(args), 0.0

    def on_step_end(self, args, state, control, **kwargs):
        """Start the clock after one unit, and read it TIMED units later."""
        done = state.global_step - self.first
        if done == self.unit:
            self.began = time.time()
        left = state.max_steps - state.global_step
        if done != self.unit * (1 + self.TIMED) or left <= 0 or not state.is_world_process_zero:
            return
        pace = (time.time() - self.began) / self.TIMED
        word = "step" if self.unit == 1 else "update"
        rest = duration(pace * left / self.unit)
        line = f"  time: {pace:.3g} s for one {word}, {left // self.unit} {word}s left: about {rest}"
        tqdm.write(line, file=sys.stderr)  # above the bar, where there is one


def steps_a_rollout(args) -> int:
    """Optimizer steps that learn from the same answers: 1 where none are written."""
    if hasattr(args, "num_ppo_epochs"):
        return args.num_ppo_epochs * args.num_mini_batches
    if hasattr(args, "steps_per_generation"):
        return max(1, args.num_iterations * args.steps_per_generation // args.gradient_accumulation_steps)
    return 1


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> duration(42), duration(754), duration(9000)
    ('42 s', '13 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class HeldOut(SamplesFile):
    """PPO's answers to held-out prompts as it goes: samples.jsonl, and how often they beat the SFT model's.

    The same prompts and the same random numbers every time, so that two rows differ by the policy alone. Judged by
    reward/gold where it is watched, else by the score. Logs eval_score, eval_gold, eval_kl, eval_length and
    eval_win_rate (share of decided comparisons with the answers before training). An answer without a number, as
    on_nonfinite=skip leaves it, counts in none of them.
    """

    def __init__(self, trainer, path: Path):
        super().__init__(path)
        self.trainer = trainer
        self.before: list[float] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Answer before training; a resumed run has done so already."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.trainer.eval_dataset is None or not len(self.trainer.eval_dataset):
            return
        if state.global_step:
            self.before = [_judged(row) for row in read_jsonl(self.path) if row["step"] == 0]
        else:
            self.path.unlink(missing_ok=True)
            self.trainer.generate_completions(sampling=True)

    def on_samples(self, args, state, control, samples=(), **kwargs):
        """Append the rows and log their means."""
        super().on_samples(args, state, control, samples)
        judged = [_judged(row) for row in samples]
        self.before = self.before or judged
        wins = sum(a > b for a, b in zip(judged, self.before, strict=True))
        losses = sum(a < b for a, b in zip(judged, self.before, strict=True))
        figures = {"eval_score": "score", "eval_kl": "kl", "eval_length": "length", "eval_gold": "reward/gold"}
        logs = {k: _mean([row[v] for row in samples]) for k, v in figures.items() if v in samples[0]}
        due = control.should_log
        self.trainer.log(logs | {"eval_win_rate": wins / (wins + losses) if wins + losses else 0.5})
        self.trainer.control.should_log = due  # Trainer takes any line for the one that was due


class TokensFile(TrainerCallback):
    """One training answer token by token, each time PPOTrainer shows one: token, value, KL, reward, advantage."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        """On resume, forget what came after the checkpoint."""
        if state.is_world_process_zero:
            forget_after(self.path, state.global_step)

    def on_experience(self, args, state, control, tokens=(), **kwargs):
        """Append one answer."""
        if state.is_world_process_zero and tokens:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, "tokens": list(tokens)}, ensure_ascii=False) + "\n")


def _judged(row: dict) -> float:
    return row.get("reward/gold", row["score"])


def _mean(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _figures(logs: dict) -> str:
    return " ".join(f"{k.split('/')[-1]} {float(logs[k]):.3g}" for k in SHOWN if logs.get(k) is not None)
