"""Answers of small models by PPO's rollout engine: what transformers' generate draws, in fewer operations."""

import torch
from accelerate.utils import DistributedType
from torch import nn

from rlhf_recipes.ppo import lean
from rlhf_recipes.ppo.causal import evaluating
from rlhf_recipes.ppo.language import PolicyLanguage
from rlhf_recipes.ppo.prompts import pad_left
from rlhf_recipes.ppo.rollout import Sampling, generate

PLAIN = {"min_p": (None, 0.0), "repetition_penalty": (None, 1.0), "cache_implementation": (None,)}
ALONE = (DistributedType.NO, DistributedType.MULTI_CPU)  # each process holds all weights


def serves(trainer, causal: nn.Module) -> bool:
    """Whether the engine draws from the distribution that the trainer's settings ask for, and draws it faster."""
    config = trainer.generation_config
    return (
        not (trainer.use_vllm or trainer.use_transformers_continuous_batching or trainer.args.generation_kwargs)
        and config.do_sample
        and all(getattr(config, name, None) in values for name, values in PLAIN.items())
        and trainer.accelerator.distributed_type in ALONE
        and hasattr(causal, "base_model")
        and lean.fits(causal.base_model)
        and type(causal.get_output_embeddings()) is nn.Linear
    )


def answer(trainer, causal: nn.Module, prompt_ids: list[list[int]]) -> list[list[int]]:
    """One answer a prompt, its end token included. Random numbers are the default generator's."""
    tokenizer, width = trainer._tokenizer, trainer.max_completion_length
    ids, mask = pad_left(prompt_ids, tokenizer.pad_token_id, max(map(len, prompt_ids)))
    language = PolicyLanguage(
        temperature=trainer.temperature,
        stop_ids=[tokenizer.eos_token_id],
        top_k=trainer.top_k or 0,
        top_p=trainer.top_p or 1.0,
    )
    with evaluating(causal):
        answers, _, _ = generate(
            causal, ids, mask, torch.rand(len(ids), width), Sampling(language, width), tokenizer.pad_token_id
        )
    return [row[: int(n)].tolist() for row, n in zip(answers.completion_ids, answers.mask.sum(1), strict=True)]
