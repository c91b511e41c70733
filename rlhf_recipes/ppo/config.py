"""PPOConfig: the fields of TRL 1.12's, the last TRL that had one, and beside them only those that its PPO lacked."""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from transformers import TrainingArguments

from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo.core import KL_ESTIMATORS

CHOICES = {
    "kl_estimator": KL_ESTIMATORS,
    "reward_normalize": ("none", "running", "reference"),
    "on_nonfinite": ("stop", "skip"),
}

# Fields of TRL's and transformers' that nothing in PPO reads, by what to do instead. A test holds that this is all.
NOT_READ = {
    "set inputs.policy (in a script: PPOTrainer's model)": ("sft_model_path",),
    "set inputs.reward_model (in a script: PPOTrainer's reward_funcs)": ("reward_model_path",),
    "prompts are tokenised as they are played; leave it out": ("dataset_num_proc",),
    "ZeRO-3 is not supported; launch with conf/accelerate/fsdp.yaml": ("ds3_gather_for_generation",),
    "it is per_device_train_batch_size x gradient_accumulation_steps x processes; set those": (
        "batch_size",
        "local_batch_size",
    ),
    "it follows from the rollout's size; set num_mini_batches": ("mini_batch_size", "local_mini_batch_size"),
    "set per_device_train_batch_size": ("micro_batch_size", "auto_find_batch_size"),
    "set total_episodes or max_steps": ("num_total_batches",),
    "set the number of processes with accelerate launch": ("world_size", "local_rank"),
    "every process count gives the same loss as one process; leave it out": ("average_tokens_across_devices",),
    "PPO runs under DDP, ZeRO-2 and FSDP2; launch with a file of conf/accelerate": ("parallelism_config",),
    "every column of the prompts reaches the reward functions; leave it out": ("remove_unused_columns", "label_names"),
    "prompts come from a seeded stream, not from a data loader; set data_seed": (
        "train_sampling_strategy",
        "length_column_name",
        "ignore_data_skip",
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
    ),
    "an evaluation answers prompts and scores them; set local_rollout_forward_batch_size for its memory": (
        "prediction_loss_only",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
    ),
    "an evaluation has the precision of training; set bf16 or fp16": ("bf16_full_eval", "fp16_full_eval"),
    "PPO has no labels; leave it out": ("label_smoothing_factor",),
    "the ratio must be 1 before an update, which noise would break; leave it out": ("neftune_noise_alpha",),
    "PPO computes its loss a chunk of tokens at a time already; leave it out": (
        "use_liger_kernel",
        "liger_kernel_config",
    ),
    "rollouts always use a cache, and the loss never does; leave it out": ("use_cache",),
    "episodes and tokens_per_second are logged; leave it out": ("include_num_input_tokens_seen",),
    "start training with stage=ppo (in a script: train())": ("do_train",),
    "set eval_strategy": ("do_eval", "do_predict"),
}


