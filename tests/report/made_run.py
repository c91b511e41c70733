"""A run directory as the stages leave it, made by code without torch: plausible curves, answers and scores."""

import json
import math
import random
from pathlib import Path

from rlhf_recipes.evaluation import statistics

ADJECTIVES = ["small", "red", "quiet", "old", "bright", "cold"]
NOUNS = ["cat", "river", "garden", "train", "letter", "lamp"]
VERSIONS = {"python": "3.11.2", "rlhf_recipes": "0.1.0", "torch": "2.13.0", "trl": "1.12.0", "transformers": "5.23.0"}


def make(
    path: Path, *, seed: int = 0, steps: int = 120, prompts: int = 60, kl_target: float = 6.0, messages=False
) -> Path:
    """Writes a finished run of pretrain, sft, reward, ppo and evaluate to `path` and returns it."""
    rng = random.Random(seed)
    questions = [_prompt(rng) for _ in range(prompts)]
    _pretrain_and_sft(path, rng, seed)
    _reward(path, rng, seed)
    _ppo(path, rng, seed, steps, kl_target)
    _evaluate(path, rng, seed, questions, kl_target, messages)
    return path


def _stage(
    path: Path,
    name: str,
    seed: int,
    seconds: float,
    figures: dict,
    trainer: dict,
    kl: dict | None = None,
    **files: list[dict],
):
    folder = path / name
    (folder / "model").mkdir(parents=True)
    for file, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    config = {"stage": name, "seed": seed, "run": {"name": path.name, "root": "runs"}, "recipe": "embedded"}
    config |= {"model": {"path": None, "init": {"hidden_size": 192}}, "trainer": trainer, "kl": kl or {}}
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    before = {"sft": "pretrain", "reward": "sft", "ppo": "sft", "evaluate": "ppo"}.get(name)
    inputs = {"policy": {"path": f"runs/{path.name}/{before}/model", "hash": "9f8e7d6c5b4a3210"}} if before else {}
    summary = {"stage": name, "status": "done", "seed": seed, "wall_seconds": seconds, "peak_rss_mb": 1432.5}
    summary |= {
        "preflight": {"estimate_mb": 1502.4, "measured_mb": 1432.5},
        "peak_gpu_mb": None,
        "versions": VERSIONS,
        "inputs": inputs,
        "metrics": figures,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def _pretrain_and_sft(path: Path, rng: random.Random, seed: int) -> None:
    for name, start, end, seconds in (("pretrain", 7.4, 1.9, 74.0), ("sft", 1.8, 0.84, 48.2)):
        rows, epochs = [], []
        for step in range(10, 301, 10):
            loss = end + (start - end) * math.exp(-step / 60) + rng.gauss(0, 0.03)
            rows.append(
                {"step": step, "time": 1.7e9 + step, "loss": loss, "grad_norm": 1 + rng.random(), "epoch": step / 100}
            )
            if step % 100 == 0:
                rows.append({"step": step, "time": 1.7e9 + step, "eval_loss": loss + 0.04, "epoch": step / 100})
                held_out = loss + 0.04
                epochs.append(
                    {"epoch": step / 100, "train_loss": loss, "eval_loss": held_out, "eval_ppl": math.exp(held_out)}
                )
        last = {key: epochs[-1][key] for key in ("train_loss", "eval_loss", "eval_ppl")}
        trainer = {"_target_": "trl.SFTConfig", "learning_rate": 3e-3, "num_train_epochs": 3, "seed": seed}
        _stage(path, name, seed, seconds, last | {"epochs": epochs}, trainer, metrics=rows)


def _reward(path: Path, rng: random.Random, seed: int) -> None:
    rows = [
        {
            "step": s,
            "time": 1.7e9,
            "loss": 0.69 * math.exp(-s / 90) + 0.38,
            "accuracy": 0.5 + 0.33 * (1 - math.exp(-s / 40)),
        }
        for s in range(5, 156, 5)
    ]
    rows.append({"step": 155, "time": 1.7e9, "eval_loss": 0.391, "eval_accuracy": 0.829, "eval_margin": 1.74})
    pairs = []
    for i in range(400):
        gap = rng.gauss(0, 2.2)
        gap = gap if rng.random() < 1 / (1 + math.exp(-gap)) else -gap  # calibrated by construction
        middle = rng.gauss(0, 1)
        pairs.append(
            {"step": 155, "index": i, "prompt": _prompt(rng), "chosen": _answer(rng, 2), "rejected": _answer(rng, 0)}
        )
        pairs[-1] |= {"score_chosen": middle + gap / 2, "score_rejected": middle - gap / 2}
    metrics = {"eval_accuracy": 0.829, "eval_loss": 0.391, "eval_margin": 1.74, "label_ceiling": 0.897}
    trainer = {"_target_": "trl.RewardConfig", "learning_rate": 5e-4, "num_train_epochs": 1, "seed": seed}
    _stage(path, "reward", seed, 39.6, metrics, trainer, metrics=rows, samples=pairs)


def _ppo(path: Path, rng: random.Random, seed: int, steps: int, kl_target: float) -> None:
    rows, beta = [_held_out(rng, 0, 0.0, -0.4, 0.0)], 0.05
    every = max(1, steps // 12)
    for step in range(1, steps + 1):
        done = step / steps
        kl = max(0.0, kl_target * (1 - math.exp(-4 * done)) + rng.gauss(0, 0.25))
        beta *= 1 + 0.1 * max(-0.2, min(0.2, kl / kl_target - 1)) * 40 / steps
        score = -0.4 + 2.6 * (1 - math.exp(-3.5 * done)) + rng.gauss(0, 0.12)
        row = {"step": step, "time": 1.7e9 + step, "episode": 64 * step, "objective/scores": score, "objective/kl": kl}
        row |= {"objective/kl_coef": beta, "objective/rlhf_reward": score - beta * kl, "objective/entropy": 40.0}
        row |= {"policy/entropy_avg": 2.4 - 0.9 * done + rng.gauss(0, 0.04), "policy/grad_norm": 0.8 + rng.random()}
        row |= {"policy/approxkl_avg": 0.006 + rng.random() / 300, "policy/clipfrac_avg": 0.05 + rng.random() / 30}
        row |= {"loss/policy_avg": -0.02 + rng.gauss(0, 0.004), "loss/value_avg": 0.4 * math.exp(-3 * done) + 0.06}
        row |= {"val/ratio": 1 + rng.gauss(0, 0.002), "learning_rate": 1e-4 * (1 - done)}
        row |= {"val/explained_variance": 0.85 - 1.2 * math.exp(-6 * done) + rng.gauss(0, 0.03)}
        row |= {"completions/mean_length": 14 + 5 * done, "completions/eos_rate": 0.95 - 0.05 * rng.random()}
        row |= {"reward/learned": score, "reward/gold": 0.1 * done}  # of the training prompts, at every update
        rows.append(row)
        if step % every == 0:
            rows.append(_held_out(rng, step, kl, score, done))
    metrics = {"score_first": rows[1]["objective/scores"], "score_last": score, "kl_last": kl, "kl_coef_last": beta}
    metrics |= {"entropy_last": 1.5, "episodes": 64 * steps, "episodes_per_second": 88.0}
    trainer = {"_target_": "rlhf_recipes.ppo.PPOConfig", "learning_rate": 1e-4, "kl_coef": 0.05, "seed": seed}
    steered = {"_target_": "rlhf_recipes.training.kl.AdaptiveKL", "target": kl_target, "horizon": 10000}
    tokens = [_tokens(rng, step) for step in (1, steps)]
    _stage(path, "ppo", seed, 121.7, metrics, trainer, kl=steered, metrics=rows, tokens=tokens)


def _held_out(rng: random.Random, step: int, kl: float, score: float, done: float) -> dict:
    over = max(0.0, math.sqrt(kl) - 2)  # gold rises with root KL, then falls: the score is being over-optimised
    gold = 0.35 + 0.22 * math.sqrt(kl) - 0.12 * over**2 + rng.gauss(0, 0.01)
    row = {"step": step, "time": 1.7e9 + step, "eval_score": score, "eval_gold": gold, "eval_kl": kl}
    return row | {"eval_length": 14 + 5 * done, "eval_win_rate": 0.5 + 0.28 * done}


def _evaluate(
    path: Path, rng: random.Random, seed: int, questions: list[str], kl_target: float, messages: bool
) -> None:
    rows, models, goods = [], {}, {}
    for model, quality in (("base", 0), ("sft", 1), ("ppo", 2)):
        goods[model] = []
        for i, prompt in enumerate(questions):
            gold = max(0.0, min(1.0, 0.25 + 0.22 * quality + rng.gauss(0, 0.18)))
            goods[model].append(gold)
            row = {"step": 0, "model": model, "index": i, "prompt": prompt, "completion": _answer(rng, quality)}
            if messages:
                row["prompt"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
            row |= {
                "score": 4 * gold - 1.5 + rng.gauss(0, 0.4),
                "gold": gold,
                "kl": abs(rng.gauss(kl_target * quality / 2, 1)),
            }
            rows.append(row | {"tokens": rng.randrange(8, 24), "finished": rng.random() < 0.95})
        scores = [row["score"] for row in rows if row["model"] == model]
        models[model] = {"score": sum(scores) / len(scores), "score_std": 0.7, "score_se": 0.09}
        models[model] |= {
            "gold": sum(goods[model]) / len(questions),
            "kl": [1.9, 0.0, kl_target][quality],
            "ppl": [2.9, 2.3, 3.1][quality],
        }
        models[model] |= {"corpus_ppl": [6.6, 7.4, 8.8][quality], "length": 14.2 + quality, "eos_rate": 0.95}
        models[model] |= {
            "distinct_1": 0.2,
            "distinct_2": 0.41 - 0.05 * quality,
            "self_similarity": 0.03 + 0.02 * quality,
        }
    win_rate = {f"{a}_vs_{b}": _wins(goods[a], goods[b]) for a, b in (("sft", "base"), ("ppo", "sft"), ("ppo", "base"))}
    metrics = {"models": models, "win_rate": win_rate, "judge": "gold", "ref": "sft", "prompts": len(questions)}
    _stage(path, "evaluate", seed, 21.3, metrics, {}, samples=rows)


def _wins(ours: list[float], theirs: list[float]) -> dict:
    return statistics.compare([a - b for a, b in zip(ours, theirs, strict=True)])._asdict()


def _prompt(rng: random.Random) -> str:
    return f"Write one sentence about a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}."


def _answer(rng: random.Random, quality: int) -> str:
    adjective, noun = rng.choice(ADJECTIVES), rng.choice(NOUNS)
    worse = f"{noun} {noun} the the {adjective} <of> & {noun}"
    return [worse, f"A {noun} is {adjective}.", f"The {adjective} {noun} waits by the door until the evening comes."][
        quality
    ]


def _tokens(rng: random.Random, step: int) -> dict:
    words = [
        "The",
        " small",
        " cat",
        " waits",
        " by",
        " the",
        " door",
        " until",
        " the",
        " evening",
        " comes",
        ".",
        "<eos>",
    ]
    tokens = [
        {
            "token": w,
            "value": 0.3 + 0.1 * i + rng.gauss(0, 0.1),
            "kl": abs(rng.gauss(0.4, 0.3)),
            "reward": rng.gauss(-0.02, 0.01),
        }
        | {"advantage": rng.gauss(0.1, 0.5)}
        for i, w in enumerate(words)
    ]
    tokens[-1]["reward"] = 1.6
    return {"step": step, "prompt": "Write one sentence about a small cat.", "tokens": tokens}
