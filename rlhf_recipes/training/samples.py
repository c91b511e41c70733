"""Answers to held-out prompts: in a file, on the screen, in wandb."""

import json
import time
from pathlib import Path

from transformers import TrainerCallback

from rlhf_recipes.runs.jsonl import forget_after


class SamplesFile(TrainerCallback):
    """Append answers to held-out prompts to a file, one JSON object a line: step, prompt, completion, score ...

    Args:
        path: samples.jsonl; lines of steps that a resumed run will play again are dropped when it begins.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            forget_after(self.path, state.global_step)

    def on_samples(self, args, state, control, samples=()):
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**row, "time": now}, ensure_ascii=False) + "\n" for row in samples)


class SamplesTable(TrainerCallback):
    """Answers to held-out prompts on the screen, and in wandb where it runs; `tokens` adds one answer token by token.

    Args:
        rows: answers a table on the screen; 0 for wandb's only, which has all of them.
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
