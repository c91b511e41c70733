"""One module that holds policy and critic, so that Trainer prepares, clips, saves and shards a single model."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_recipes.engine.forward import accepted, all_logits, causal_lm, head_is_linear, hidden_states
from rlhf_recipes.engine.logprobs import answer_logits, chunks, completion_logprobs, policy_loss, product_dtype
from rlhf_recipes.engine.sampling import Constraint, Sampling
from rlhf_recipes.engine.sequences import Sequences
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.sharding import whole_tensor
from rlhf_recipes.ppo import core
from rlhf_recipes.ppo.config import PPOConfig


class ActorCritic(nn.Module):
    """Policy and value function.

    Args:
        policy: a causal language model, or a PEFT model around one.
        value_model: a sequence classifier with one label, read at every step through its `.score` head (TRL's
            convention), or None for a linear value head on the policy's own hidden states.
        sampling: how answers are drawn from the policy.
    """

    def __init__(self, policy: nn.Module, value_model: nn.Module | None, sampling: Sampling):
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        self.sampling = sampling
        self.config = policy.config
        causal = causal_lm(policy)
        self.linear_head = head_is_linear(causal)
        self.value_head = None
        if value_model is None:
            weight = causal.get_output_embeddings().weight
            # OPT-350M's hidden states are narrower than its config says where its head is a plain matrix
            wide = getattr(causal.config.get_text_config(), "hidden_size", None)
            size = weight.shape[1] if self.linear_head or wide is None else wide
            self.value_head = nn.Linear(size, 1)
            nn.init.zeros_(self.value_head.weight)  # the first values are 0: no noise in the first advantages
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(weight.device)

    # ---- what the training step calls ----

    def forward(
        self,
        sequences: Sequences,
        span: int,
        terms=None,
        entropy_weight: float = 0.0,
        corpus: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Values, and with `terms` the policy's loss.

        Args:
            sequences: (B, P), (B, T), trimmed.
            span: values wanted, at the prompt's end and at the tokens after it: T, or T + 1.
            terms: maps log-probabilities (n,) of the tokens in a slice to loss terms (n,); None for the critic only.
            entropy_weight: coefficient of the summed entropy, subtracted from the loss.
            corpus: (C, L) token ids for the language-model loss of the pretraining mix, -1 on padding; None for none.

        Returns:
            values (B, span) float32; with terms: policy_loss (scalar), logprobs and entropies (N,) without gradient,
            N the real tokens in row-major order; with corpus: corpus_loss (scalar), nats summed over its tokens.
        """
        out = {}
        if self.value_head is not None or terms is not None:
            hidden, logits = self._read(sequences, span)
        if terms is not None:
            out |= self._policy_loss(hidden, logits, sequences, terms, entropy_weight)
        if self.value_head is not None:
            if terms is None:
                hidden = hidden.detach()  # only the critic learns: not the backbone it shares with the policy
            values = self.value_head(hidden.to(self.value_head.weight.dtype))
        else:
            model = causal_lm(self.value_model)
            values = model.score(hidden_states(model, sequences, span))
        out["values"] = values.float().sum(-1)  # (B, span, 1), squeezed without a view: FSDP hooks what is returned
        if corpus is not None:
            out["corpus_loss"] = self._corpus_loss(corpus)
        return out

    def _read(self, sequences: Sequences, span: int) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states (B, span, d), and logits (B, span, V) where the head is not a plain linear layer."""
        causal = causal_lm(self.policy)
        span = span if self.value_head is not None else sequences.mask.shape[1]
        if self.linear_head:
            return hidden_states(causal, sequences, span), None
        return all_logits(causal, sequences, span, hidden=self.value_head is not None)

    def _policy_loss(self, hidden, logits, sequences, terms, entropy_weight) -> dict[str, Tensor]:
        mask, tokens = sequences.mask, sequences.completion_ids[sequences.mask]
        steps, constraint = mask.shape[1], self.sampling.constraint(sequences)
        if logits is None:
            head = causal_lm(self.policy).get_output_embeddings()
            loss, logprobs, entropies = policy_loss(
                hidden[:, :steps][mask],
                head.weight,
                head.bias,
                tokens,
                terms,
                self.sampling.scale,
                constraint,
                entropy_weight,
                dtype=product_dtype(head.weight),
            )
        else:
            chosen = self._language_logits(logits[:, :steps][mask], constraint)
            logprobs = core.logprobs_from_logits(chosen, tokens)
            entropies = core.entropy_from_logits(chosen)
            loss = terms(logprobs, slice(0, len(tokens))).sum() - entropy_weight * entropies.sum()
        return {"policy_loss": loss, "logprobs": logprobs.detach(), "entropies": entropies.detach()}

    def _language_logits(self, logits: Tensor, constraint: Constraint | None) -> Tensor:
        logits = logits.float() / self.sampling.scale
        if constraint is not None:
            logits = logits.clone()
            constraint.apply_(logits, slice(0, len(logits)))
        return logits

    def _corpus_loss(self, corpus: Tensor) -> Tensor:
        """Negative log-likelihood of a corpus at temperature 1, summed over its tokens (arXiv:2203.02155 eq. 2)."""
        causal, keep = causal_lm(self.policy), corpus >= 0
        ids = corpus.clamp(min=0)
        tokens = ids[:, 1:][keep[:, 1:]]
        if not self.linear_head:
            logits = causal(input_ids=ids, attention_mask=keep.long()).logits
            return -core.logprobs_from_logits(logits[:, :-1][keep[:, 1:]], tokens).sum()
        out = causal.base_model(**accepted(causal.base_model, {"input_ids": ids, "attention_mask": keep.long()}))
        hidden, head = out[0][:, :-1][keep[:, 1:]], causal.get_output_embeddings()
        dtype = product_dtype(head.weight)
        return policy_loss(hidden, head.weight, head.bias, tokens, lambda logp, _: -logp, dtype=dtype)[0]

    # ---- what the rollout calls ----

    def logprobs(self, sequences: Sequences, causal: nn.Module | None = None) -> Tensor:
        """log pi of the completion tokens (B, T), 0 on padding; of another model with `causal` (the reference)."""
        causal = causal_lm(self.policy) if causal is None else causal
        return completion_logprobs(causal, sequences, self.sampling, self.linear_head)

    @torch.no_grad()
    def full_kl(self, sequences: Sequences, reference) -> Tensor:
        """Exact KL(policy || reference) over the vocabulary at each completion token (B, T), 0 on padding.

        Args:
            reference: () -> context manager that yields the reference's causal model.
        """
        mask = sequences.mask
        logits, vocab = answer_logits(causal_lm(self.policy), sequences, self.sampling, self.linear_head)
        with reference() as causal:
            ref_logits, _ = answer_logits(causal, sequences, self.sampling, self.linear_head)
        out = torch.zeros(mask.shape, device=mask.device)
        parts = [core.full_kl(logits(rows), ref_logits(rows)) for rows in chunks(int(mask.sum()), vocab)]
        out[mask] = torch.cat(parts) if parts else out.new_zeros(0)
        return out

    @torch.no_grad()
    def values(self, sequences: Sequences, span: int) -> Tensor:
        """Values (B, span)."""
        return self(sequences, span)["values"]

    # ---- what Trainer and accelerate call ----

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes of decoder layers: what FSDP shares out piece by piece."""
        models = [causal_lm(m) for m in (self.policy, self.value_model) if m is not None]
        return sorted({name for m in models for name in m._no_split_modules or ()})

    @property
    def is_gradient_checkpointing(self) -> bool:
        return bool(getattr(causal_lm(self.policy), "is_gradient_checkpointing", False))

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        """Recompute activations in policy and critic, instead of storing them."""
        for model in filter(None, (self.policy, self.value_model)):
            model.activation_checkpointing_enable(*args, **kwargs)
            if hasattr(model, "peft_config") and hasattr(model, "enable_input_require_grads"):
                model.enable_input_require_grads()

    def floating_point_ops(self, inputs) -> int:
        return 0  # Trainer counts by a formula for one plain forward, which does not hold here


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


def with_adapter(model: nn.Module | None, peft_config):
    """The model wrapped in an adapter, made ready for it where it is quantised; unchanged without a peft_config."""
    if peft_config is None or model is None:
        return model
    from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training

    if isinstance(model, PeftModel):
        raise UserError("the model has an adapter already; merge it first, or give no peft_config")
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, peft_config)


def switch_dropout_off(model: nn.Module) -> None:
    """Dropout of the pretrained network would make every ratio noise; an adapter's own stays as its config says."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # OPT and others call the function, with a share that they keep as a number
        for key in [k for k, v in vars(module).items() if "drop" in k and isinstance(v, float)]:
            setattr(module, key, 0.0)


def split_groups(optimizer: torch.optim.Optimizer, critic: set[int], rate: float) -> None:
    """Give the parameters whose id is in `critic` groups of their own, with learning rate `rate`."""
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        for is_critic in (False, True):
            params = [p for p in group["params"] if (id(p) in critic) == is_critic]
            optimizer.add_param_group({**group, "params": params, "lr": rate if is_critic else group["lr"]})
