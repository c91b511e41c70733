"""Preferences from a model's own answers: several a prompt, ranked by the rewards, kept as pairs."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="collect",
    title="Collecting preferences",
    order=30,
    starts_from={"policy": ("sft", "base"), "reward_model": ("reward", "none")},
    rows=("prompts",),
    makes="preferences",
    scores=True,
    single_process=True,
    figures=(Figure("pairs", "pairs", 0),),
)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes preferences.jsonl (prompt, chosen, rejected, margin), which `data.preferences.path` may name, and
    samples.jsonl: every answer with its scores and what the reward functions logged about it.

    Returns:
        prompts, answers, pairs, ties (prompts whose answers all score alike: no pair), score_mean, margin_mean, and the
        means of what the reward functions logged.
    """
    from rlhf_recipes import data, models
    from rlhf_recipes.data import preview
    from rlhf_recipes.engine.prompts import as_completion
    from rlhf_recipes.errors import UserError
    from rlhf_recipes.evaluation.answers import Draw, generate, tokens_of
    from rlhf_recipes.rewards.from_config import build_rewards
    from rlhf_recipes.rewards.logged import Logged
    from rlhf_recipes.runs import resolve
    from rlhf_recipes.runs.jsonl import rewrite_jsonl
    from rlhf_recipes.training.fit import quiet

    quiet()
    settings, path = cfg.collect, run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    room = models.room_for_prompt(cfg, path, settings.max_new_tokens)
    loaded = data.load(cfg.data, "prompts", tokenizer=tokenizer, max_prompt_length=room, seed=cfg.seed)
    print(loaded.describe())
    rows = loaded.train
    if cfg.preview:
        return preview.show_prompts(rows, tokenizer, cfg.preview_rows)
    rows = [rows[i] for i in range(min(settings.prompts, len(rows)))]
    prompts = [row["prompt"] for row in rows for _ in range(settings.answers)]
    columns = {n: [row[n] for row in rows for _ in range(settings.answers)] for n in rows[0] if n != "prompt"}
    policy = models.load_policy(cfg.model, path, tokenizer, frozen=True)
    answers = generate(policy, tokenizer, prompts, Draw.of(settings, cfg.seed), stops=resolve.at(path).stops)
    completions = [as_completion(answer.text, prompt) for prompt, answer in zip(prompts, answers, strict=True)]
    logged = Logged()
    columns |= tokens_of(answers) | logged.keywords()
    scores, by_name = build_rewards(cfg, run, tokenizer=tokenizer)(prompts, completions, columns)
    figures = logged.columns(len(prompts)) | {"prompt": prompts, "completion": completions, "score": scores}
    figures |= {f"reward/{name}": values for name, values in by_name.items()}
    samples = [{"step": 0} | {name: values[i] for name, values in figures.items()} for i in range(len(prompts))]
    pairs, ties = [], 0
    for k, row in enumerate(rows):
        group = slice(k * settings.answers, (k + 1) * settings.answers)
        scored = [pair for pair in zip(scores[group], completions[group], strict=True) if pair[0] is not None]
        ranked = sorted(scored, key=lambda scored: -scored[0])
        preferences = list(_preferences(ranked, settings.keep))
        ties += not preferences
        pairs += [{"prompt": row["prompt"], "chosen": a, "rejected": b, "margin": m} for m, a, b in preferences]
    if not pairs:
        raise UserError(
            "all answers to every prompt score alike, so there is no preference among them; try collect.temperature=1.0"
        )
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        print(f"collect: {len(scores) - len(known)} answers are left out: no reward scores them")
    out = run.dir / "preferences.jsonl"
    rewrite_jsonl(out, pairs)
    rewrite_jsonl(run.samples, samples)
    print(
        f"collect: {len(prompts)} answers to {len(rows)} prompts, {len(pairs)} pairs in {out}, {ties} prompts all tied"
    )
    return logged.means() | {
        "prompts": len(rows),
        "answers": len(prompts),
        "pairs": len(pairs),
        "ties": ties,
        "score_mean": sum(known) / len(known),
        "margin_mean": sum(p["margin"] for p in pairs) / len(pairs),
    }


def _preferences(ranked: list[tuple], keep: str):
    """(margin, better, worse) of answers ranked best first: the ends, or every pair that differs."""
    ends = [(0, len(ranked) - 1)] if len(ranked) > 1 else []
    chosen = ends if keep == "best_worst" else combinations(range(len(ranked)), 2)
    for i, j in chosen:
        if ranked[i][0] > ranked[j][0]:
            yield ranked[i][0] - ranked[j][0], ranked[i][1], ranked[j][1]