@dataclass
class PPOConfig(TrainingArguments):
    """Settings of PPOTrainer. TRL's fields keep TRL's names, defaults and meaning; `Args` are those added here.

    TRL ships no PPO from 1.13 on, so its fields are declared here, and a class stands on the same base with every TRL.

    Counting. A rollout is `per_device_train_batch_size * gradient_accumulation_steps * processes` episodes
    (`batch_size`), answered, scored, and then learned from in one *update*: `num_ppo_epochs` passes over
    `num_mini_batches` shuffled minibatches, an optimizer step each. Whatever is given in steps (`max_steps`,
    `save_steps`, `eval_steps`, `logging_steps`, `warmup_steps`) counts updates, as in TRL; the learning rate moves once
    an update. Trainer's own `global_step` counts optimizer steps, as in GRPO.

    Args:
        kl_estimator: k1 (log-ratio; the only unbiased one in the reward), k2, k3, or full (exact, over the vocabulary).
        logging_steps: updates between two log lines; 1 here, for TRL's PPO logs every update.
        target_kl: nats a token; when the mean approxkl of a PPO epoch exceeds it, the rest of this update is skipped.
        entropy_coef: weight of the entropy bonus, 0 for none.
        value_learning_rate: the critic's own rate; None for `learning_rate`.
        value_warmup_updates: first updates in which only the critic learns.
        top_k, top_p: draw among the k likeliest tokens, in the nucleus of this mass; 0 and 1.0 leave the tail whole.
            Every log-probability is taken over the tokens that were drawn among.
        min_length: tokens before the stop token may be drawn; its probability is 0 until then, in the ratio too.
        stop_strings: end an answer when one of these has been written, after `min_length` tokens.
        reward_weights: one for each reward function; None for all 1. A RewardFunctions has its own.
        reward_append_eos: give a reward model an EOS after answers that were cut off too, as RewardTrainer trained it.
            A RewardFunctions or ModelReward has its own.
        reward_normalize: none, running (all scores so far have mean 0, variance 1) or reference (those of the first
            rollout have, which the starting policy wrote).
        reward_clip: after that, cut scores to [-reward_clip, reward_clip]; None for no limit.
        length_penalty: taken off the score for each token of an answer.
        sync_ref_model: move the reference towards the policy every `ref_model_sync_steps` updates:
            ref <- a policy + (1 - a) ref with a = `ref_model_mixup_alpha` (1 refreshes it outright).
        ptx_coef: gamma of InstructGPT eq. 2, the weight of the language-model loss on `ptx_dataset`; 0 for none.
        early_stopping_patience: stop when `metric_for_best_model` (eval_score, say) has not improved for this many
            evaluations in a row; None never stops. With load_best_model_at_end the best policy is what is saved.
        sample_every: updates between two tables of held-out answers; None: `num_sample_generations` of them in the run.
        on_nonfinite: stop the run at a NaN or infinite loss, score or gradient, or skip that optimizer step.
    """

    # of TRL 1.12, in its order
    learning_rate: float = 3e-6
    gradient_checkpointing: bool = True
    bf16: bool | None = None  # None: where fp16 is off
    dataset_num_proc: int | None = None
    num_mini_batches: int = 1
    total_episodes: int | None = None
    local_rollout_forward_batch_size: int = 64
    num_sample_generations: int = 10
    response_length: int = 53
    stop_token: Literal["eos"] | None = None
    stop_token_id: int | None = None
    temperature: float = 0.7
    missing_eos_penalty: float | None = None
    sft_model_path: str = "EleutherAI/pythia-160m"
    world_size: int | None = None
    num_total_batches: int | None = None
    micro_batch_size: int | None = None
    local_batch_size: int | None = None
    batch_size: int | None = None
    local_mini_batch_size: int | None = None
    mini_batch_size: int | None = None
    reward_model_path: str = "EleutherAI/pythia-160m"
    model_adapter_name: str | None = None
    ref_adapter_name: str | None = None
    num_ppo_epochs: int = 4
    whiten_rewards: bool = False
    kl_coef: float = 0.05
    cliprange: float = 0.2
    vf_coef: float = 0.1
    cliprange_value: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    ds3_gather_for_generation: bool = True

    # added here
    dataloader_pin_memory: bool = False  # there is no batch to pin
    kl_estimator: Literal["k1", "k2", "k3", "full"] = "k1"
    logging_steps: float = 1
    target_kl: float | None = None
    entropy_coef: float = 0.0
    value_learning_rate: float | None = None
    value_warmup_updates: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_length: int = 0
    stop_strings: list[str] | None = None
    reward_weights: list[float] | None = None
    reward_append_eos: bool = True
    reward_normalize: Literal["none", "running", "reference"] = "none"
    reward_clip: float | None = None
    length_penalty: float = 0.0
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 1.0
    ref_model_sync_steps: int = 64
    ptx_coef: float = 0.0
    early_stopping_patience: int | None = None
    sample_every: int | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self):
        instead = {name: advice for advice, names in NOT_READ.items() for name in names}
        for name in (f.name for f in fields(self) if f.name in instead):
            if getattr(self, name) not in (getattr(PPOConfig, name, None), None, []):
                raise UserError(f"trainer.{name}={getattr(self, name)} is not read by PPO: {instead[name]}")
        if not torch.accelerator.is_available():  # transformers refuses bf16 there unless use_cpu is set
            self.use_cpu = True
            self.bf16 = bool(self.bf16)
        self.bf16 = not self.fp16 if self.bf16 is None else self.bf16  # as every config of TRL has it
        super().__post_init__()
        positive = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_mini_batches", "num_ppo_epochs")
        for name in (*positive, "response_length", "temperature", "ref_model_sync_steps"):
            if not getattr(self, name) > 0:
                raise UserError(f"trainer.{name} is {getattr(self, name)}; expected a number above 0")
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise UserError(f"trainer.{name}={getattr(self, name)}; expected one of {', '.join(values)}")
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise UserError(f"trainer.reward_clip={self.reward_clip}; expected a number above 0, or null for no limit")
        if self.sample_every is not None and not self.sample_every > 0:
            raise UserError(
                f"trainer.sample_every={self.sample_every}; expected updates above 0, or null for "
                "trainer.num_sample_generations tables in the run (0: none)"
            )
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UserError(f"trainer.top_p={self.top_p}, top_k={self.top_k}; expected 0 < top_p <= 1 and top_k >= 0")
        if not 0 <= self.min_length <= self.response_length:
            raise UserError(
                f"trainer.min_length={self.min_length}; expected 0 to response_length={self.response_length}"
            )
        if self.early_stopping_patience is not None and not (
            self.early_stopping_patience > 0 and self.metric_for_best_model and self.eval_strategy != "no"
        ):
            raise UserError(
                f"trainer.early_stopping_patience={self.early_stopping_patience} needs a number above 0, a metric and "
                "evaluations; set trainer.metric_for_best_model=eval_score trainer.eval_strategy=steps"
            )
        if self.stop_token not in (None, "eos") or (self.stop_token and self.stop_token_id is not None):
            raise UserError(
                f"trainer.stop_token={self.stop_token}, stop_token_id={self.stop_token_id}; expected stop_token=eos, "
                "or an id, or neither"
            )
