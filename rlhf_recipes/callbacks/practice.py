"""What a practitioner would say on seeing the curves."""

import logging
from collections import deque

from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class PracticeWarnings(TrainerCallback):
    """Say once what a practitioner would say on seeing the curves.

    Args:
        window: log lines that a sign must hold for, and over which a rise or fall is measured.
        gold: metric that is believed more than the score, e.g. "reward/gold"; None if there is none.
    """

    def __init__(self, window: int = 5, gold: str | None = None):
        self.window, self.gold = window, gold
        self.history: deque = deque(maxlen=window)
        self.first: dict | None = None
        self.said: set[str] = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "objective/kl" not in logs:
            return
        self.first = self.first or dict(logs)
        self.history.append(dict(logs))
        if len(self.history) < self.window or not state.is_world_process_zero:
            return
        for name, text in self._signs():
            if name not in self.said:
                self.said.add(name)
                logger.warning("step %d: %s", state.global_step, text)

    def _signs(self):
        def always(metric, test):
            values = [row.get(metric) for row in self.history]
            return all(v is not None and test(v) for v in values)

        def change(metric):
            old, new = self.first.get(metric), self.history[-1].get(metric)
            return (new - old) if old is not None and new is not None else 0.0

        last = self.history[-1]
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
        entropy = self.first.get("policy/entropy_avg")
        if entropy and last.get("policy/entropy_avg", entropy) < 0.1 * entropy:
            yield "entropy", "the entropy fell below a tenth of its start: the policy is collapsing; raise kl_coef"
        rising = change("objective/scores") > 0
        if rising and self.gold and change(self.gold) < 0:
            yield "gold", f"the score rises while {self.gold} falls: the reward is being over-optimised"
        length = self.first.get("completions/mean_length")
        if rising and length and last["completions/mean_length"] > 1.5 * length:
            yield "length", "the score rises with length (half as long again): the reward may be paying for length"
