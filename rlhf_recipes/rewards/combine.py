"""Several reward functions and reward models as one: names, weights, clips and gates.

    score of a row = sum over the functions that apply of weight * clip(f)

A function that returns None for a row does not apply to it. A gate is a condition on the others: where a gate scores 0
or less, every function that is not a gate counts 0 in that row (format first, then content). A weight of 0 makes a
metric, which is logged and does not change the score. A row in which no function that counts has a score is not
scored: its score is None. This module imports neither torch nor TRL nor Hydra.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.load import RewardFunction, load_function, settled
from rlhf_recipes.rewards.messages import Text, dialogue_of, text_of

_KEYS = ("path", "weight", "kwargs", "clip", "gate")
_OUTSIDE_TRAINING = MappingProxyType(  # TRL's keywords, where no trainer gives them: in collect and evaluate, say
    {
        "trainer_state": SimpleNamespace(global_step=0, max_steps=1, epoch=0.0, num_train_epochs=1),
        "log_metric": lambda name, value: None,
        "log_extra": lambda column, values: None,
    }
)


@dataclass(frozen=True)
class Part:
    """One function of several, and how it counts.

    Args:
        function: a reward function or a reward model, called as TRL's GRPOTrainer calls one.
        weight: factor of its score in the sum; 0 for a metric.
        clip: lowest and highest score, applied before the weight; None for no limit.
        gate: whether a score of 0 or less sets every function that is not a gate to 0.
    """

    function: RewardFunction
    weight: float = 1.0
    clip: tuple[float, float] | None = None
    gate: bool = False

    @property
    def counts(self) -> bool:
        """Whether the score depends on this function; it does not depend on a metric."""
        return bool(self.weight or self.gate)


class RewardFunctions:
    """Reward functions and reward models by name, called as one. PPO, GRPO, collect, evaluate and score all use it.

    Args:
        functions: {name: one of
            a callable `f(prompts, completions, **columns) -> list[float | None]`, sync or async, which gets weight 1;
            a Part;
            a node of a reward config {path, weight, kwargs, clip, gate};
            None, which leaves the name out}.
        on_nonfinite: "stop" raises at a score that is NaN or infinite. "skip" turns it into NaN, and with it the row's
            sum where the function counts; PPO leaves such a row out of its losses.

    Raises:
        UserError: a function that cannot be loaded, or an unknown key, or a wrong weight, clip or gate.

    >>> rewards = RewardFunctions({
    ...     "tags": {"path": "rlhf_recipes.rewards.gsm8k:soft_format", "gate": True},
    ...     "right": {"path": "rlhf_recipes.rewards.gsm8k:correctness", "weight": 0.5},
    ... })
    >>> texts = ["<reasoning>6 x 12</reasoning><answer>72</answer>", "#### 72"]
    >>> rewards(["?"] * 2, texts, {"answer": ["72", "72"]})
    ([1.5, 0.0], {'tags': [0.5, 0.0], 'right': [2.0, 2.0]})
    """

    def __init__(
        self,
        functions: Mapping[str, RewardFunction | Part | Mapping[str, Any] | None] | None = None,
        *,
        on_nonfinite: str = "stop",
    ):
        self.on_nonfinite = on_nonfinite
        self.parts = {name: _part(name, given) for name, given in (functions or {}).items() if given is not None}

    def __call__(
        self, prompts: list[Text], completions: list[Text], columns: Mapping[str, Any] | None = None
    ) -> tuple[list[float | None], dict[str, list[float | None]]]:
        """Score a batch.

        Args:
            prompts, completions: (N,) texts or conversations.
            columns: {name: (N,) values} of the dataset, and TRL's further keywords: `completion_ids`, `trainer_state`,
                `log_metric`, `log_extra`. Without the last three a state of step 0 stands in, and nothing is logged.

        Returns:
            scores (N,), None where no function that counts has one; and each function's own scores by name (N,),
            clipped but neither weighted nor gated.

        Raises:
            RowError: a function raised at one sample, or returned something that is not a finite number. The message
                names the function and the sample.
            UserError: an error that no single sample causes: a function raised a UserError of its own (no such column,
                no endpoint), failed on the whole batch only, or returned another number of scores than N.
        """
        by_name = {name: self.score_by(name, prompts, completions, columns) for name in self.parts}
        return self.combine(by_name, len(completions)), by_name

    def score_by(
        self, name: str, prompts: list[Text], completions: list[Text], columns: Mapping[str, Any] | None = None
    ) -> list[float | None]:
        """One function's checked and clipped scores (N,); arguments and errors as for a call."""
        function, columns = self.parts[name].function, {**_OUTSIDE_TRAINING, **(columns or {})}
        try:
            scores = _call(function, prompts, completions, columns)
        except Exception as error:
            own = isinstance(error, UserError)
            what = str(error) if own else f"raised {type(error).__name__}: {error}"
            message = f"reward '{name}': {' '.join(what.split())}"
            if own and not isinstance(error, RowError):
                raise UserError(message) from error
            sample = _failing_sample(function, prompts, completions, columns)
            if sample is None:
                raise UserError(f"{message} [on {len(completions)} samples together, not on one alone]") from error
            if not own and not isinstance(completions[sample], str):
                message += "; completions are messages here: rlhf_recipes.rewards.messages.text_of gives their text"
            raise RowError(f"{message} [{_show(sample, prompts, completions)}]") from error
        if hasattr(scores, "tolist"):  # an array or a tensor
            scores = scores.tolist()
        if not isinstance(scores, list | tuple) or len(scores) != len(completions):
            returned = f"{len(scores)} scores" if isinstance(scores, list | tuple) else type(scores).__name__
            raise UserError(
                f"reward '{name}' returned {returned} for {len(completions)} completions; it must return a list with "
                "one float or None for each"
            )
        return [self._checked(name, score, i, prompts, completions) for i, score in enumerate(scores)]

    def combine(self, by_name: Mapping[str, list[float | None]], rows: int) -> list[float | None]:
        """The weighted and gated sum (N,) of what `score_by` returned: NaN where a score that counts is NaN, None where
        there is none that counts."""
        return [self._sum({name: scores[i] for name, scores in by_name.items()}) for i in range(rows)]

    def trl_functions(self) -> tuple[list[Callable[..., list[float | None]]], list[float]]:
        """`reward_funcs` and `reward_weights` for TRL's GRPOTrainer and RLOOTrainer, one logged metric for each.

        Without a gate TRL gets each function with its weight, and sums (or normalises) them itself but for None. TRL
        cannot compute a gate: then the first function, `combined`, has weight 1 and returns our sum, and the others
        have weight 0 and only report their scores.

        Raises:
            UserError: there is no function.

        >>> functions, weights = RewardFunctions({
        ...     "right": {"path": "rlhf_recipes.rewards.gsm8k:correctness", "weight": 0.5},
        ... }).trl_functions()
        >>> [f.__name__ for f in functions], weights, functions[0](["?"], ["#### 72"], answer=["72"])
        (['right'], [0.5], [2.0])
        """
        if not self.parts:
            raise UserError(
                "there is no reward: choose one, for example reward=gsm8k, or add reward.functions.mine.path=..."
            )
        last: dict[str, Any] = {"completions": None}

        def combined(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
            if last["completions"] is not completions:  # TRL passes the same list to each function of a batch
                last["scores"], last["by_name"] = self(prompts, completions, columns)
                last["completions"] = completions
            return last["scores"]

        def alone(name: str) -> RewardFunction:
            def function(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
                if not gated:
                    return self.score_by(name, prompts, completions, columns)
                combined(prompts, completions, **columns)
                return last["by_name"][name]

            function.__name__ = name  # under which TRL logs it
            return function

        gated = any(part.gate for part in self.parts.values())
        functions = list(map(alone, self.parts))
        if not gated:
            return functions, [part.weight for part in self.parts.values()]
        return [combined, *functions], [1.0] + [0.0] * len(functions)

    def state_dict(self) -> dict[str, Any]:
        """The states of the functions that have one (running statistics, say), by name, for a checkpoint."""
        functions = {name: part.function for name, part in self.parts.items()}
        return {name: f.state_dict() for name, f in functions.items() if hasattr(f, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, own in state.items():
            self.parts[name].function.load_state_dict(own)

    def _sum(self, row: Mapping[str, float | None]) -> float | None:
        """The score of one row, from each function's; an open gate of weight 0 does not make a row count."""
        counting = [(self.parts[n], score) for n, score in row.items() if score is not None and self.parts[n].counts]
        if any(math.isnan(score) for _, score in counting):
            return math.nan
        closed = any(part.gate and score <= 0 for part, score in counting)
        if not closed and not any(part.weight for part, _ in counting):
            return None
        return sum((part.weight * score for part, score in counting if part.gate or not closed), 0.0)

    def _checked(self, name: str, score: Any, i: int, prompts: list, completions: list) -> float | None:
        if score is None:
            return None
        try:
            value = math.nan if isinstance(score, str) else float(score)
        except (TypeError, ValueError):
            value, score = math.nan, repr(score)
        if not math.isfinite(value):
            if self.on_nonfinite == "skip" and not isinstance(score, str):
                return math.nan
            raise RowError(
                f"reward '{name}' returned {score!r}; it must return a finite number, or None where it does not apply "
                f"[{_show(i, prompts, completions)}]"
            )
        clip = self.parts[name].clip
        return value if clip is None else min(max(value, clip[0]), clip[1])


def rows_of(columns: Mapping[str, Any], start: int, stop: int, rows: int) -> dict[str, Any]:
    """The columns cut down to some rows; a value that is not a column (TRL's `trainer_state`) stays as it is."""
    return {k: v[start:stop] if isinstance(v, list) and len(v) == rows else v for k, v in columns.items()}


def _part(name: str, given: RewardFunction | Part | Mapping[str, Any]) -> Part:
    if isinstance(given, Part):
        return Part(given.function, _number(name, "weight", given.weight), given.clip, given.gate)
    if callable(given):
        return Part(given)
    if unknown := [key for key in given if key not in _KEYS]:
        raise UserError(f"reward.functions.{name} has no key {unknown[0]}; it takes {', '.join(_KEYS)}.")
    try:
        function = load_function(given)
    except UserError as error:
        raise UserError(f"reward.functions.{name}: {error}") from error
    weight, clip, gate = (given.get(key) for key in ("weight", "clip", "gate"))
    if clip is not None:
        if isinstance(clip, str) or not isinstance(clip, Iterable) or len(ends := list(clip)) != 2:
            raise UserError(f"reward.functions.{name}.clip is {clip!r}; give [lowest, highest], or null.")
        clip = low, high = tuple(_number(name, "clip", end) for end in ends)
        if low >= high:
            raise UserError(f"reward.functions.{name}.clip is [{low}, {high}]; the lowest must be below the highest.")
    if gate not in (None, True, False):
        raise UserError(f"reward.functions.{name}.gate is {gate!r}; give true or false.")
    return Part(function, 1.0 if weight is None else _number(name, "weight", weight), clip, bool(gate))


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"the {key} of reward '{name}' is {value!r}; give a finite number.")
    return float(value)


def _call(function: RewardFunction, prompts: list, completions: list, columns: Mapping[str, Any]) -> Any:
    """What the function returns for all it takes: everything, if it has **kwargs."""
    given = {**columns, "prompts": prompts, "completions": completions}
    parameters = inspect.signature(function, follow_wrapped=False).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        given = {name: value for name, value in given.items() if name in parameters}
    return settled(function(**given))


def _failing_sample(function: RewardFunction, prompts: list, completions: list, columns: dict[str, Any]) -> int | None:
    """The first sample of a failing batch on which the function fails, found by halves; None where no half fails."""
    rows = len(completions)
    if rows < 2:
        return 0 if rows else None
    for start, stop in ((0, rows // 2), (rows // 2, rows)):
        half = prompts[start:stop], completions[start:stop], rows_of(columns, start, stop, rows)
        try:
            _call(function, *half)
        except Exception:
            sample = _failing_sample(function, *half)
            return None if sample is None else start + sample
    return None


def _show(i: int, prompts: list[Text], completions: list[Text]) -> str:
    return f"sample {i}: prompt {_short(dialogue_of(prompts[i]))}, completion {_short(text_of(completions[i]))}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:60] + " ... " + text[-15:])
