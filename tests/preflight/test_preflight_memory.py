"""Memory by hand: a decoder of 2 layers, hidden 8, 2 heads of 4 (1 of keys), inner 20, vocabulary 50."""

import pytest

from rlhf_recipes.engine import logprobs
from rlhf_recipes.preflight import memory
from rlhf_recipes.preflight.memory import Batch, Numbers
from rlhf_recipes.preflight.shapes import Shape

EMBEDDING = 50 * 8
LAYER = (8 * 8 + 2 * 8 * 4 + 8 * 8) + 3 * 8 * 20 + 2 * 8  # q, k, v, o; gate, value, down; two norms
SHAPE = Shape(
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    vocab=50,
    inner=20,
    gated=True,
    activation=2,
    norms=(8, 8),
    fused_norms=False,
    parameters=EMBEDDING + 2 * LAYER + 8,
    embedding=EMBEDDING,
    head=True,
    tied=True,
)
WIDE, MIXED = Numbers(), Numbers(weight=4, product=2, norm=4)
BATCH = Batch(rows=3, length=10)


def with_(**changes) -> Shape:
    from dataclasses import replace

    return replace(SHAPE, **changes)


def test_weights_gradients_and_adams_two_moments():
    assert memory.weights(SHAPE, WIDE) == 4 * SHAPE.parameters
    assert memory.gradients(SHAPE, WIDE) == 4 * SHAPE.parameters
    assert memory.optimizer(SHAPE, WIDE, "adamw_torch_fused") == 8 * SHAPE.parameters
    assert memory.optimizer(SHAPE, WIDE, "adafactor") == 0
    assert memory.optimizer(SHAPE, WIDE, "adamw_bnb_8bit") == 2 * SHAPE.parameters


def test_an_adapter_has_gradients_and_moments_alone():
    lora = with_(adapter=100)
    assert memory.weights(lora, Numbers(weight=2)) == 2 * SHAPE.parameters + 4 * 100
    assert memory.gradients(lora, WIDE) == 400
    assert memory.optimizer(lora, WIDE, "adamw_torch") == 800
    assert memory.head_gradient(lora) == 0
    assert memory.head_gradient(SHAPE) == 4 * EMBEDDING


def test_one_layer_tensor_by_tensor():
    """Norms: input, normalised input, output (3 x 8 each) and 1 / rms. Attention: q 8, k 4, v 4, output 8, and a
    logsumexp a head. MLP: gate, silu(gate), value, product, 20 each."""
    floats = 2 * (3 * 8 + 1) + (8 + 4 + 4 + 8) + 2 + 4 * 20
    assert sum(memory.layer(SHAPE, BATCH, WIDE)) == 30 * floats * 4


def test_eager_attention_keeps_the_scores_and_sdpa_does_not():
    sdpa, eager = (sum(memory.layer(with_(kv_heads=2), BATCH, WIDE, eager=e)) for e in (False, True))
    scores = 3 * 2 * 10 * 10  # (B, heads, L, L)
    assert eager - sdpa == 4 * (scores - 30 * 2)  # instead of a logsumexp a head and token


def test_a_mask_is_kept_as_numbers_and_repeats_grouped_keys():
    grouped = with_(heads=4, kv_heads=2)
    plain, masked = (sum(memory.layer(grouped, Batch(3, 10, m), WIDE)) for m in (False, True))
    repeated = 30 * 2 * (4 - 2) * 4  # keys and values, for 4 heads instead of 2, of width 4
    assert masked - plain == 4 * (repeated + 3 * 10 * 10)


def test_autocast_halves_products_and_leaves_norms():
    norms = 2 * (2 * 8 * 4 + 8 * 2 + 4)
    inputs = 3 * 8 * 2  # narrowed anew for k, v and the value
    assert sum(memory.layer(SHAPE, BATCH, MIXED)) == 30 * (norms + (24 + 80) * 2 + 2 * 4 + inputs)


def test_a_frozen_norm_keeps_no_normalised_input_and_an_adapter_its_ranks():
    full, lora = (sum(memory.layer(s, BATCH, WIDE)) for s in (SHAPE, with_(adapter=100, ranks=14)))
    assert full - lora == 30 * 4 * (2 * 8 - 14)


def test_the_networks_own_dropout_keeps_masks_and_writes_scores_out():
    drop = with_(dropout=True, attention_dropout=True)
    off, on = (sum(memory.layer(drop, BATCH, WIDE, dropout=d)) for d in (False, True))
    eager = sum(memory.layer(SHAPE, BATCH, WIDE, eager=True))
    assert on == eager + 30 * 4 * 2 * 8 and off == sum(memory.layer(SHAPE, BATCH, WIDE))


def test_checkpointing_keeps_an_input_a_layer_and_one_layer_whole():
    whole, thin = (memory.activations(SHAPE, BATCH, WIDE, checkpointing=c).bytes for c in (False, True))
    assert whole - thin == sum(memory.layer(SHAPE, BATCH, WIDE)) - 30 * 8 * 4


def test_what_the_allocator_keeps_are_small_tensors_only():
    small = memory.activations(SHAPE, BATCH, WIDE, checkpointing=False)
    assert small.small == pytest.approx(small.bytes)
    rows = memory.LARGE // (4 * 20 * 10) + 1  # every tensor of `inner` is above 32 MiB then
    large = memory.activations(SHAPE, Batch(rows, 10), WIDE, checkpointing=False)
    inner = (2 * 4 + 2) * 20 * 4 * rows * 10
    assert large.small == pytest.approx(large.bytes - inner)


def test_kv_cache_is_keys_and_values_of_every_layer_and_one_twice():
    assert memory.kv_cache(SHAPE, BATCH, WIDE) == 2 * (2 + 1) * 4 * 4 * 30
    assert memory.kv_cache(SHAPE, BATCH, MIXED) == memory.kv_cache(SHAPE, BATCH, WIDE) / 2


def test_logits_by_the_chunk_or_whole():
    assert memory.sft_logits(SHAPE, True, BATCH) == 4 * 256 * 50 * 4
    assert memory.sft_logits(SHAPE, False, BATCH) == 3 * 30 * 50 * 4
    assert memory.PPO_CHUNK == logprobs.CHUNK_ELEMENTS
    assert memory.ppo_logits(with_(vocab=2**22), 1000, WIDE) == 16 * 2**22 * 4  # 16 tokens at least
    assert memory.ppo_logits(with_(vocab=2**10), 2**16, WIDE) == 2**25 * 4
    assert memory.ppo_logits(with_(vocab=2**10), 2**16, MIXED) == 2**25 * 2
    assert memory.ppo_logits(with_(vocab=2**10), 1000, WIDE) == 1000 * 2**10 * 4
