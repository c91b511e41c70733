"""What reward functions hand to TRL's `log_metric` and `log_extra`, kept until a stage writes it."""

from collections import defaultdict
from typing import Any

from rlhf_recipes.errors import UserError


class Logged:
    """Collects what the functions log about one batch of completions.

    >>> logged = Logged()
    >>> log = logged.keywords()
    >>> log["log_metric"]("share", 0.5), log["log_metric"]("share", 1.0), log["log_extra"]("found", ["7", None])
    (None, None, None)
    >>> logged.means(), logged.columns(2)
    ({'share': 0.75}, {'found': ['7', None]})
    """

    def __init__(self):
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._extra: dict[str, list] = defaultdict(list)

    def keywords(self) -> dict[str, Any]:
        """The two arguments of a reward function."""
        return {
            "log_metric": lambda name, value: self._metrics[name].append(float(value)),
            "log_extra": lambda column, values: self._extra[column].extend(map(_for_json, values)),
        }

    def means(self) -> dict[str, float]:
        """Each metric's mean over the calls of `log_metric`."""
        return {name: sum(values) / len(values) for name, values in self._metrics.items()}

    def columns(self, rows: int) -> dict[str, list]:
        """The columns of `log_extra`, each with one value a completion.

        Raises:
            UserError: a column has another number of values than `rows`.
        """
        for name, values in self._extra.items():
            if len(values) != rows:
                raise UserError(f"log_extra got {len(values)} values of {name!r} for {rows} completions")
        return dict(self._extra)


def _for_json(value):
    return value if value is None or isinstance(value, str | int | float) else str(value)
