"""TRL's trainers of preference pairs, with held-out metrics that are means over the pairs."""

import torch
import trl


class OverPairs:
    """Before RewardTrainer or DPOTrainer: TRL 1.12 averages the means of the batches, and the last one is shorter.

    Here a batch weighs as many pairs as it has, as its loss does in transformers' Trainer already. Several processes
    fill the last one up with pairs seen before: its mean is over all of them, its weight that of the new ones.
    """

    def __init__(self, *args, **kwargs):
        self._pairs: list[int] = []  # of each batch of the evaluation that is going on, over all processes
        super().__init__(*args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        found = super().prediction_step(model, inputs, *args, **kwargs)
        pairs = torch.empty(len(inputs["input_ids"]) // 2, device=self.accelerator.device)  # chosen, then rejected
        self._pairs.append(len(self.accelerator.gather_for_metrics(pairs)))
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        means = self._metrics["eval"]
        for name, values in means.items():
            if len(values) == len(self._pairs):  # num_tokens is one number
                weighed = zip(values, self._pairs, strict=True)
                means[name] = [sum(value * pairs for value, pairs in weighed) / sum(self._pairs)]
        self._pairs.clear()
        super().log(logs, start_time)


class RewardTrainer(OverPairs, trl.RewardTrainer):
    """TRL's, with held-out accuracy and margin over all pairs."""


class DPOTrainer(OverPairs, trl.DPOTrainer):
    """TRL's, with held-out accuracy and margin of the implicit reward over all pairs."""
