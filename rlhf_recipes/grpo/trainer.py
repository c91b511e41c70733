"""GRPOTrainer: TRL 1.12's, and at four seams what it lacks; each says what TRL does instead."""

import sys
from contextlib import contextmanager

import torch
from accelerate.utils import broadcast_object_list
from trl import GRPOTrainer as TRLGRPOTrainer
from trl.trainer.utils import nanstd

from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.grpo import groups
from rlhf_recipes.grpo.held_out import HeldOut, measure

TOKEN_MEAN = ("dapo", "cispo", "vespo")  # losses that are divided by num_items_in_batch; the others by their rows


class GRPOTrainer(TRLGRPOTrainer):
    """TRL's GRPOTrainer with silent groups counted, skipped or resampled, and accuracy measured on held-out prompts.

    Args:
        model, reward_funcs, args: as TRL's; args is our GRPOConfig.
        ref_model: the frozen reference; None leaves it to TRL. Not used where beta is 0 or with an adapter.
        held_out: how `eval_dataset` is measured; None: rewards only.
        keywords: TRL's further arguments.
    """

    def __init__(self, model, reward_funcs, args, *, ref_model=None, held_out: HeldOut | None = None, **keywords):
        with _reference(ref_model):
            super().__init__(model, reward_funcs, args, **keywords)
        self.held_out = held_out or HeldOut()
        self._silent: torch.Tensor | None = None  # (N,) bool over all processes, of the batch scored last
        self._given: torch.Tensor | None = None  # (N, F) rewards of that batch as the functions gave them

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's (N, F) rewards over all processes; which groups are silent is noted on the way.

        TRL takes a row for scored where a metric of weight 0 alone has a number, and sums it to 0. In training such a
        row is NaN throughout.
        """
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not self.model.training:
            return rewards
        weights = self.reward_weights.to(rewards.device)
        signal = rewards[:, weights != 0]  # (N, functions that are felt)
        unscored = torch.isnan(signal).all(dim=1)
        if self.multi_objective_aggregation != "normalize_then_sum":  # which takes each function by itself
            signal = (rewards * weights).nansum(dim=1).masked_fill(unscored, torch.nan)
        self._silent, self._given = groups.silent(signal, self.num_generations), rewards
        return rewards.masked_fill(unscored[:, None], torch.nan)

    def _tokenize_prompts(self, prompts: list):
        """TRL's, but an EOS that the tokenizer appends to a text is dropped: TRL would answer a closed text."""
        if isinstance(prompts[0], str):
            return prompt_ids(prompts, self.processing_class), None, {}
        return super()._tokenize_prompts(prompts)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        """TRL's generation batch; silent groups are counted, and under skip or resample marked or replaced."""
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        self._correct_the_log()
        return batch if self.args.zero_variance == "keep" else self._teaching(batch, len(inputs))

    def _teaching(self, batch: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
        """`size` rows, first those of groups that teach, from as many generation batches as may be drawn for it.

        DAPO's dynamic sampling (arXiv:2503.14476 eq. 11), which TRL lacks. An answer's advantage is its own by now, so
        answers of several batches may be mixed, and each process fills its own share.
        """
        taught = ~self._own(self._silent)  # (B,)
        found, rest, resamples = [groups.take(batch, taught)], groups.take(batch, ~taught), 0
        while self.args.zero_variance == "resample" and resamples < self.args.max_resamples:
            full = torch.tensor(sum(len(f["advantages"]) for f in found) >= size, device=self.accelerator.device)
            if self.accelerator.gather(full).all():
                break
            further = super()._generate_and_score_completions(self._other_prompts())
            self._correct_the_log()
            found.append(groups.take(further, ~self._own(self._silent)))
            resamples += 1
        rows = torch.arange(size, device=self.accelerator.device)
        batch = groups.take(groups.join([*found, rest], self._tokenizer.pad_token_id), rows)
        batch["taught"] = rows < sum(len(f["advantages"]) for f in found)
        tokens = (batch["completion_mask"] * batch.get("tool_mask", 1))[batch["taught"]].sum()
        batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()  # TRL counts silent groups' tokens too
        share = self.accelerator.gather(batch["taught"].float()).mean()
        batch["mean_taught"] = share * size / self.args.steps_per_generation  # rows that teach, a micro-batch
        self._metrics["train"]["groups/trained"].append(share.item())
        self._metrics["train"]["groups/resamples"].append(float(resamples))
        return batch

    def _prepare_inputs(self, generation_batch):
        """TRL's micro-batch without the rows of silent groups: no forward, no backward, no KL for them."""
        inputs = super()._prepare_inputs(generation_batch)
        if "taught" not in inputs:
            return inputs
        taught = inputs["taught"]
        # TRL gathers figures a row: a process with fewer such rows than another keeps silent ones that count nothing
        rows = taught.int().argsort(descending=True, stable=True)[: max(1, self._most(taught.sum()))]
        kept = groups.take(inputs, rows)
        return kept | {"completion_mask": kept["completion_mask"] * taught[rows, None]}

    def _most(self, count: torch.Tensor) -> int:
        """Of a count in each process."""
        return int(self.accelerator.gather(count).max())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss. A loss that is a mean over rows counts each row alike, in however full a micro-batch it lies."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "mean_taught" not in inputs:
            return loss
        rows = inputs["completion_mask"].any(dim=1).sum()
        if not self.accelerator.gather(rows).any():  # nothing was averaged: TRL logs 0
            for name in ("kl", "entropy"):
                if self._metrics["train"].get(name):
                    self._metrics["train"][name][-1] = float("nan")
        if self.loss_type in TOKEN_MEAN:
            return loss
        counted = rows if self.loss_type == "bnpo" else len(inputs["completion_mask"])  # what TRL took the mean over
        return loss * counted / inputs["mean_taught"].clamp(min=1e-8)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Accuracy and rewards on held-out prompts. TRL's evaluation gives a loss, which says nothing here.

        A step that was measured already (by the run that is resumed, or the last line of training) is not measured
        again.
        """
        mine = f"{metric_key_prefix}_reward"
        if eval_dataset is None:
            for row in reversed(self.state.log_history):
                if mine in row and row["step"] == self.state.global_step:
                    return row
        was, _ = self.model.training, self.model.eval()
        metrics, samples = measure(self, eval_dataset if eval_dataset is not None else self.eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.model.train(was)
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "on_samples"):
                callback.on_samples(self.args, self.state, self.control, samples=samples)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's line, and in it beta, which TRL never moves and so never logs."""
        if self.model.training and "loss" in logs and self.beta:
            logs["kl_coef"] = self.beta
        super().log(logs, start_time)

    def _correct_the_log(self) -> None:
        """TRL takes `scale_rewards=batch` for one group, and one that nothing scored for a lively one.

        And the metrics of weight 0 get back the rows that nothing else scored.
        """
        logged = self._metrics["train"]
        logged["frac_reward_zero_std"][-1] = self._silent.float().mean().item()
        for name, weight, given in zip(self.reward_func_names, self.reward_weights, self._given.T, strict=True):
            if not weight:
                logged[f"rewards/{name}/mean"][-1] = given.nanmean().item()
                logged[f"rewards/{name}/std"][-1] = nanstd(given).item()
                self._logs["rewards"][name].extend(given.tolist())  # as long as a batch: replaces TRL's

    def _own(self, rows):
        """This process's part of a list or tensor that has a row for each answer of all processes."""
        size = len(rows) // self.accelerator.num_processes
        return rows[self.accelerator.process_index * size :][:size]

    def _other_prompts(self) -> list[dict]:
        """Another generation batch of this process: prompts at random, the same draw on every process."""
        size = self.args.generation_batch_size // self.num_generations
        drawn = [torch.randint(len(self.train_dataset), (size,)).tolist()]  # by the state that checkpoints keep
        broadcast_object_list(drawn)
        return self._own([self.train_dataset[i] for i in drawn[0] for _ in range(self.num_generations)])


@contextmanager
def _reference(ref_model):
    """TRL's GRPOTrainer, unlike its DPOTrainer, takes no reference: it loads model.config's name again.

    That is float32 whatever model.dtype says, the default revision, and an embedding without the tokens that our
    tokenizer added: a padded prompt then reaches past its end.
    """
    module = sys.modules[TRLGRPOTrainer.__module__]
    was = module.create_model_from_path
    if ref_model is not None:
        module.create_model_from_path = lambda *args, **kwargs: ref_model
    try:
        yield
    finally:
        module.create_model_from_path = was
