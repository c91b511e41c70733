"""What autograd really keeps of a layer, against the formula: differences of models of 2 and 4 layers."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_recipes.preflight import memory
from rlhf_recipes.preflight.memory import Batch, Numbers
from rlhf_recipes.preflight.shapes import shape_of

ROWS, LENGTH, VOCAB = 3, 40, 128  # 120 tokens: as many as no matrix has rows
LLAMA = {"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4}
FAMILIES = {
    "llama": {"model_type": "llama", **LLAMA, "num_key_value_heads": 4},
    "llama, grouped": {"model_type": "llama", **LLAMA, "num_key_value_heads": 2},
    "qwen2, one head of keys": {"model_type": "qwen2", **LLAMA, "num_key_value_heads": 1},
    "qwen3, norms on heads": {"model_type": "qwen3", **LLAMA, "head_dim": 16, "num_key_value_heads": 2},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "resid_pdrop": 0.0, "attn_pdrop": 0.0},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["sdpa", "masked", "eager", "lora", "autocast"])
def test_the_formula_is_what_autograd_keeps(family, way):
    fields = FAMILIES[family]
    layers = "n_layer" if fields["model_type"] == "gpt2" else "num_hidden_layers"
    kept = [kept_bytes(fields | {layers: n}, way) for n in (2, 4)]
    node = {"init": fields | {layers: 2, "max_position_embeddings": 64}, "tokenizer_init": {"vocab_size": VOCAB}}
    shape = shape_of(OmegaConf.create(node | {"trust_remote_code": False}), None, peft=adapter(fields, way))
    numbers = Numbers(product=2) if way == "autocast" else Numbers()
    batch = Batch(ROWS, LENGTH, masked=way in ("masked", "eager"))
    formula = sum(memory.layer(shape, batch, numbers, eager=way == "eager"))
    assert formula == pytest.approx((kept[1] - kept[0]) / 2, rel=0.02)


def adapter(fields: dict, way: str):
    if way != "lora":
        return None
    from peft import LoraConfig

    fused = fields["model_type"] == "gpt2"
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=fused)


def kept_bytes(fields: dict, way: str) -> int:
    """Bytes of every tensor that the backward pass will read, weights and their narrow copies left out."""
    fields = dict(fields)
    config = AutoConfig.for_model(fields.pop("model_type"), vocab_size=VOCAB, max_position_embeddings=64, **fields)
    config.bos_token_id = config.eos_token_id = None
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if way == "eager" else "sdpa").train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if (peft := adapter({"model_type": config.model_type}, way)) is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft).get_base_model()
    ids = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "use_cache": False}
    if way in ("masked", "eager"):
        inputs["attention_mask"] = torch.ones_like(ids).index_fill(1, torch.tensor([LENGTH - 1]), 0)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        narrow_weight = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in weights
        if storage.data_ptr() not in own and not narrow_weight:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), autocast:
        model.base_model(**inputs)[0].sum()
    return sum(seen.values())
