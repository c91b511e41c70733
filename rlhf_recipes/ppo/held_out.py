"""Answers to held-out prompts: for evaluation and for the sample table."""

import math
from contextlib import AbstractContextManager

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from rlhf_recipes.ppo.episodes import Player
from rlhf_recipes.ppo.plan import Plan


def answer_held_out(
    player: Player, dataset: Dataset, count: int, plan: Plan, seed: int, context: AbstractContextManager
) -> dict[str, list]:
    """Columns prompt, completion, score, kl, length, eos_rate and reward/<name> of the first `count` rows.

    The random numbers depend on `seed` alone, so that two tables differ by the policy alone.

    Args:
        context: entered around the forwards: eval mode, precision.
    """
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(count, player.args.response_length, generator=generator)
    table: dict[str, list] = {}
    places = list(range(count))[plan.rank :: plan.world]
    size = player.args.local_rollout_forward_batch_size
    with context:
        for start in range(0, len(places), size):
            part = places[start : start + size]
            played = player.play([dataset[i] for i in part], uniforms[part])
            columns = {
                "place": part,
                "prompt": played.answers.prompts,
                "completion": played.answers.completions,
                "score": played.scores.tolist(),
                "kl": played.kl.sum(1).tolist(),
                "length": played.sequences.mask.sum(1).float().tolist(),
                "eos_rate": played.finished.float().tolist(),
            }
            columns |= {f"reward/{name}": played.by_name[:, i].tolist() for i, name in enumerate(played.names)}
            for name, values in columns.items():
                table.setdefault(name, []).extend(values)
    parts = gather_object([table]) if plan.world > 1 else [table]
    table = {name: [v for part in parts for v in part.get(name, [])] for name in parts[0]}
    order = sorted(range(len(table["place"])), key=table["place"].__getitem__)
    return {name: [values[i] for i in order] for name, values in table.items() if name != "place"}


def means(table: dict[str, list], prefix: str) -> dict[str, float]:
    """<prefix>_<column>: each numeric column's mean over the rows that have a number; reward/gold as gold too."""
    numbers = {k: [x for x in v if not math.isnan(x)] for k, v in table.items() if k not in ("prompt", "completion")}
    if "reward/gold" in numbers:
        numbers["gold"] = numbers["reward/gold"]
    return {f"{prefix}_{k}": sum(v) / len(v) if v else math.nan for k, v in numbers.items()}
