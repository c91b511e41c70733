"""Several reward functions as one signal: names, weights, clips and gates.

    score of a row = sum over the functions that apply of weight * clip(f)

A function that returns None for a row does not apply to it. A gate is a condition on the rest: where a gate's own
score is 0 or less, every function that is no gate counts 0 in that row (format first, then content). A weight of 0
makes a metric: computed and logged, never felt. Kept free of torch, TRL and Hydra.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.load import RewardFunction, load_function
from rlhf_recipes.rewards.messages import Text, dialogue_of, text_of

_KEYS = ("path", "weight", "kwargs", "clip", "gate")


@dataclass(frozen=True)
class Part:
    """One function of a signal.

    Args:
        weight: what its score counts; 0 for a metric only.
        clip: lowest and highest score it may give, before the weight; None for no limit.
        gate: whether a score of 0 or less silences every function that is no gate.
    """

    function: RewardFunction
    weight: float = 1.0
    clip: tuple[float, float] | None = None
    gate: bool = False


class RewardSignal:
    """Functions and scorers, called as one.

    Args:
        functions: the `functions` node of a reward config, {name: {path, weight, kwargs, clip, gate}}.
        scorers: more of them made elsewhere, for instance reward models: {name: (callable, weight)}, same interface.
        on_nonfinite: "stop" raises at a score that is NaN or infinite; "skip" makes it NaN, and with it the row's sum
            where the function has a weight or is a gate: PPO leaves such a row out of its losses.

    Raises:
        UserError: a function that cannot be loaded, or a key, weight, clip or gate that makes no sense.

    >>> signal = RewardSignal({
    ...     "tags": {"path": "rlhf_recipes.rewards.gsm8k:soft_format", "gate": True},
    ...     "right": {"path": "rlhf_recipes.rewards.gsm8k:correctness", "weight": 0.5},
    ... })
    >>> texts = ["<reasoning>6 x 12</reasoning><answer>72</answer>", "#### 72"]
    >>> signal(["?"] * 2, texts, {"answer": ["72", "72"]})
    ([1.5, 0.0], {'tags': [0.5, 0.0], 'right': [2.0, 2.0]})
    """

    def __init__(
        self,
        functions: Mapping[str, Mapping[str, Any] | None] | None = None,
        scorers: Mapping[str, tuple[RewardFunction, float]] | None = None,
        on_nonfinite: str = "stop",
    ):
        self.on_nonfinite = on_nonfinite
        self.parts = {name: _part(name, spec) for name, spec in (functions or {}).items() if spec is not None}
        for name, (function, weight) in (scorers or {}).items():
            if name in self.parts:
                raise UserError(f"two rewards are called {name}: one under functions, one under models. Rename one.")
            self.parts[name] = Part(function, _number(name, "weight", weight))

    @property
    def gated(self) -> bool:
        """Whether any function is a gate, so that the parts cannot simply be added up."""
        return any(part.gate for part in self.parts.values())

    def __call__(
        self, prompts: list[Text], completions: list[Text], columns: Mapping[str, Any] | None = None
    ) -> tuple[list[float], dict[str, list[float | None]]]:
        """Score a batch.

        Args:
            prompts, completions: (N,) texts or conversations.
            columns: {name: (N,) values} of the dataset, and anything else the functions may want (TRL's `log_metric`).

        Returns:
            scores (N,), 0.0 where no function applies, and each function's own scores by name (N,), clipped but
            neither weighted nor gated.

        Raises:
            RowError: a function raised at one sample, or gave something that is no finite number; the message names
                the function and the sample.
            UserError: what no sample is to blame for: a function raised a UserError of its own (no such column, no
                endpoint), failed on the whole batch only, or gave another count than N.
        """
        by_name = {name: self.score_by(name, prompts, completions, columns) for name in self.parts}
        return self.combine(by_name, len(completions)), by_name

    def score_by(
        self, name: str, prompts: list[Text], completions: list[Text], columns: Mapping[str, Any] | None = None
    ) -> list[float | None]:
        """One function's checked and clipped scores (N,); arguments and errors as for the whole signal."""
        part, columns = self.parts[name], dict(columns or {})
        try:
            given = part.function(prompts=prompts, completions=completions, **columns)
        except Exception as error:
            what = str(error) if isinstance(error, UserError) else f"raised {type(error).__name__}: {error}"
            what = f"reward '{name}': {_line(what)}"
            if isinstance(error, UserError) and not isinstance(error, RowError):
                raise UserError(what) from error
            sample = _culprit(part.function, prompts, completions, columns)
            if sample is None:
                raise UserError(f"{what} [on {len(completions)} samples together, not on one alone]") from error
            raise RowError(f"{what} [{_show(sample, prompts, completions)}]") from error
        scores = _as_list(given)
        if scores is None or len(scores) != len(completions):
            count = f"{type(given).__name__}" if scores is None else f"{len(scores)} scores"
            first = _show(0, prompts, completions) if completions else "no samples"
            raise UserError(
                f"reward '{name}' returned {count} for {len(completions)} completions; it must return a list with "
                f"one float or None for each [the batch begins with {first}]"
            )
        return [self._checked(name, score, i, prompts, completions) for i, score in enumerate(scores)]

    def combine(self, by_name: Mapping[str, list[float | None]], rows: int) -> list[float]:
        """The weighted and gated sum (N,) of what `score_by` gave; NaN where a score that counts is NaN."""
        totals = []
        for i in range(rows):
            broken = [n for n, values in by_name.items() if values[i] is not None and math.isnan(values[i])]
            if any(self.parts[name].weight or self.parts[name].gate for name in broken):
                totals.append(math.nan)
                continue
            shut = any(part.gate and _shuts(by_name[name][i]) for name, part in self.parts.items())
            totals.append(
                sum(
                    (
                        part.weight * by_name[name][i]
                        for name, part in self.parts.items()
                        if by_name[name][i] is not None and name not in broken and (part.gate or not shut)
                    ),
                    0.0,
                )
            )
        return totals

    def _checked(self, name: str, score: Any, i: int, prompts: list, completions: list) -> float | None:
        if score is None:
            return None
        try:
            value = float(score)
        except (TypeError, ValueError):
            value = None
        number = value is not None and not isinstance(score, str)
        if number and not math.isfinite(value) and self.on_nonfinite == "skip":
            return math.nan
        if not number or not math.isfinite(value):
            raise RowError(
                f"reward '{name}' returned {score!r}; it must return a finite number, or None where it does not apply "
                f"[{_show(i, prompts, completions)}]"
            )
        clip = self.parts[name].clip
        return value if clip is None else min(max(value, clip[0]), clip[1])


def as_grpo_functions(signal: RewardSignal) -> tuple[list[Callable[..., list[float | None]]], list[float]]:
    """A signal as TRL's GRPOTrainer wants it: `reward_funcs` and `reward_weights`, one metric a function.

    Without a gate each function is handed over with its weight, so that TRL sums (or normalises) them itself. With a
    gate the sum is ours: the first function, `combined`, has weight 1 and gives it, the others have weight 0 and only
    report their scores. None goes through to TRL, which leaves it out of the row's sum. A row without any score that is
    felt (a metric is not, nor an open gate of weight 0) is left out of the group's baseline: by `combined`, which gives
    None there, and without a gate by our GRPOTrainer, since TRL counts the metrics in.

    Args:
        signal: at least one function.

    Returns:
        The functions, each with its metric name as `__name__`, and their weights.

    Raises:
        UserError: the signal is empty.

    >>> functions, weights = as_grpo_functions(RewardSignal({
    ...     "right": {"path": "rlhf_recipes.rewards.gsm8k:correctness", "weight": 0.5},
    ... }))
    >>> [f.__name__ for f in functions], weights, functions[0](["?"], ["#### 72"], answer=["72"])
    (['right'], [0.5], [2.0])
    """
    if not signal.parts:
        raise UserError(
            "there is no reward: choose one, for example reward=gsm8k, or add reward.functions.mine.path=..."
        )
    if not signal.gated:
        return [_named(name, _one(signal, name)) for name in signal.parts], [p.weight for p in signal.parts.values()]

    last: dict[str, Any] = {"batch": None}

    def scored(prompts: list[Text], completions: list[Text], columns: dict[str, Any]) -> dict[str, list[float | None]]:
        if last["batch"] is not completions:  # TRL hands the same list to each function of a batch
            last["scores"], last["by_name"] = signal(prompts, completions, columns)
            last["batch"] = completions
        return last["by_name"]

    def combined(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
        by_name = scored(prompts, completions, columns)
        rows = zip(*by_name.values(), strict=True)
        return [s if felt(row) else None for s, row in zip(last["scores"], rows, strict=True)]

    def felt(row: tuple[float | None, ...]) -> bool:
        scored = zip(signal.parts.values(), row, strict=True)
        return any((part.weight and score is not None) or (part.gate and _shuts(score)) for part, score in scored)

    def report(name: str) -> Callable[..., list[float | None]]:
        return lambda prompts, completions, **columns: scored(prompts, completions, columns)[name]

    functions = [combined, *(_named(name, report(name)) for name in signal.parts)]
    return functions, [1.0] + [0.0] * len(signal.parts)


def _one(signal: RewardSignal, name: str) -> Callable[..., list[float | None]]:
    return lambda prompts, completions, **columns: signal.score_by(name, prompts, completions, columns)


def _named(name: str, function: Callable) -> Callable:
    function.__name__ = name
    return function


def _part(name: str, spec: Mapping[str, Any]) -> Part:
    if unknown := [key for key in spec if key not in _KEYS]:
        raise UserError(f"reward.functions.{name} has no key {unknown[0]}; it takes {', '.join(_KEYS)}.")
    try:
        function = load_function(spec)
    except UserError as error:
        raise UserError(f"reward.functions.{name}: {error}") from error
    weight, clip, gate = spec.get("weight"), spec.get("clip"), spec.get("gate")
    if clip is not None:
        if isinstance(clip, str) or not isinstance(clip, Iterable) or len(ends := list(clip)) != 2:
            raise UserError(f"reward.functions.{name}.clip is {clip!r}; give [lowest, highest], or null.")
        low, high = (_number(name, "clip", end) for end in ends)
        if low >= high:
            raise UserError(f"reward.functions.{name}.clip is [{low}, {high}]; the lowest must be below the highest.")
        clip = (low, high)
    if gate not in (None, True, False):
        raise UserError(f"reward.functions.{name}.gate is {gate!r}; give true or false.")
    return Part(function, 1.0 if weight is None else _number(name, "weight", weight), clip, bool(gate))


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"the {key} of reward '{name}' is {value!r}; give a finite number.")
    return float(value)


def _shuts(score: float | None) -> bool:
    return score is not None and score <= 0


def _as_list(given: Any) -> list | None:
    if hasattr(given, "tolist"):  # an array or a tensor
        given = given.tolist()
    return list(given) if isinstance(given, list | tuple) else None


def _culprit(function: RewardFunction, prompts: list, completions: list, columns: dict[str, Any]) -> int | None:
    """The first sample of a failing batch on which the function fails, found by halves; None where no half fails."""
    rows = len(completions)
    if rows < 2:
        return 0 if rows else None
    for start, stop in ((0, rows // 2), (rows // 2, rows)):
        half = prompts[start:stop], completions[start:stop], rows_of(columns, start, stop, rows)
        try:
            function(prompts=half[0], completions=half[1], **half[2])
        except Exception:
            found = _culprit(function, *half)
            return None if found is None else start + found
    return None


def rows_of(columns: Mapping[str, Any], start: int, stop: int, rows: int) -> dict[str, Any]:
    """The columns cut down to some rows; what is no column (TRL's `trainer_state`) stays as it is."""
    return {k: v[start:stop] if isinstance(v, list) and len(v) == rows else v for k, v in columns.items()}


def _show(i: int, prompts: list[Text], completions: list[Text]) -> str:
    return f"sample {i}: prompt {_short(dialogue_of(prompts[i]))}, completion {_short(text_of(completions[i]))}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:60] + " ... " + text[-15:])


def _line(text: str) -> str:
    return " ".join(text.split())
