"""The lean decoder against the models' own forwards: numbers, gradients, generation; and when it stays away."""

import copy

import pytest
import torch
from tiny_world import history
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf_recipes.engine import lean
from rlhf_recipes.engine.decoding import CachedDecoder, LeanDecoder, decoder
from rlhf_recipes.engine.forward import hidden_states
from rlhf_recipes.engine.sequences import Sequences

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "initializer_range": 0.3,
}


def models():
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=3, num_key_value_heads=2, head_dim=8))
    qwen = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_hidden_layers=1, num_key_value_heads=6, tie_word_embeddings=True))
    with torch.no_grad():
        for p in (*llama.parameters(), *qwen.parameters()):
            p += 0.1 * torch.randn(p.shape)  # biases and norms too
    return {"llama": llama.eval(), "qwen": qwen.eval()}


def answers():
    """Five rows of unlike prompts and answers."""
    prompts, tokens = (torch.tensor(x)[:, None] for x in ([7, 2, 1, 7, 4], [5, 6, 1, 2, 6]))
    ids = torch.randint(50, (5, 13), generator=torch.Generator().manual_seed(1))
    return Sequences(ids[:, :7], torch.arange(7) >= 7 - prompts, ids[:, 7:], torch.arange(6) < tokens)


def own_states(model, seq, steps, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lean, "fits", lambda base: False)
        return hidden_states(model, seq, steps)


@pytest.mark.parametrize("name", ["llama", "qwen"])
@pytest.mark.parametrize("steps", [6, 7])
@pytest.mark.parametrize("tiled", [False, True])
def test_states_and_gradients_are_the_models_own(monkeypatch, name, steps, tiled):
    model, seq = models()[name], answers()
    monkeypatch.setattr(lean, "SMALL_ATTENTION", 0 if tiled else 2**22)
    asked = torch.arange(steps) <= seq.mask.sum(1, keepdim=True)
    weight = torch.randn(asked.sum(), 24, generator=torch.Generator().manual_seed(2))
    results = []
    for states in (hidden_states(model, seq, steps), own_states(model, seq, steps, monkeypatch)):
        model.zero_grad()
        (states[asked] * weight).sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((states[asked].detach(), grads))
    (ours, grads), (want, expected) = results
    torch.testing.assert_close(ours, want, atol=1e-5, rtol=1e-5)
    assert grads.keys() == expected.keys() and len(grads) == len(list(model.base_model.parameters()))
    for key in grads:
        torch.testing.assert_close(grads[key], expected[key], atol=2e-4, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


def test_a_frozen_layer_passes_the_gradient_on(monkeypatch):
    model, seq = models()["llama"], answers()
    model.model.layers[1].requires_grad_(False)
    grads = []
    for states in (hidden_states(model, seq, 6), own_states(model, seq, 6, monkeypatch)):
        model.zero_grad()
        (states[seq.mask] ** 2).sum().backward()
        assert all(p.grad is None for p in model.model.layers[1].parameters())
        grads.append(model.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen"])
@torch.no_grad()
def test_both_decoders_read_alike_while_rows_leave(name):
    model, seq = models()[name], answers()
    pair = [make(model, seq.prompt_ids, seq.prompt_mask, 6) for make in (decoder, CachedDecoder)]
    assert type(pair[0]) is LeanDecoder
    alive = torch.arange(5)
    for step in range(6):
        torch.testing.assert_close(pair[0].logits(), pair[1].logits(), atol=1e-5, rtol=1e-5)
        if step in (1, 3):
            keep = torch.tensor([0, 2, 3])[: len(alive) - 1]
            alive = alive[keep]
            for each in pair:
                each.keep(keep)
        for each in pair:
            each.read(seq.completion_ids[alive, step])


def test_it_is_what_trains_here_and_ends_where_the_models_own_forward_ends(make, monkeypatch):
    calls = []
    read = lean.read
    monkeypatch.setattr(lean, "read", lambda *a, **k: (calls.append(1), read(*a, **k))[1])
    # Adam turns the sign of a gradient that is all rounding into a whole step: not here
    config = {"total_episodes": 24, "num_mini_batches": 2, "max_grad_norm": 1.0, "optim": "sgd", "learning_rate": 0.01}
    fast = make(**config)
    fast.train()
    assert calls
    monkeypatch.setattr(lean, "fits", lambda base: False)
    own = make(**config)
    own.train()
    for metric in ("loss/policy_avg", "loss/value_avg", "objective/entropy", "policy/grad_norm"):
        assert history(fast, metric) == pytest.approx(history(own, metric), abs=1e-4, rel=1e-4), metric
    for a, b in zip(fast.actor_critic.parameters(), own.actor_critic.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def changed(what):
    from peft import LoraConfig, get_peft_model

    model = models()["qwen" if what == "window" else "llama"]
    base = model.model
    if what == "adapter":
        return get_peft_model(model, LoraConfig(target_modules=["q_proj"])).get_base_model().model
    if what == "hook":
        base.layers[1].mlp.register_forward_hook(lambda *_: None)
    if what == "checkpointing":
        model.activation_checkpointing_enable()
    if what == "narrow":
        model.to(torch.bfloat16)
    if what == "window":
        base.layers[0].self_attn.sliding_window = 4
    if what == "activation":
        base.config.hidden_act = "gelu"
    if what == "bias":
        base.layers[0].self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(24))
    if what == "dropout":
        base.layers[0].self_attn.attention_dropout = 0.1
        base.train()
    return base


@pytest.mark.parametrize(
    "what", ["adapter", "hook", "checkpointing", "narrow", "window", "activation", "bias", "dropout"]
)
def test_it_stays_away_from_what_it_does_not_know(what):
    assert lean.fits(models()["llama"].model) and not lean.fits(changed(what))


def test_it_stays_away_from_mixed_precision_and_from_kin():
    from transformers import Gemma2Config, Gemma2Model

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not lean.fits(models()["llama"].model)
    shape = copy.deepcopy(SHAPE) | {"num_hidden_layers": 1, "head_dim": 4}
    assert not lean.fits(Gemma2Model(Gemma2Config(**shape)))
