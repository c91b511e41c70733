"""A model's answers and scores as the figures of summary.json and the rows of samples.jsonl."""

from collections.abc import Mapping, Sequence

from rlhf_recipes.evaluation import statistics, text
from rlhf_recipes.evaluation.measured import Measured


def summarise(of: Measured, scored: Mapping[str, Sequence[float | None]]) -> dict:
    """One model's figures; docs/reference/metrics.md defines each. None stands for what could not be measured."""
    summary = {}
    for key, values in scored.items():
        mean = statistics.mean(values)
        summary |= {key: mean.mean, f"{key}_std": mean.std, f"{key}_se": mean.se}
    summary["kl"] = None
    if of.k1 is not None:
        kl = statistics.mean(of.k1)
        summary |= {"kl": kl.mean, "kl_se": kl.se, "kl_k3": statistics.mean(of.k3).mean}
    for key in ("ppl", "corpus_ppl"):
        found = getattr(of, key)
        summary |= {key: None} if found is None else {key: found.ppl, f"{key}_tokens": found.tokens}
        summary |= {f"{key}_dropped": found.dropped} if found is not None else {}
    answers = of.answers
    summary["length"] = statistics.mean([a.tokens for a in answers]).mean if answers is not None else None
    summary["eos_rate"] = statistics.mean([a.finished for a in answers]).mean if answers is not None else None
    summary["words"] = statistics.mean([len(text.words(said)) for said in of.texts]).mean
    for n in (1, 2):
        summary[f"distinct_{n}"] = text.distinct(of.texts, n)
    summary["self_similarity"] = text.self_similarity(of.texts)
    summary["repetition"] = statistics.mean([text.repetition(said) for said in of.texts]).mean
    if of.benchmarks is not None:
        summary["benchmarks"] = of.benchmarks
    return summary


def samples(name: str, rows: Sequence[dict], of: Measured, scored: Mapping[str, Sequence[float | None]]) -> list[dict]:
    """A row a prompt: what was asked and said, and every score of it."""
    found = []
    for i, row in enumerate(rows):
        sample = {"step": 0, "model": name, "index": i, "prompt": row["prompt"], "completion": of.texts[i]}
        sample |= {key: values[i] for key, values in scored.items()}
        if of.k1 is not None:
            sample["kl"] = of.k1[i]
        if of.answers is not None:
            sample |= {"tokens": of.answers[i].tokens, "finished": of.answers[i].finished}
        found.append(sample)
    return found


def number(value) -> float | None:
    """A score as plain JSON has it: tensors and numpy scalars become floats, NaN becomes None."""
    if value is None:
        return None
    value = float(value)
    return value if value == value else None
