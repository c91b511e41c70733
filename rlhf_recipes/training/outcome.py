"""What a stage's summary.json says of a policy that was trained on a reward."""

from transformers import Trainer, TrainerCallback


class BeganAt(TrainerCallback):
    """The step that this process began at: 0, or a checkpoint's."""

    step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def policy_metrics(
    history: list[dict], kl_coef: float, seconds: float, *, score: str, kl: str, before: int = 0
) -> dict:
    """The summary figures PPO and GRPO share, from Trainer's log.

    Args:
        history: Trainer's log_history. A line whose score is None (none of its answers could be scored) is passed over.
        kl_coef: beta after the last update.
        seconds: of training.
        score: logged name of the mean score.
        kl: logged name of the KL, nats a response (PPO) or a token (GRPO), as TRL has them.
        before: episodes played before the run was resumed; `seconds` does not hold their time.
    """
    logged = [row for row in history if row.get(score) is not None]
    entropy = [row[k] for row in history for k in ("policy/entropy_avg", "entropy") if row.get(k) is not None]
    divergence = [row[kl] for row in history if row.get(kl) is not None]
    episodes = next((row["episode"] for row in reversed(history) if "episode" in row), None)
    return {
        "score_first": logged[0][score] if logged else None,
        "score_last": logged[-1][score] if logged else None,
        "kl_last": divergence[-1] if divergence else None,
        "kl_coef_last": kl_coef,
        "entropy_last": entropy[-1] if entropy else None,
        "episodes": episodes,
        "episodes_per_second": (episodes - before) / seconds if episodes else None,
    }


def callback_of(trainer: Trainer, kind: type[TrainerCallback]):
    """The trainer's callback of a class, None where it has none."""
    return next((found for found in trainer.callback_handler.callbacks if isinstance(found, kind)), None)
