"""The reference of the KL."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from rlhf_recipes.engine.forward import causal_lm
from rlhf_recipes.models.sharding import whole_tensor
from rlhf_recipes.ppo.config import PPOConfig


@dataclass
class Reference:
    """The reference of the KL: a model of its own, or the policy with its adapter off or exchanged.

    Args:
        policy: the policy, for its adapter.
        model: None for the policy without its adapter.
        args: ref_adapter_name, model_adapter_name.
    """

    policy: nn.Module
    model: nn.Module | None
    args: PPOConfig

    @contextmanager
    def __call__(self):
        """The reference's causal model, inside a `with`."""
        if self.model is not None:
            yield causal_lm(self.model)
        elif self.args.ref_adapter_name:
            self.policy.set_adapter(self.args.ref_adapter_name)
            try:
                yield causal_lm(self.policy)
            finally:
                self.policy.set_adapter(self.args.model_adapter_name or "default")
        else:
            with self.policy.disable_adapter():
                yield causal_lm(self.policy)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """ref <- share policy + (1 - share) ref."""
        for ref, new in zip(self.model.parameters(), self.policy.parameters(), strict=True):
            ref.lerp_(whole_tensor(new).to(ref.dtype), share)
