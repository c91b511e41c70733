"""Shapes and settings from configs alone."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight.machine import Machine, memory
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.setting import numbers_of, settle
from rlhf_recipes.preflight.shapes import shape_of

NODE = OmegaConf.create({"revision": None, "trust_remote_code": False, "dtype": "auto", "quantization": None})
ROOMY = Machine("cpu", "RAM", 1e12, 1e12, 0.0)
ROWS = Rows(prompt=20, whole=30, seen=1)


def test_parameters_are_counted_without_weights(folders):
    config = json.loads(Path(folders["bare"], "config.json").read_text())
    h, i, v, n = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"))
    body = n * (4 * h * h + 3 * h * i + 2 * h) + h
    assert shape_of(NODE, folders["bare"]).parameters == v * h + body
    assert shape_of(NODE, folders["bare"], scalar_head=True).parameters == v * h + body + h
    assert shape_of(NODE, folders["bare"]).gated


def test_under_zero3_no_other_process_is_waited_for(folders, monkeypatch):
    """The first process estimates alone; transformers would build the model together with the others."""
    expected = shape_of(NODE, folders["bare"])
    monkeypatch.setattr("transformers.modeling_utils.is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setattr("rlhf_recipes.preflight.shapes._KNOWN", {})
    assert shape_of(NODE, folders["bare"]) == expected


def test_an_adapter_is_two_thin_matrices_beside_each_and_the_score_head(folders):
    from peft import LoraConfig

    config = json.loads(Path(folders["bare"], "config.json").read_text())
    h, i, n = (config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    shape = shape_of(NODE, folders["bare"], peft=lora)
    assert shape.adapter == n * 2 * (4 * (h + h) + 3 * (h + i))
    assert shape.ranks == 7 * 2
    head = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    assert shape_of(NODE, folders["bare"], scalar_head=True, peft=head).adapter == shape.adapter + h


def test_an_adapter_folder_has_its_bases_shape(folders, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": folders["bare"]}))
    assert shape_of(NODE, str(tmp_path)) == shape_of(NODE, folders["bare"])


def test_widths_that_differ_from_layer_to_layer_count_as_the_largest(folders, tmp_path):
    def shape(name, **widths):
        fields = {"num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 64} | widths
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": name} | fields))
        return shape_of(NODE, str(tmp_path / name))

    small = {"num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}
    more = {"laurel_rank": 4, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]}
    assert shape("gemma3n_text", **small, **more, intermediate_size=[32, 48]).inner == 48
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 8, "global_head_dim": 32}
    assert shape("gemma4_text", **small, **kinds, intermediate_size=32).head_dim == 32
    with pytest.raises(UserError, match="model_type=mamba names no attention heads"):
        shape("mamba")


def test_a_folder_without_a_config_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no config to read"):
        shape_of(NODE, str(tmp_path))


def test_numbers_follow_dtype_device_autocast_and_quantisation(folders):
    from dataclasses import replace

    shape = replace(shape_of(NODE, folders["bare"]), dtype="bfloat16")
    assert numbers_of(NODE, shape, frozen=True, device="cpu", autocast=False).weight == 4
    assert numbers_of(NODE, shape, frozen=True, device="cuda", autocast=True).weight == 2
    trained = numbers_of(NODE, shape, frozen=False, device="cuda", autocast=True)
    assert (trained.weight, trained.product, trained.norm) == (4, 2, 4)
    half = OmegaConf.merge(NODE, {"dtype": "bfloat16"})
    assert numbers_of(half, shape, frozen=False, device="cpu", autocast=False).weight == 2
    four_bits = OmegaConf.merge(NODE, {"quantization": {"load_in_4bit": True}})
    assert 0.5 < numbers_of(four_bits, shape, frozen=False, device="cuda", autocast=True).weight < 2


@pytest.mark.parametrize(
    "overrides, parts",
    [
        ((), ["critic", "policy", "reward", "reference"]),
        (("peft=lora",), ["critic", "policy", "reward"]),  # the reference is the policy without its adapter
        (("inputs.value_model=none",), ["policy", "reward", "reference"]),
        (("reward=gold", "inputs.value_model=none"), ["policy", "reference"]),
    ],
)
def test_ppo_loads_what_its_settings_say(house, folders, overrides, parts):
    inputs = [f"inputs.policy={folders['policy']}", f"inputs.reward_model={folders['reward']}"]
    inputs += [] if "inputs.value_model=none" in overrides else [f"inputs.value_model={folders['reward']}"]
    setting = settle(*house("stage=ppo", *inputs, *overrides), ROWS, ROOMY)
    assert [n.part for n in setting.networks] == parts
    assert {n.part for n in setting.trained} == {"policy", "critic"} & set(parts)


def test_memory_of_a_control_group_counts_where_it_is_less(tmp_path):
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("400000000\n")
    assert memory(tmp_path) == (1e9, 6e8)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(tmp_path)[0] > 1e9 and memory(tmp_path / "none")[0] > 1e9
