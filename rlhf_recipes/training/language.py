"""Training on text: TRL's SFTTrainer with held-out metrics that are means over tokens, and the figures it leaves."""

import math

import trl
from omegaconf import DictConfig

from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import fit, last_evaluation, previewed
from rlhf_recipes.training.means import weigh


class SFTTrainer(trl.SFTTrainer):
    """TRL's, whose held-out loss, entropy and accuracy do not depend on the evaluation's batch size.

    A batch's loss is the mean over its trained tokens. transformers' Trainer averages these means by rows and TRL 1.12
    its metrics by batches, so that a token of a short answer weighs more than one of a long answer.
    """

    def __init__(self, *args, **kwargs):
        self._batches: list[
            tuple[float, int]
        ] = []  # of each batch evaluated: the sum of its tokens' losses, its tokens
        super().__init__(*args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        tokens = (inputs["labels"][:, 1:] != -100).sum(1)  # (B,)
        result = super().prediction_step(model, inputs, *args, **kwargs)
        tokens = tokens.to(result[0].device)
        losses = result[0] * tokens if tokens.any() else tokens.float()  # the mean over no token is NaN
        losses, tokens = self.accelerator.gather_for_metrics((losses, tokens))
        self._batches.append((losses.sum().item(), int(tokens.sum())))
        return result

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._batches.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if total := sum(tokens for _, tokens in self._batches):
            output.metrics[f"{metric_key_prefix}_loss"] = sum(loss for loss, _ in self._batches) / total
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        weights = [tokens for _, tokens in self._batches]
        weigh(self._metrics["eval"], lambda name: weights)
        super().log(logs, start_time)


def train_on_text(training: SFTTrainer, cfg: DictConfig, run: StageRun, kind: str, more: str = "") -> dict:
    """Show, or train and measure.

    Args:
        kind: of the rows, for the preview.
        more: what the line before training says besides the number of parameters.

    Returns:
        train_loss; eval_loss, the held-out loss in nats a trained token, and eval_ppl, its exponent, at the end; and
        the same after each evaluation in `epochs`.
    """
    if previewed(training, cfg, kind, more):
        return {}
    train = fit(training, run)
    loss = last_evaluation(training).get("eval_loss")
    return {
        "train_loss": train["train_loss"],
        "eval_loss": loss,
        "eval_ppl": None if loss is None else math.exp(loss),
        "epochs": _epochs(training.state.log_history),
    }


def _epochs(history: list[dict]) -> list[dict]:
    """Trainer's log as one row an evaluation: mean training loss since the last one, and the held-out loss."""
    rows, losses = [], []
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
        elif "eval_loss" in entry and losses:
            rows.append(
                {
                    "epoch": round(entry["epoch"], 3),
                    "train_loss": sum(losses) / len(losses),
                    "eval_loss": entry["eval_loss"],
                    "eval_ppl": math.exp(entry["eval_loss"]),
                }
            )
            losses = []
    return rows
