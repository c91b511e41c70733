"""Refusals and warnings of PPO: settings that do not fit together, numbers that are not finite."""

import logging

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import Tensor, nn

from rlhf_recipes.engine.sequences import Sequences
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.sharding import by_fsdp
from rlhf_recipes.ppo.config import PPOConfig

logger = logging.getLogger(__name__)


def check_launch(args: PPOConfig) -> None:
    """Refuse parameters that are shared out among processes in a way that a rollout cannot gather.

    Raises:
        UserError: ZeRO-3, FSDP1, or FSDP with weights loaded in the first process only; by the launch file or by the
            trainer's own fields.
    """
    deepspeed = getattr(args, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise UserError("PPO does not run under DeepSpeed ZeRO-3; launch it with conf/accelerate/fsdp.yaml")
    if not by_fsdp(args):
        return
    plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args or {})
    if plugin.fsdp_version != 2:
        raise UserError("PPO runs under FSDP2 only; give fsdp_version: 2, as conf/accelerate/fsdp.yaml does")
    if plugin.cpu_ram_efficient_loading:
        raise UserError(
            "PPO has models besides the one that FSDP loads (reference, reward), which would be empty in all processes "
            "but the first; give fsdp_cpu_ram_efficient_loading: false, as conf/accelerate/fsdp.yaml does"
        )


def check(
    args: PPOConfig, model: nn.Module, ref_model: nn.Module | None, eval_dataset, ptx_dataset, stop_ids: list[int]
) -> None:
    """Refuse what cannot be trained before anything is built, and warn of what trains on a biased gradient."""
    check_launch(args)
    if args.missing_eos_penalty is not None and not (stop_ids or args.stop_strings):
        raise UserError("missing_eos_penalty needs something that ends an answer; set stop_token=eos")
    if ref_model is not None and ref_model is model:
        raise UserError("ref_model is the policy itself; give a copy, or None for one to be made")
    if args.kl_estimator in ("k2", "k3"):
        logger.warning(
            "kl_estimator=%s in the reward has a biased gradient (k1 and full have none); it is fit for logging",
            args.kl_estimator,
        )
    if args.target_kl is not None and args.fp16:
        raise UserError("target_kl skips optimizer steps, which fp16's loss scaling does not allow; use bf16")
    if args.early_stopping_patience is not None and eval_dataset is None:
        raise UserError(
            "early_stopping_patience needs held-out prompts; give eval_dataset (data.eval_fraction above 0)"
        )
    if args.ptx_coef and ptx_dataset is None:
        raise UserError("ptx_coef is set but there is no ptx_dataset; give a corpus, or ptx_coef=0")


def check_generation(drawn: Tensor, read: Tensor, mask: Tensor, narrow: bool) -> None:
    """Refuse answers that generation drew from another distribution than the one that training reads.

    Args:
        drawn, read: (b, T) log-probabilities at generation, and by the training forward; mask: (b, T).
        narrow: the forwards compute in fewer bits than float32.

    Raises:
        UserError: they differ by more than rounding does, in the mean over tokens.
    """
    if (off := _too_far(drawn - read, mask, narrow)) is not None:
        raise UserError(
            f"generation and training disagree by {off:.3g} nats a token before any update, where the ratio must be 1: "
            "the model's forward with a cache gives other probabilities than without. Check the versions of "
            "transformers and of the model's code (pip install -c constraints.txt)"
        )


def check_first_kl(kl: Tensor, mask: Tensor, narrow: bool) -> None:
    """Refuse a first update whose KL (B, T) is not 0 although the reference is the policy as it starts."""
    if (off := _too_far(kl, mask, narrow)) is not None:
        raise UserError(
            f"the KL before the first update is {off:.3g} nats a token, where the reference is the policy and it must "
            "be 0: an adapter whose initialisation changes the base (peft.init_lora_weights=pissa, olora, …) is not "
            "its own reference. Use peft.init_lora_weights=true, or give PPOTrainer a ref_model"
        )


def _too_far(nats: Tensor, mask: Tensor, narrow: bool) -> float | None:
    """The mean absolute value over tokens where it is more than rounding does; NaN is more, too."""
    off = ((nats.abs() * mask).sum() / mask.sum().clamp(min=1)).item()
    return None if off <= (0.1 if narrow else 0.01) else off


def not_finite(
    what: str, value: float, place: tuple[int, int], rows: Tensor, sequences: Sequences, tokenizer
) -> UserError:
    """The error for a loss or a gradient norm that is not finite: it names the rows, and shows two of them.

    Args:
        what: "the loss is", say.
        place: update and optimizer step, from 0.
        rows: (n,) episodes of the rollout that the step learned from, in this process.
    """
    seq = sequences[rows[:2]]
    ids = [
        torch.cat([seq.prompt_ids[i][seq.prompt_mask[i]], seq.completion_ids[i][seq.mask[i]]]) for i in range(len(seq))
    ]
    return UserError(
        f"update {place[0]}, optimizer step {place[1]}: {what} {value} on rows {rows.tolist()} (first: "
        f"{tokenizer.batch_decode(ids)}); the weights are those before this step. Lower learning_rate, or go on "
        "without such steps with trainer.on_nonfinite=skip"
    )
