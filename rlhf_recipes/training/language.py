"""TRL's SFTTrainer with held-out metrics that are means over the tokens."""

import trl


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
        means = self._metrics["eval"]
        for name, values in means.items():
            if len(values) == len(weights) and sum(weights):  # num_tokens is one number
                means[name] = [sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)]
        super().log(logs, start_time)
