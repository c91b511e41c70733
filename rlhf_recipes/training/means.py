"""Means over an evaluation's batches of unlike size."""

from collections.abc import Callable


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
