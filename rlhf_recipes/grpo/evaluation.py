"""Held-out prompts answered in training: greedily, and k times for a vote, by TRL's own generation, vLLM included."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate.utils import gather_object

from rlhf_recipes.rewards.majority import answer_of
from rlhf_recipes.rewards.messages import text_of
from rlhf_recipes.training.means import known_mean

Scorer = Callable[..., list[float | None]]


@dataclass(frozen=True)
class EvalSettings:
    """How held-out prompts are measured.

    Args:
        accuracy: a reward function; an answer is right where it gives more than 0, and does not count where it gives
            None. None: accuracy is not measured.
        vote: `f(prompts, completions, **columns)`, the answer that each completion settles on, None for none. None:
            `answers_of`.
        prompts: how many; the same ones every time.
    """

    accuracy: Scorer | None = None
    vote: Callable[..., list[Hashable | None]] | None = None
    prompts: int = 64


def answers_of(prompts: list, completions: list, **columns) -> list[Hashable]:
    """What each completion says: its final number, else its marked words, else all its words, as in stage=evaluate."""
    return [answer_of(text_of(completion)) for completion in completions]


def majority(votes: Sequence[Hashable | None], scores: Sequence[float | None]) -> float | None:
    """The score of the answer most often given, the first of equals; 0 where nobody gave one.

    Args:
        votes: `(k,)` answers to one prompt, None for none.
        scores: `(k,)` of the same answers.

    Returns:
        None where the prompt cannot be judged.

    >>> majority(["7", "8", "7"], [1.0, 0.0, 1.0]), majority([None, None], [0.0, 0.0]), majority(["a"], [None])
    (1.0, 0.0, None)
    """
    if all(score is None for score in scores):
        return None
    count = Counter(vote for vote in votes if vote is not None)
    if not count:
        return 0.0
    return scores[votes.index(count.most_common(1)[0][0])]


def measure(trainer, dataset) -> tuple[dict[str, float | None], list[dict]]:
    """Answer the first held-out prompts once greedily and k times as in training; k is `trainer.num_generations_eval`.

    The random numbers are the same every time, and training's are left as they were.

    Args:
        trainer: a GroupTrainer in eval mode, with `eval_settings`.
        dataset: rows with `prompt` and any other column.

    Returns:
        reward and rewards/<name>/mean over the k answers; where accuracy can be told, accuracy (greedy), mean_at_<k>
        and majority_at_<k>, shares of the prompts that can be judged. And a row a prompt for samples.jsonl.
    """
    settings, k = trainer.eval_settings, trainer.num_generations_eval
    rows = [row | {"index": i} for i, row in enumerate(islice(dataset, settings.prompts))]
    with trainer.accelerator.split_between_processes(rows, apply_padding=True) as share, _seeded(trainer):
        with _greedy(trainer):
            greedy = _answer(trainer, share, 1)
        sampled = _answer(trainer, [row for row in share for _ in range(k)], k)
    trainer._metrics["eval"].clear()  # TRL's completions/…: the greedy answers' too, and a mean of batches' means
    for i, row in enumerate(greedy):
        row["votes"] = sampled[i * k : (i + 1) * k]
    unique = {row["index"]: row for row in gather_object(greedy)}  # without the rows that padded the last process
    return _figures(trainer, list(unique.values()), k), [_sample(trainer, row) for row in unique.values()]


def _answer(trainer, rows: list[dict], group: int) -> list[dict]:
    """Rows with completion, rewards by name, right (None where nothing can tell) and vote; groups stay together."""
    done, size = [], max(trainer.args.per_device_eval_batch_size // group, 1) * group
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        prompts = [row["prompt"] for row in part]
        with torch.no_grad():
            answers = trainer._generate(prompts)
        # RLOO's answers are (prompt ids, ids, texts); GRPO's have a tool mask before the texts, and more after them
        ids, completions = answers[1], answers[2 if len(answers) == 3 else 3]
        rewards = trainer._own(trainer._calculate_rewards(part, prompts, completions, ids)).tolist()
        trainer._pending_metrics.clear()  # what reward functions log of themselves is meant for training
        extra = {name: values for name, values in trainer._pending_extra_logs.items() if len(values) == len(part)}
        trainer._pending_extra_logs.clear()
        columns = {name: [row[name] for row in part] for name in part[0] if name not in ("prompt", "index")}
        judged = trainer.eval_settings.accuracy and trainer.eval_settings.accuracy(
            prompts=prompts, completions=completions, **columns
        )
        votes = (trainer.eval_settings.vote or answers_of)(prompts=prompts, completions=completions, **columns)
        for i, row in enumerate(part):
            right = None if not judged or judged[i] is None else float(judged[i] > 0)
            kept = {"index": row["index"], "prompt": row["prompt"], "completion": completions[i]}
            kept |= {"length": len(ids[i]), "cut_off": ids[i][-1] != trainer._tokenizer.eos_token_id}
            kept |= {"rewards": rewards[i], "right": right, "vote": votes[i]}
            done.append(kept | {"extra": {name: values[i] for name, values in extra.items()}})
    return done


def _figures(trainer, rows: list[dict], k: int) -> dict[str, float | None]:
    sampled = [answer for row in rows for answer in row["votes"]]
    figures = {"reward": known_mean(_weighted(trainer, answer["rewards"]) for answer in sampled)}
    for i, name in enumerate(trainer.reward_func_names):
        figures[f"rewards/{name}/mean"] = known_mean(answer["rewards"][i] for answer in sampled)
    figures["completions/clipped_ratio"] = known_mean(float(answer["cut_off"]) for answer in sampled)
    ended = [answer["length"] for answer in sampled if not answer["cut_off"]] or [0]  # 0: as TRL has it
    for kind, lengths in (("", [answer["length"] for answer in sampled]), ("terminated_", ended)):
        for name, value in (("mean", known_mean(lengths)), ("min", min(lengths)), ("max", max(lengths))):
            figures[f"completions/{name}_{kind}length"] = value
    if any(row["right"] is not None for row in rows):
        figures["accuracy"] = known_mean(row["right"] for row in rows)
        figures[f"mean_at_{k}"] = known_mean(answer["right"] for answer in sampled)
        figures[f"majority_at_{k}"] = known_mean(
            majority([a["vote"] for a in row["votes"]], [a["right"] for a in row["votes"]]) for row in rows
        )
    return figures


def figures_of(trainer) -> list[str]:
    """The names of what `measure` can tell of a trainer's held-out prompts, but for its answers' lengths."""
    sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": None}
    k, names = trainer.num_generations_eval, ["reward", *(f"rewards/{name}/mean" for name in trainer.reward_func_names)]
    names += ["accuracy", f"mean_at_{k}", f"majority_at_{k}"] if trainer.eval_settings.accuracy else []
    return [f"{part}_{name}" if part else name for part in sets for name in names]


def _sample(trainer, row: dict) -> dict:
    sample = {"step": trainer.state.global_step, "prompt": row["prompt"], "completion": row["completion"]}
    sample["score"] = _weighted(trainer, row["rewards"])
    sample |= {f"reward/{n}": _or_none(r) for n, r in zip(trainer.reward_func_names, row["rewards"], strict=True)}
    sample |= {} if row["right"] is None else {"accuracy": row["right"]}
    return row["extra"] | sample


def _weighted(trainer, rewards: list[float]) -> float | None:
    pairs = zip(trainer.reward_weights.tolist(), rewards, strict=True)
    scored = [weight * reward for weight, reward in pairs if weight and reward == reward]
    return sum(scored) if scored else None


def _or_none(value: float) -> float | None:
    return value if value == value else None


@contextmanager
def _greedy(trainer):
    """Set TRL's sampling settings aside for greedy answers, and put them back."""
    engine = trainer.vllm_generation if trainer.use_vllm else trainer
    was = {name: getattr(engine, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    k, kwargs = trainer.num_generations_eval, getattr(trainer, "generation_kwargs", None)
    config = getattr(trainer, "generation_config", None)
    trainer.num_generations_eval = 1  # or vLLM would answer every k-th prompt only
    if trainer.use_vllm:
        engine.temperature, engine.top_p, engine.top_k, engine.min_p = 0.0, 1.0, 0, None
    else:
        off = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None}
        trainer.generation_kwargs = kwargs | off
        trainer.generation_config = type(config)(**trainer.generation_kwargs, disable_compile=True)
    try:
        yield
    finally:
        trainer.num_generations_eval = k
        for name, value in was.items():
            setattr(engine, name, value)
        if not trainer.use_vllm:
            trainer.generation_kwargs, trainer.generation_config = kwargs, config


@contextmanager
def _seeded(trainer):
    device = trainer.accelerator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(trainer.args.seed)
        yield
