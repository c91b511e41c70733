"""Answers to held-out prompts while a policy trains: in files, on the screen, in wandb."""

import math
import time
from pathlib import Path

from transformers import TrainerCallback

from rlhf_recipes.runs.jsonl import read_jsonl
from rlhf_recipes.training.means import known_mean
from rlhf_recipes.training.progress import JsonLines

ANSWER = ("prompt", "completion")
COUNTERS = ("step", "episode")  # in samples.jsonl, and in no table


class SamplesFile(JsonLines):
    """samples.jsonl, an object an answer to a held-out prompt: step, prompt, completion, score ..."""

    def on_samples(self, args, state, control, samples=()):
        now = time.time()
        self.append(state, [{**row, "time": now} for row in samples])


class TokensFile(JsonLines):
    """tokens.jsonl, one training answer a line, token by token: token, value, KL, reward, advantage."""

    def on_experience(self, args, state, control, tokens=()):
        if tokens:
            self.append(state, [{"step": state.global_step, "tokens": list(tokens)}])


class ComparedSamples(SamplesFile):
    """PPO's answers to held-out prompts as it trains: samples.jsonl, and how often they beat the SFT model's.

    The prompts and the random numbers are the same every time, so that two rows differ by the policy alone. Answers are
    judged by reward/gold where it is watched, else by the score. Logs eval_score, eval_gold, eval_kl, eval_length and
    eval_win_rate (share of decided comparisons with the answers before training). An answer whose score is NaN, as
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
            self.trainer.generate_completions(sampling=True)

    def on_samples(self, args, state, control, samples=(), **kwargs):
        """Append the rows and log their means."""
        super().on_samples(args, state, control, samples)
        judged = [_judged(row) for row in samples]
        self.before = self.before or judged
        wins = sum(a > b for a, b in zip(judged, self.before, strict=True))
        losses = sum(a < b for a, b in zip(judged, self.before, strict=True))
        figures = {"eval_score": "score", "eval_kl": "kl", "eval_length": "length", "eval_gold": "reward/gold"}
        logs = {k: known_mean((row[v] for row in samples), math.nan) for k, v in figures.items() if v in samples[0]}
        due = control.should_log
        self.trainer.log(logs | {"eval_win_rate": wins / (wins + losses) if wins + losses else 0.5})
        self.trainer.control.should_log = due  # Trainer takes any line for the one that was due


class SamplesTable(TrainerCallback):
    """Answers to held-out prompts on the screen, and in wandb where it runs; `tokens` adds one answer token by token.

    Args:
        rows: answers a table on the screen; 0: none there. wandb's table has all of them.
        tokens: show each token's KL, value, reward and advantage of one training answer.
    """

    def __init__(self, rows: int = 5, tokens: bool = False):
        self.rows, self.tokens = rows, tokens

    def on_samples(self, args, state, control, samples=()):
        if not samples or not state.is_world_process_zero:
            return
        if self.rows:
            _print_answers(f"step {state.global_step}", samples[: self.rows])
        if "wandb" in (args.report_to or []):
            import wandb

            if wandb.run is not None:
                keys = dict.fromkeys(key for row in samples for key in row if key not in COUNTERS)
                table = wandb.Table(columns=[*keys], data=[[row.get(key) for key in keys] for row in samples])
                wandb.log({"completions": table})

    def on_experience(self, args, state, control, tokens=()):
        if self.tokens and tokens and state.is_world_process_zero:
            _print_tokens(f"step {state.global_step}, one answer", tokens)


def _print_answers(title: str, rows) -> None:
    """Prompt and answer side by side, and what else a row has in one line below them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(title, style="bold"))
    for row in rows:
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for _ in ANSWER:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*(Text(f"{name}: {_text(row.get(name))}") for name in ANSWER))
        figures = [f"{k} {_text(v)}" for k, v in row.items() if k not in (*ANSWER, *COUNTERS) and v is not None]
        console.print(grid, Text(" · ".join(figures), style="dim"))
        console.print()


def _print_tokens(title: str, rows) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0], title=title, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    Console().print(table)


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        value = "\n".join(f"{m['role']}: {m['content']}" if isinstance(m, dict) else str(m) for m in value)
    return "" if value is None else str(value)


def _judged(row: dict) -> float:
    return row.get("reward/gold", row["score"])
