"""How a causal language model is read: hidden states at the answer's tokens, without a cache and without a mask."""

import inspect
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlhf_recipes.engine.sequences import Sequences
from rlhf_recipes.errors import UserError


def causal_lm(policy: nn.Module) -> nn.Module:
    """The causal language model inside, with any adapter's layers in place."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def accepted(module: nn.Module, inputs: dict) -> dict:
    """Those of `inputs` that the module's forward takes by name (OPT has no position ids in some versions)."""
    names = inspect.signature(module.forward).parameters
    return {k: v for k, v in inputs.items() if k in names}


def cache_argument(module: nn.Module) -> str:
    """What the module's forward calls its cache: `past_key_values`, or `cache` from transformers 5.24 on.

    Raises:
        UserError: it takes neither. Without a cache every token after the first would be drawn without its context.
    """
    names = inspect.signature(module.forward).parameters
    for name in ("past_key_values", "cache"):
        if name in names:
            return name
    raise UserError(
        f"{type(module).__name__}.forward takes neither past_key_values nor cache, so that no answer can be "
        "generated with it; expected a causal language model of transformers 5.20 to 5.23"
    )


def hidden_states(model: nn.Module, sequences: Sequences, steps: int) -> Tensor:
    """Last hidden states (B, steps, d) at the prompt's last token and at the tokens after it. No KV cache."""
    ids, places = sequences.packed(steps)
    base = model.base_model
    return _at(base(**accepted(base, {"input_ids": ids, "use_cache": False}))[0], places)


def all_logits(causal: nn.Module, sequences: Sequences, steps: int, hidden: bool = False):
    """Hidden states (None where not asked for) and logits, both (B, steps, ...), by the model's own forward."""
    ids, places = sequences.packed(steps)
    out = causal(input_ids=ids, use_cache=False, output_hidden_states=hidden)
    return _at(out.hidden_states[-1], places) if hidden else None, _at(out.logits, places)


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


@torch.no_grad()
def head_is_linear(causal: nn.Module) -> bool:
    """Whether logits are lm_head(hidden) and nothing else: no soft cap, no scale, no adapter or quantisation.

    Tried out on hidden states that are made large, for a soft cap shows on large logits only.
    """
    head = causal.get_output_embeddings()
    if type(head) is not nn.Linear or not hasattr(causal, "base_model"):
        return False
    seen = []

    def enlarge(module, args, output):
        output.last_hidden_state = output.last_hidden_state * 100
        seen.append(output.last_hidden_state)
        return output

    decoder = causal.get_decoder() or causal.base_model
    handle = decoder.register_forward_hook(enlarge)
    ids = torch.arange(1, 4, device=head.weight.device)[None] % len(head.weight)
    with evaluating(causal):
        try:
            logits = causal(input_ids=ids, use_cache=False).logits.float()
        except (AttributeError, TypeError, ValueError):
            return False
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0].shape[-1] != head.in_features:
            return False
        direct = head(seen[0]).float()
        plain = causal.base_model(**accepted(causal.base_model, {"input_ids": ids, "use_cache": False}))[0] * 100
        return torch.allclose(logits, direct, rtol=1e-2) and torch.allclose(seen[0], plain, rtol=1e-2, atol=1e-2)


@contextmanager
def evaluating(*modules: nn.Module | None):
    """Switch modules to eval mode, and back to what they were."""
    training = [m for m in modules if m is not None and m.training]
    for m in training:
        m.eval()
    try:
        yield
    finally:
        for m in training:
            m.train()
