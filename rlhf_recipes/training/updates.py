"""What callbacks learn from: updates. A log line may hold several of them, or never come (`logging_strategy=no`)."""

import logging
import math
import time
from collections import deque

from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)

# summary.json's figures and the metrics they are read from, PPO's or those of TRL's trainers of groups, whose `kl` is
# nats a token; PPO's is nats a response
FIGURES = {
    "score": ("objective/scores", "reward"),
    "kl": ("kl", "objective/kl"),
    "entropy": ("policy/entropy_avg", "entropy"),
}


def steps_an_update(args) -> int:
    """Optimizer steps that learn from one rollout; 1 for a trainer that plays none."""
    if hasattr(args, "num_ppo_epochs"):
        return args.num_ppo_epochs * args.num_mini_batches
    if hasattr(args, "steps_per_generation"):
        often = args.gradient_accumulation_steps
        return math.lcm(args.num_iterations * args.steps_per_generation, often) // often
    return 1


def tell(trainer: Trainer, event: str, /, **kwargs) -> None:
    """Call one of our own events on the callbacks that have it (see this room's docstring)."""
    for callback in trainer.callback_handler.callbacks:
        if hasattr(callback, event):
            getattr(callback, event)(trainer.args, trainer.state, trainer.control, **kwargs)


def callback_of(trainer: Trainer, kind: type[TrainerCallback]):
    """The trainer's callback of a class, None where it has none."""
    return next((callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)), None)


def saved_attributes(callback: ExportableState, state: TrainerState) -> dict:
    """The attributes of a callback that the checkpoint holds; none on a fresh start."""
    saved = state.stateful_callbacks.get(type(callback).__name__) if state.global_step else None
    return saved["attributes"] if saved else {}


class UpdateSummary(TrainerCallback, ExportableState):
    """The figures of summary.json that every policy trained on a reward has. They live in the checkpoint.

    Args:
        controller: of beta, see training.kl.
    """

    def __init__(self, controller):
        self.controller = controller
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.episodes = self.resumed_at = 0
        self.began = self.ended = 0.0

    def state(self) -> dict:
        return {"args": {}, "attributes": {"first": self.first, "last": self.last, "episodes": self.episodes}}

    def on_train_begin(self, args, state, control, **kwargs):
        for name, value in saved_attributes(self, state).items():
            setattr(self, name, value)
        self.resumed_at, self.began = self.episodes, time.time()

    def on_update(self, args, state, control, metrics, **kwargs):
        """Note what was measured; a figure that this update lacks (no answer could be scored) keeps its last value."""
        for name, places in FIGURES.items():
            value = next((metrics[place] for place in places if metrics.get(place) is not None), None)
            if value is not None:
                self.first.setdefault(name, value)
                self.last[name] = value
        self.episodes = metrics["episode"]

    def on_train_end(self, args, state, control, **kwargs):
        self.ended = time.time()

    def metrics(self) -> dict:
        """score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second."""
        seconds = self.ended - self.began
        return {
            "score_first": self.first.get("score"),
            "score_last": self.last.get("score"),
            "kl_last": self.last.get("kl"),
            "kl_coef_last": self.controller.kl_coef,
            "entropy_last": self.last.get("entropy"),
            "episodes": self.episodes,
            "episodes_per_second": (self.episodes - self.resumed_at) / seconds if seconds else None,
        }


class PracticeWarnings(TrainerCallback, ExportableState):
    """Say once what a practitioner would say on seeing the curves. What was seen and said lives in the checkpoint.

    Args:
        window: updates that a sign must hold for; a rise or fall is one from the mean of the run's first `window`
            updates to that of its last.
        gold: metric that is believed more than the score, e.g. "reward/gold"; None if there is none.
    """

    def __init__(self, window: int = 5, gold: str | None = None):
        self.window, self.gold = window, gold
        self.read = ["objective/kl", "objective/scores", "val/explained_variance", "policy/clipfrac_avg"]
        self.read += ["policy/entropy_avg", "completions/mean_length", *([gold] if gold else [])]
        self.first: list[dict] = []
        self.recent: deque = deque(maxlen=window)
        self.warned: list[str] = []

    def state(self) -> dict:
        seen = {"first": self.first, "recent": list(self.recent), "warned": self.warned}
        return {"args": {"window": self.window, "gold": self.gold}, "attributes": seen}

    def on_train_begin(self, args, state, control, **kwargs):
        if saved := saved_attributes(self, state):
            self.first, self.warned = list(saved["first"]), list(saved["warned"])
            self.recent = deque(saved["recent"], maxlen=self.window)

    def on_update(self, args, state, control, metrics, **kwargs):
        row = {name: metrics[name] for name in self.read if metrics.get(name) is not None}
        self.recent.append(row)
        if len(self.first) < self.window:
            self.first.append(row)
        if len(self.recent) < self.window or not state.is_world_process_zero:
            return
        for name, text in self._signs():
            if name not in self.warned:
                self.warned.append(name)
                logger.warning("step %d: %s", state.global_step, text)

    def _signs(self):
        def always(metric, test):
            values = [row.get(metric) for row in self.recent]
            return all(v is not None and test(v) for v in values)

        def mean(rows, metric):
            values = [row[metric] for row in rows if metric in row]
            return sum(values) / len(values) if values else 0.0

        def change(metric):
            return mean(self.recent, metric) - mean(self.first, metric)

        def times(metric):
            before = mean(self.first, metric)
            return mean(self.recent, metric) / before if before else 1.0

        if always("objective/kl", lambda v: v < -0.1):
            yield (
                "kl",
                "the KL has been negative for several updates: answers are less likely under the policy than under the "
                "reference, which cannot be if the policy wrote them; check for generation settings that the ratio "
                "does not know of",
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
