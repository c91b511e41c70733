"""peft=lora through the whole pipeline: adapters on disk, merged where the next stage starts."""

import json

import torch

from rlhf_recipes import models

LORA = ("peft=lora", "peft.r=4")


def test_lora_runs_through_sft_reward_and_ppo(made, house, tmp_path):
    base = made[0] / "default" / "pretrain" / "model"
    house("sft", f"run.root={tmp_path}", f"inputs.policy={base}", *LORA)
    house("reward", f"run.root={tmp_path}", *LORA)
    metrics, cfg = house("ppo", f"run.root={tmp_path}", *LORA)
    assert metrics["kl_last"] is not None
    for stage in ("sft", "reward", "ppo"):
        folder = tmp_path / "default" / stage / "model"
        assert (folder / "adapter_model.safetensors").is_file()
        assert not (folder / "model.safetensors").exists()
    above = json.loads((tmp_path / "default" / "ppo" / "model" / "adapter_config.json").read_text())
    assert above["base_model_name_or_path"] == str(tmp_path / "default" / "sft" / "model")

    tokenizer = models.load_tokenizer(cfg.model, str(base))
    loaded = {
        stage: models.load_policy(cfg.model, str(tmp_path / "default" / stage / "model"), tokenizer)
        for stage in ("sft", "ppo")
    }
    plain = models.load_policy(cfg.model, str(base), tokenizer)
    ids = torch.arange(5, 25)[None]
    logits = {name: model(ids).logits for name, model in {**loaded, "base": plain}.items()}
    assert not torch.allclose(logits["sft"], logits["base"])
    assert not torch.allclose(logits["ppo"], logits["sft"])


def test_the_reward_models_head_is_trained_and_saved_with_its_adapter(made, house, tmp_path):
    house("reward", f"run.root={tmp_path}", f"inputs.policy={made[0]}/default/sft/model", *LORA)
    _, cfg = house("reward", f"run.root={tmp_path}", f"inputs.policy={made[0]}/default/sft/model", *LORA)
    path = str(tmp_path / "default" / "reward" / "model")
    tokenizer = models.load_tokenizer(cfg.model, path)
    loaded = models.load_reward_model(cfg.model, path, tokenizer, seed=1)
    again = models.load_reward_model(cfg.model, path, tokenizer, seed=2)
    assert torch.equal(loaded.score.weight, again.score.weight)  # read from disk, not drawn
