"""Beta steered after every update, and a run stopped when the KL runs away."""

import json
import logging
import math
import shutil
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.checkpoints import remove, replace, standing
from rlhf_recipes.training.updates import saved_attributes, steps_an_update

logger = logging.getLogger(__name__)


class KLControl(TrainerCallback, ExportableState):
    """Let a controller set beta after every update; beta lives in the checkpoint.

    PPO reads `args.kl_coef`, GRPO and RLOO read `args.beta`. The latter two need a beta above 0 to begin with: without
    one they load no reference.

    Args:
        controller: has `kl_coef`, `update(kl, episodes)`, `state_dict()` and `load_state_dict()`: see training.kl.
    """

    def __init__(self, controller):
        self.controller = controller
        self.episodes = 0

    def state(self) -> dict:
        return {"args": {}, "attributes": {"saved": self.controller.state_dict(), "episodes": self.episodes}}

    def on_train_begin(self, args, state, control, **kwargs):
        if saved := saved_attributes(self, state):
            self.controller.load_state_dict(saved["saved"])
            self.episodes = saved["episodes"]
        self._set(args, self.controller.kl_coef)

    def on_update(self, args, state, control, metrics, **kwargs):
        """Move beta. An update without a KL leaves it alone; its episodes count with the next one's."""
        if metrics.get("objective/kl") is not None:
            self._set(args, self.controller.update(metrics["objective/kl"], metrics["episode"] - self.episodes))
            self.episodes = metrics["episode"]

    @staticmethod
    def _set(args, beta: float) -> None:
        setattr(args, "kl_coef" if hasattr(args, "kl_coef") else "beta", beta)


class KLRunaway(TrainerCallback, ExportableState):
    """Stop a run whose policy has left the reference, and keep the best policy that had not.

    A rollout measures the weights that wrote it. What is kept is saved there and then, before the update learns from
    it: the policy kept is the one that the figures are of. They lie beside it, and a resumed run goes on from them.

    Args:
        max_kl: nats a response; above it for `patience` rollouts in a row the run stops at the end of the update.
        patience: rollouts.
        folder: where the policy with the highest objective/rlhf_reward is kept, inside output_dir.
    """

    FIGURES = "kept.json"

    def __init__(self, max_kl: float, patience: int = 1, folder: str = "best"):
        if not max_kl > 0:
            raise UserError(f"KLRunaway: max_kl is {max_kl}; expected nats a response, above 0")
        self.max_kl, self.patience, self.folder = max_kl, patience, folder
        self.above = 0
        self.kept: dict | None = None  # step, kl and rlhf_reward of the policy kept

    @property
    def stopped(self) -> bool:
        """Whether the KL has been above its limit for long enough."""
        return self.above >= self.patience

    def leave_best(self, args, folder: Path) -> None:
        """Put the policy kept in the place of the last one, in `folder`, where the run was stopped and one was kept."""
        if self.stopped and (best := standing(Path(args.output_dir) / self.folder)) is not None:
            shutil.copytree(best, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(self.FIGURES))

    def state(self) -> dict:
        return {"args": {"max_kl": self.max_kl, "patience": self.patience}, "attributes": {"above": self.above}}

    def on_train_begin(self, args, state, control, **kwargs):
        place = Path(args.output_dir) / self.folder
        if state.global_step:
            self.above = saved_attributes(self, state).get("above", 0)
            best = standing(place)
            self.kept = json.loads((best / self.FIGURES).read_text(encoding="utf-8")) if best else None
            if self.stopped:  # the run was killed after it had decided to stop
                control.should_training_stop = True
        elif state.is_world_process_zero:
            remove(place)

    def on_rollout(self, args, state, control, metrics, trainer):
        place = Path(args.output_dir) / self.folder
        kl, reward = metrics["objective/kl"], metrics["objective/rlhf_reward"]
        self.above = 0 if kl <= self.max_kl else self.above + 1  # a KL that is NaN is no KL below the limit
        if self.stopped and self.kept is None:
            logger.warning("the KL is %.1f nats a response, above %.1f: stopped; none was below it", kl, self.max_kl)
        elif self.stopped:
            logger.warning(
                "the KL is %.1f nats a response, above %.1f: stopped; the best policy (rlhf_reward %.3f) is in %s",
                kl,
                self.max_kl,
                self.kept["rlhf_reward"],
                place,
            )
        elif not self.above and reward > (self.kept["rlhf_reward"] if self.kept else -math.inf):
            self.kept = {"step": state.global_step, "kl": kl, "rlhf_reward": reward}
            self._keep(place, trainer, state.is_world_process_zero)

    def _keep(self, place: Path, trainer, first: bool) -> None:
        aside = place.with_name(f".{place.name}.writing")
        if first:
            remove(aside)
        trainer.save_model(str(aside), _internal_call=True)  # the hub gets the last one only
        if first:
            (aside / self.FIGURES).write_text(json.dumps(self.kept), encoding="utf-8")
            replace(aside, place)

    def on_step_end(self, args, state, control, **kwargs):
        if self.stopped and state.global_step % steps_an_update(args) == 0:
            control.should_training_stop = True
