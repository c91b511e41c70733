"""Small models through PPO's engine: answers drawn, and their log-probabilities read, in fewer operations."""

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from trl.trainer.utils import entropy_from_logits

from rlhf_recipes.engine import lean
from rlhf_recipes.engine.distribution import PolicyLanguage
from rlhf_recipes.engine.forward import evaluating, hidden_states
from rlhf_recipes.engine.generation import Sampling, generate
from rlhf_recipes.engine.sequences import Sequences, pad_left

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
        and lean.serves(causal)
    )


def answer(trainer, causal: nn.Module, prompt_ids: list[list[int]]) -> list[list[int]]:
    """One answer a prompt, its end token included. Random numbers are the default generator's."""
    tokenizer, width = trainer._tokenizer, trainer.max_completion_length
    ids, mask = pad_left(prompt_ids, tokenizer.pad_token_id)
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


def logprobs(causal: nn.Module, ids: Tensor, mask: Tensor, steps: int, temperature: float, entropy: bool):
    """Log-probabilities of the answers, and their distribution's entropies, both (B, T) and 0 on padding.

    Args:
        causal: a model that `lean.serves`. The log-probabilities are differentiable, the entropies are not.
        ids: (B, P + T), prompts padded on the left and answers on the right.
        mask: (B, P + T).
        steps: T.
        entropy: whether it is wanted; else None in its place.
    """
    mask = mask.bool()
    answers, real = ids[:, -steps:], mask[:, -steps:]
    hidden = hidden_states(causal, Sequences(ids[:, :-steps], mask[:, :-steps], answers, real), steps)
    logits = causal.get_output_embeddings()(hidden[real]) / temperature  # (N, V): padding is not read
    chosen = logits.gather(1, answers[real][:, None]).squeeze(1) - logits.logsumexp(1)
    read = torch.zeros(answers.shape).masked_scatter(real, chosen)
    if not entropy:
        return read, None
    with torch.no_grad():
        return read, torch.zeros(answers.shape).masked_scatter(real, entropy_from_logits(logits))
