"""Answers to held-out prompts while a policy trains: in files, on the screen, in wandb."""

import math
import time
from pathlib import Path

from transformers import TrainerCallback

from rlhf_recipes.runs.jsonl import read_jsonl
from rlhf_recipes.training.progress import JsonLines


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


class HeldOut(SamplesFile):
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
        logs = {k: _mean([row[v] for row in samples]) for k, v in figures.items() if v in samples[0]}
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
        keys = dict.fromkeys(key for row in samples for key in row)  # not every prompt can be judged: rows may differ
        columns = [key for key in keys if key not in ("step", "episode")]
        if self.rows:
            self._print(f"step {state.global_step}", columns, samples[: self.rows])
        if "wandb" in (args.report_to or []):
            import wandb

            if wandb.run is not None:
                table = wandb.Table(columns=columns, data=[[row.get(c) for c in columns] for row in samples])
                wandb.log({"completions": table})

    def on_experience(self, args, state, control, tokens=()):
        if self.tokens and tokens and state.is_world_process_zero:
            self._print(f"step {state.global_step}, one answer", list(tokens[0]), tokens)

    @staticmethod
    def _print(title: str, columns: list[str], rows) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, title=title, show_lines=True)
        for row in rows:
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else _text(v) for v in (row.get(c) for c in columns)))
        Console().print(table)


def _text(value) -> str:
    from rich.markup import escape

    if isinstance(value, list):
        value = "\n".join(f"{m['role']}: {m['content']}" for m in value)
    return escape("" if value is None else str(value))


def _judged(row: dict) -> float:
    return row.get("reward/gold", row["score"])


def _mean(values: list[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
