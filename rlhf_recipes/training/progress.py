"""What every stage leaves and shows while it trains: metrics.jsonl, a bar or plain lines, the time that is left."""

import json
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback

from rlhf_recipes.runs.jsonl import forget_after
from rlhf_recipes.training.updates import steps_an_update

SHOWN = ("loss", "eval_loss", "eval_accuracy", "objective/scores", "objective/kl", "reward", "kl")


def terminal() -> bool:
    """Whether progress bars can be redrawn: a terminal, or make's log pipe in front of one."""
    return sys.stderr.isatty() or os.environ.get("RLHF_RECIPES_PROGRESS") == "bar"


class JsonLines(TrainerCallback):
    """A file of one JSON object a line. A fresh run starts it anew; a resumed one drops what it will do again."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not state.global_step:
                self.path.unlink(missing_ok=True)
            forget_after(self.path, state.global_step)

    def append(self, state, rows) -> None:
        """Add rows, in the first process only."""
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False, default=float) + "\n" for row in rows)


class MetricsFile(JsonLines):
    """metrics.jsonl, an object a logged step: {"step": int, "time": seconds since the epoch, <TRL's metric names>}."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write what Trainer logs, numbers as they are."""
        if logs:
            self.append(state, [{"step": state.global_step, "time": round(time.time(), 3)} | dict(logs)])


class Bar(ProgressCallback):
    """Trainer's bar with the most telling figures beside it, instead of a dict a line between its redraws."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show, do not print: metrics.jsonl has all of it."""
        if state.is_world_process_zero and self.training_bar is not None and (figures := _figures(logs or {})):
            self.training_bar.set_postfix_str(figures)


class PlainProgress(TrainerCallback):
    """One line every tenth of the run, for logs and for terminals that cannot redraw."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.began, self.first, self.printed = time.time(), state.global_step, 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Step, time left, and the most telling figures."""
        if not state.is_world_process_zero or not state.max_steps or not logs:
            return
        tenth = 10 * state.global_step // state.max_steps
        figures = _figures(logs)
        if tenth == self.printed or not figures:
            return
        self.printed = tenth
        pace = (time.time() - self.began) / max(state.global_step - self.first, 1)
        left = pace * (state.max_steps - state.global_step)
        line = f"  step {state.global_step}/{state.max_steps} · {left:.0f} s left · {figures}"
        print(line, file=sys.stderr, flush=True)


class TimeEstimate(TrainerCallback):
    """One line after the first steps: how long the rest takes at their pace.

    The first step warms up and is not timed. Trainers that play rollouts are timed in whole updates: the steps that
    learn from a rollout are short, the rollout before them is long. Evaluation and checkpoints come on top.
    """

    TIMED = 3  # steps, or updates

    def on_train_begin(self, args, state, control, **kwargs):
        """Count from here, on resume too."""
        self.first, self.unit, self.began = state.global_step, steps_an_update(args), 0.0

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


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> duration(42), duration(754), duration(9000)
    ('42 s', '13 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _figures(logs: dict) -> str:
    return " ".join(f"{k.split('/')[-1]} {float(logs[k]):.3g}" for k in SHOWN if logs.get(k) is not None)
