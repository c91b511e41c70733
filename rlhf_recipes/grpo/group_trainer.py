"""What TRL 1.12's GRPOTrainer and RLOOTrainer lack alike; each seam says what TRL does instead."""

import math
import sys
from collections import defaultdict
from contextlib import contextmanager

import torch
from trl.trainer.utils import nanstd

from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.grpo import groups
from rlhf_recipes.grpo.evaluation import EvalSettings, measure
from rlhf_recipes.training.updates import steps_an_update, tell


class GroupTrainer:
    """To mix in before TRL's GRPOTrainer or RLOOTrainer: on_update, accuracy on held-out prompts, our reference.

    Args:
        model, reward_funcs, args: as TRL's.
        ref_model: the frozen reference; None leaves it to TRL, which with an adapter switches that off. Not used where
            beta is 0.
        eval_settings: how `eval_dataset` is measured; None: rewards only.
        keywords: TRL's further arguments.
    """

    def __init__(
        self, model, reward_funcs, args, *, ref_model=None, eval_settings: EvalSettings | None = None, **keywords
    ):
        self._silent: torch.Tensor | None = None  # (N,) bool over all processes, of the batch scored last
        self._given: torch.Tensor | None = None  # (N, F) rewards of that batch as the functions gave them
        self._measured = defaultdict(list)  # what the update under way has measured, by TRL's names
        self._taken = defaultdict(int)  # how many values of self._metrics["train"] it has of each
        self.eval_settings = eval_settings or EvalSettings()
        with self._reference(ref_model):
            super().__init__(model, reward_funcs, args, **keywords)
        if ref_model is not None and self.beta and self.ref_model is None:  # TRL makes none beside an adapter
            self.ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)

    @property
    def beta(self) -> float:
        """The KL coefficient: args.beta, which a controller moves. TRL keeps a copy that nothing would move."""
        return self.args.beta

    @beta.setter
    def beta(self, value: float) -> None:
        if "args" in vars(self):  # TRL sets it from them, before it has them
            self.args.beta = value

    @contextmanager
    def _reference(self, ref_model):
        """TRL's trainers of groups, unlike its DPOTrainer, take no reference: they load model.config's name again.

        That is float32 whatever model.dtype says, the default revision, and an embedding without the tokens that our
        tokenizer added: a padded prompt then reaches past its end.
        """
        order = type(self).__mro__
        module = sys.modules[order[order.index(GroupTrainer) + 1].__module__]
        loader = module.create_model_from_path
        if ref_model is not None:
            module.create_model_from_path = lambda *args, **kwargs: ref_model
        try:
            yield
        finally:
            module.create_model_from_path = loader

    def _tokenize_prompts(self, prompts: list):
        """TRL's, but an EOS that the tokenizer appends to a text is dropped: TRL would answer a closed text."""
        if isinstance(prompts[0], str):
            return prompt_ids(prompts, self.processing_class), None, {}
        return super()._tokenize_prompts(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's (N, F) rewards over all processes; which groups are silent is noted on the way.

        TRL takes a row for scored where only a metric of weight 0 has a number, and sums it to 0. In training such a
        row is NaN throughout.
        """
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self.model.training:
            return rewards
        weights = self.reward_weights.to(rewards.device)
        felt = rewards[:, weights != 0]  # (N, functions that are felt)
        unscored = torch.isnan(felt).all(dim=1)
        if getattr(self, "multi_objective_aggregation", None) != "normalize_then_sum":  # which takes them one by one
            felt = (rewards * weights).nansum(dim=1).masked_fill(unscored, torch.nan)
        self._silent, self._given = groups.silent(felt, self.num_generations), rewards
        return rewards.masked_fill(unscored[:, None], torch.nan)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        """TRL's generation batch, what it logged of it corrected.

        In the share of silent groups TRL takes a batch for one group (`scale_rewards=batch`), counts RLOO's KL as a
        reward, and counts a group that nothing scored as one that differs. Metrics of weight 0 get back the rows that
        nothing else scored.
        """
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        logged = self._metrics["train"]
        logged["frac_reward_zero_std"][-1] = self._silent.float().mean().item()
        for name, weight, given in zip(self.reward_func_names, self.reward_weights, self._given.T, strict=True):
            if not weight:
                logged[f"rewards/{name}/mean"][-1] = given.nanmean().item()
                logged[f"rewards/{name}/std"][-1] = nanstd(given).item()
                self._logs["rewards"][name].extend(given.tolist())  # as long as a batch: replaces TRL's
        return batch

    def _own(self, rows):
        """This process's part of a list or tensor that has a row for each answer of all processes."""
        size = len(rows) // self.accelerator.num_processes
        return rows[self.accelerator.process_index * size :][:size]

    # ---- updates ----

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self._end_step()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _end_step(self) -> None:
        """Collect what a step measured; at an update's end tell the callbacks its means, whatever will be logged."""
        logged = self._metrics["train"]
        new = {name: values[self._taken[name] :] for name, values in logged.items()}
        if not any(new.values()):
            return  # an epoch's end, after the step's own
        if self.beta:
            new["kl_coef"] = [self.beta]
            logged["kl_coef"].append(self.beta)  # TRL never moves beta and so never logs it
        for name, values in new.items():
            self._measured[name] += values
            self._taken[name] = len(logged[name])
        args, step = self.args, self.state.global_step
        if step % steps_an_update(args) and step < self.state.max_steps:
            return
        metrics = {name: _mean(values) for name, values in self._measured.items()}
        self._measured.clear()
        answers = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size  # a step
        metrics["episode"] = step * answers // args.num_iterations
        if metrics.get("kl") is not None and "completions/mean_length" in metrics:
            metrics["objective/kl"] = (
                metrics["kl"] * metrics["completions/mean_length"]
            )  # a token's mean to a response's
        tell(self, "on_update", metrics=metrics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's line, which empties what was measured."""
        super().log(logs, start_time)
        if self.model.training:
            self._taken.clear()

    # ---- held-out prompts ----

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Accuracy and rewards on held-out prompts. TRL's evaluation gives a loss, which says nothing here.

        A step that was measured already (by the run that is resumed, or the last line of training) is not measured
        again.
        """
        reward = f"{metric_key_prefix}_reward"
        if eval_dataset is None:
            for row in reversed(self.state.log_history):
                if reward in row and row["step"] == self.state.global_step:
                    return row
        training, _ = self.model.training, self.model.eval()
        metrics, samples = measure(self, eval_dataset if eval_dataset is not None else self.eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.model.train(training)
        tell(self, "on_samples", samples=samples)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _mean(values: list[float]) -> float | None:
    """Of what is a number; None where nothing is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None
