"""What a practitioner would say on seeing the curves."""

import logging
from collections import deque

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlhf_recipes.training.kl_control import remembered

logger = logging.getLogger(__name__)


class PracticeWarnings(TrainerCallback, ExportableState):
    """Say once what a practitioner would say on seeing the curves. What was seen and said lives in the checkpoint.

    Args:
        window: log lines that a sign must hold for; a rise or fall is one from the mean of the run's first `window`
            lines to that of its last.
        gold: metric that is believed more than the score, e.g. "reward/gold"; None if there is none.
    """

    def __init__(self, window: int = 5, gold: str | None = None):
        self.window, self.gold = window, gold
        self.read = ["objective/kl", "objective/scores", "val/explained_variance", "policy/clipfrac_avg"]
        self.read += ["policy/entropy_avg", "completions/mean_length", *([gold] if gold else [])]
        self.first: list[dict] = []
        self.history: deque = deque(maxlen=window)
        self.said: list[str] = []

    def state(self) -> dict:
        seen = {"first": self.first, "history": list(self.history), "said": self.said}
        return {"args": {"window": self.window, "gold": self.gold}, "attributes": seen}

    def on_train_begin(self, args, state, control, **kwargs):
        if saved := remembered(self, state):
            self.first, self.said = list(saved["first"]), list(saved["said"])
            self.history = deque(saved["history"], maxlen=self.window)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "objective/kl" not in logs:
            return
        row = {name: logs[name] for name in self.read if logs.get(name) is not None}
        self.history.append(row)
        if len(self.first) < self.window:
            self.first.append(row)
        if len(self.history) < self.window or not state.is_world_process_zero:
            return
        for name, text in self._signs():
            if name not in self.said:
                self.said.append(name)
                logger.warning("step %d: %s", state.global_step, text)

    def _signs(self):
        def always(metric, test):
            values = [row.get(metric) for row in self.history]
            return all(v is not None and test(v) for v in values)

        def mean(rows, metric):
            values = [row[metric] for row in rows if metric in row]
            return sum(values) / len(values) if values else 0.0

        def change(metric):
            return mean(self.history, metric) - mean(self.first, metric)

        def times(metric):
            before = mean(self.first, metric)
            return mean(self.history, metric) / before if before else 1.0

        if always("objective/kl", lambda v: v < -0.1):
            yield (
                "kl",
                (
                    "the KL is negative for long: answers are less likely under the policy than the reference, which "
                    "sampling from the policy cannot give; look for generation settings that differ from the ratio's"
                ),
            )
        if always("val/explained_variance", lambda v: v < 0):
            yield "critic", "explained variance stays below 0: the critic is worse than a constant; raise its rate"
        if always("policy/clipfrac_avg", lambda v: v > 0.5):
            yield "clip", "more than half of all tokens are clipped: lower learning_rate or num_ppo_epochs"
        if times("policy/entropy_avg") < 0.1:
            yield "entropy", "the entropy fell below a tenth of its start: the policy is collapsing; raise kl_coef"
        rising = change("objective/scores") > 0
        if rising and self.gold and change(self.gold) < 0:
            yield "gold", f"the score rises while {self.gold} falls: the reward is being over-optimised"
        if rising and times("completions/mean_length") > 1.5:
            yield "length", "the score rises with length (half as long again): the reward may be paying for length"
