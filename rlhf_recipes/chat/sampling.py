"""The settings of a talk that `/set` changes on the fly: how an answer is drawn, and what the model is shown."""

import math
from dataclasses import asdict, dataclass, replace

from omegaconf import DictConfig

from rlhf_recipes.errors import UserError, suggest


@dataclass(frozen=True)
class Sampling:
    """Args:
    temperature: 0 takes the likeliest token.
    top_p: nucleus, 1.0 for all of it. top_k: 0 for all tokens.
    repetition_penalty: 1.0 for none (arXiv:1909.05858).
    max_new_tokens: at most so many tokens an answer.
    seed: of the sampling; an answer depends on it, the talk so far and nothing else.
    history: earlier exchanges that the model is shown, as far as they fit; None for what it was trained with: none in
        the embedded domain, whose rows are single questions, else all.
    system: a system prompt before the talk; None for the one the model was trained with, "" for none.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    history: int | None = None
    system: str | None = None


ALL = 1_000_000  # exchanges: more than any talk has

# name: (type, what is allowed, in words)
NUMBERS = {
    "temperature": (float, lambda v: 0 <= v < math.inf, "a number, 0 or more"),
    "top_p": (float, lambda v: 0 < v <= 1, "a number above 0, at most 1"),
    "top_k": (int, lambda v: v >= 0, "a whole number, 0 or more"),
    "repetition_penalty": (float, lambda v: 0 < v < math.inf, "a number above 0"),
    "max_new_tokens": (int, lambda v: v >= 1, "a whole number, 1 or more"),
    "seed": (int, lambda v: v >= 0, "a whole number, 0 or more"),
    "history": (int, lambda v: v >= 0, "a whole number, 0 or more, all or own"),
}


def of_config(cfg: DictConfig) -> Sampling:
    """The `chat` node, every value checked.

    Raises:
        UserError: one is out of range.
    """
    sampling = Sampling()
    for name in (*NUMBERS, "system"):
        value = cfg.seed if name == "seed" else cfg.chat[name]
        if value is not None:
            sampling = changed(sampling, name, str(value), prefix="" if name == "seed" else "chat.")
    return sampling


def changed(sampling: Sampling, name: str, text: str, prefix: str = "") -> Sampling:
    """The settings with one of them set from what was typed.

    Args:
        text: a number, or words for `system` (`none` for no system prompt); `all` for history; `own` sets
            either back to what the model was trained with.

    Raises:
        UserError: no such setting, with did-you-mean, or a value out of range.

    >>> changed(Sampling(), "temperature", "0.2").temperature
    0.2
    >>> changed(Sampling(history=2), "history", "own").history is None
    True
    """
    names = list(asdict(sampling))
    if name not in names:
        raise UserError(f"no setting {prefix}{name}{suggest(name, names, prefix)}")
    if name == "system":
        return replace(sampling, system={"none": "", "own": None}.get(text.lower(), text))
    if name == "history" and text.lower() in ("own", "all"):
        return replace(sampling, history=None if text.lower() == "own" else ALL)
    kind, allowed, words = NUMBERS[name]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise UserError(f"{prefix}{name}={text}: expected {words}")
    return replace(sampling, **{name: value})
