"""Means over an evaluation's batches of unlike size, and over what was measured at all."""

from collections.abc import Callable, Iterable


def weigh(means: dict[str, list[float]], weights_of: Callable[[str], list[int]]) -> None:
    """Replace the batches' means of each metric by their weighted mean. TRL 1.12 averages them as if all were alike.

    Args:
        means: {metric: mean of each batch}; a metric without a value for each batch (num_tokens) is left as it is.
        weights_of: metric -> what each batch weighs: its rows or tokens.
    """
    for name, values in means.items():
        weights = weights_of(name)
        if len(values) == len(weights) and sum(weights):
            means[name] = [sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)]


def known_mean(values: Iterable[float | None], otherwise: float | None = None) -> float | None:
    """The mean of those that are neither None nor NaN; `otherwise` where there are none."""
    known = [value for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else otherwise
