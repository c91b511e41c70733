"""Before the first update generation, policy and reference agree: ratio 1 and KL 0, or the run stops with a line."""

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from rlhf_recipes.engine import generation
from rlhf_recipes.errors import UserError


class RenamedCache(LlamaForCausalLM):
    """A model of a transformers release whose forwards call their cache `cache`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, use_cache=None, **kwargs):
        kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        return super().forward(input_ids, past_key_values=cache, **kwargs)


class NoCache(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0):
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids)


def of_class(cls, models):
    model = cls(models["policy"].config)
    model.load_state_dict(models["policy"].state_dict())
    return model.eval()


def logits_after_three_tokens(causal, prompts):
    """By the cache, one token after another, and by one whole forward."""
    ids, mask = prompts
    reader = generation.CachedDecoder(causal, ids, mask, 3)
    for _ in range(3):
        reader.read(torch.full((len(ids),), 7))
    return reader.logits


@pytest.fixture
def two_prompts():
    ids = torch.tensor([[0, 5, 6, 7], [8, 9, 10, 11]])
    return ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]).bool()


@torch.no_grad()
def test_a_renamed_cache_is_still_handed_over(models, two_prompts):
    ids = torch.cat([two_prompts[0], torch.full((2, 3), 7)], 1)[1:]
    whole = models["policy"].eval()(input_ids=ids).logits[:, -1]
    for cls in (LlamaForCausalLM, RenamedCache):
        drawn = logits_after_three_tokens(of_class(cls, models), two_prompts)
        torch.testing.assert_close(drawn[1:], whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_forward_without_a_cache_is_refused(models, two_prompts):
    with pytest.raises(UserError, match="takes neither past_key_values nor cache"):
        logits_after_three_tokens(of_class(NoCache, models), two_prompts)


def test_answers_drawn_without_their_context_stop_the_run(make, monkeypatch):
    """What a dropped cache does to every token after the first."""

    def forgets(self, tokens):
        self._step(tokens[:, None], self.position[:, -1:] * 0)

    def only_this_token(self, ids, position):
        self.position, self.logits = position, self.causal(input_ids=ids[:, -1:]).logits[:, -1]

    monkeypatch.setattr(generation.CachedDecoder, "_step", only_this_token)
    monkeypatch.setattr(generation.CachedDecoder, "read", forgets)
    monkeypatch.setattr(generation.CachedDecoder, "keep", lambda self, rows: None)
    with pytest.raises(UserError, match="generation and training disagree by"):
        make().train()


def test_an_adapter_that_changes_the_base_is_not_its_own_reference(make, models):
    """PiSSA takes the adapter's start out of the base: switched off, what is left is another model."""
    pissa = LoraConfig(r=4, init_lora_weights="pissa", target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="the KL before the first update is"):
        make(trainer={"peft_config": pissa}).train()


def test_a_plain_adapter_starts_at_ratio_1_and_kl_0(make):
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make(trainer={"peft_config": lora}, num_ppo_epochs=1)
    trainer.train()
    row = next(row for row in trainer.state.log_history if "objective/kl" in row)
    assert row["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert row["val/ratio"] == pytest.approx(1, abs=1e-4)
