"""What TRL 1.12's GRPOTrainer and RLOOTrainer lack alike; each seam says what TRL does instead."""

import math
import sys
from collections import defaultdict
from collections.abc import Sized
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.trainer_utils import SaveStrategy
from trl.trainer import utils

from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.grpo import groups
from rlhf_recipes.grpo.evaluation import EvalSettings, figures_of, measure
from rlhf_recipes.training.means import known_mean
from rlhf_recipes.training.updates import steps_an_update, tell

REFERENCE_FILE = "reference.pt"  # in a checkpoint, under sync_ref_model


class StopTokens:
    """Several stop tokens in the place of the one EOS that TRL compares ids with."""

    def __init__(self, ids: list[int]):
        self.ids = ids

    def __eq__(self, other):
        return (
            torch.isin(other, torch.tensor(self.ids, device=other.device))
            if torch.is_tensor(other)
            else other in self.ids
        )

    __hash__ = None


class StoppingTokenizer:
    """A tokenizer whose `eos_token_id` is StopTokens."""

    def __init__(self, tokenizer, ids: list[int]):
        self.tokenizer, self.eos_token_id = tokenizer, StopTokens(ids)

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)


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
        self._held: set[str] = set()  # of TrainerControl, until the rollout has been learned from
        self.eval_settings = eval_settings or EvalSettings()
        with self._reference(ref_model):
            super().__init__(model, reward_funcs, args, **keywords)
        if ref_model is not None and self.beta and self.ref_model is None:  # TRL makes none beside an adapter
            if hasattr(utils, "add_fused_lm_head"):  # TRL 1.16 asks each model for log-probabilities, not logits
                utils.add_fused_lm_head(ref_model, self.temperature, args.cast_lm_head_to_fp32)
            self.ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        self._check()
        self._stop_at_every_stop_token()

    def _check(self) -> None:
        """Raise UserError for what TRL would only notice hours later, or never."""
        args, prompts = self.args, self.args.generation_batch_size // self.num_generations
        if isinstance(self.train_dataset, Sized) and len(self.train_dataset) < prompts:  # TRL would train no step
            raise UserError(
                f"{len(self.train_dataset)} prompts are too few: each rollout answers {prompts}; lower "
                "trainer.gradient_accumulation_steps or trainer.per_device_train_batch_size, or raise "
                "trainer.num_generations"
            )
        metric, known = (args.metric_for_best_model or "").removeprefix("eval_"), figures_of(self)
        if metric and metric not in known:
            raise UserError(
                f"trainer.metric_for_best_model={metric}: no evaluation of these answers gives it; expected one of "
                f"{', '.join(known)}"
            )
        steps, by_steps = steps_an_update(args), args.save_strategy == SaveStrategy.STEPS
        best = args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST
        if best and steps > 1 and not (by_steps and args.save_steps % steps == 0):
            raise UserError(  # a checkpoint is put off, and the best step's would not be there
                f"the best model cannot be kept: {steps} steps learn from one rollout; set trainer.save_strategy=steps "
                f"and make trainer.save_steps={args.save_steps} and eval_steps multiples of {steps}"
            )

    def _stop_at_every_stop_token(self) -> None:
        """Answers end at the engine's stop tokens. TRL knows the tokenizer's EOS only, in five places of each trainer.

        It gives that EOS to the generation, cuts answers at it, and takes an answer that ends otherwise for cut off: in
        `completions/clipped_ratio`, in `mask_truncated_completions`, and after a call of a tool. All but the first
        compare ids with `self._tokenizer.eos_token_id`. `trainer.generation_kwargs` may name others.
        """
        name = "stop_token_ids" if self.use_vllm else "eos_token_id"
        own = (self.args.generation_kwargs or {}).get(name)
        own = own if own is None or isinstance(own, list) else [own]
        ids = stop_ids(self._tokenizer, self.accelerator.unwrap_model(self.model)) if own is None else own
        if self.use_vllm:
            self.vllm_generation.generation_kwargs = self.vllm_generation.generation_kwargs | {name: ids}
        else:
            self.generation_kwargs[name] = self.generation_config.eos_token_id = ids
        self._tokenizer = StoppingTokenizer(self._tokenizer, ids)

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
                logged[f"rewards/{name}/std"][-1] = utils.nanstd(given).item()
                self._logs["rewards"][name].extend(given.tolist())  # as long as a batch: replaces TRL's
        return batch

    def _own(self, rows):
        """This process's part of a list or tensor that has a row for each answer of all processes."""
        size = len(rows) // self.accelerator.num_processes
        return rows[self.accelerator.process_index * size :][:size]

    # ---- updates ----

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self._end_step()
        self._wait_for_the_rollouts_end()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _wait_for_the_rollouts_end(self) -> None:
        """Put off saving and stopping while a rollout is learned from: a checkpoint does not hold its answers.

        TRL answers new prompts when it is resumed there, and so ends elsewhere than a run that was never interrupted.
        """
        control, held = self.control, self._held
        control.should_save |= "should_save" in held
        control.should_training_stop |= "should_training_stop" in held
        held.clear()
        under_way = self._step % (self.args.steps_per_generation * self.num_iterations)
        if not under_way or self.state.global_step >= self.state.max_steps:
            return
        for name in ("should_save", "should_training_stop"):
            if getattr(control, name):
                held.add(name)
                setattr(control, name, False)

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
        metrics = {name: known_mean(values) for name, values in self._measured.items()}
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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """And the reference where it moves: TRL resumes with the first one."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self._moving_reference() and self.args.should_save:
            state = self.accelerator.unwrap_model(self.ref_model).state_dict()
            torch.save(state, Path(output_dir) / REFERENCE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._moving_reference():
            state = torch.load(Path(checkpoint) / REFERENCE_FILE, map_location="cpu", weights_only=True)
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(state)

    def _moving_reference(self) -> bool:
        """Whether there is one that a process holds whole."""
        return self.args.sync_ref_model and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    # ---- held-out prompts ----

    def _determine_best_metric(self, metrics: dict, trial) -> bool:
        """Transformers', where an evaluation whose answers could not be scored is never the best."""
        name = "eval_" + (self.args.metric_for_best_model or "").removeprefix("eval_")
        return super()._determine_best_metric(
            metrics | {name: math.nan if metrics.get(name) is None else metrics[name]}, trial
        )

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Accuracy and rewards on held-out prompts. TRL's evaluation gives a loss, which says nothing here.

        A step that was measured already (by the run that is resumed, or the last line of training) is not measured
        again.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, dict):  # each set by its name, as transformers has it
            each = [
                self.evaluate(part if eval_dataset is not None else name, ignore_keys, f"{metric_key_prefix}_{name}")
                for name, part in rows.items()
            ]
            return {name: value for metrics in each for name, value in metrics.items()}
        reward = f"{metric_key_prefix}_reward"
        if eval_dataset is None or isinstance(eval_dataset, str):
            for row in reversed(self.state.log_history):
                if reward in row and row["step"] == self.state.global_step:
                    return row
        training, _ = self.model.training, self.model.eval()
        metrics, samples = measure(self, self.eval_dataset[rows] if isinstance(rows, str) else rows)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.model.train(training)
        tell(self, "on_samples", samples=samples)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
