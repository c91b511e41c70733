"""A tiny policy and a tiny reward model of one tokenizer, made without training; stages composed as at the shell."""

import pytest
from hydra import compose, initialize_config_dir

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.runs.artifacts import StageRun

VOCAB = 320
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def house():
    """house("stage=sft", *overrides) -> (checked config, StageRun with its inputs resolved)."""
    register_recipes()

    def settle(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = stages.checked(compose("config", rewrite(list(overrides))))
        run = StageRun(cfg, stages.catalogue())
        run.resolve()
        return cfg, run

    return settle


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """{"policy": folder, "reward": folder, "bare": one with a config and no weights}."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from rlhf_recipes.data import embedded
    from rlhf_recipes.models.tokenizer import train_bpe

    root = tmp_path_factory.mktemp("models")
    tokenizer = train_bpe([row["text"] for row in embedded.rows("corpus", seed=0, n=200)], VOCAB)
    config = LlamaConfig(vocab_size=VOCAB, **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    made = {name: root / name for name in ("policy", "reward", "bare")}
    LlamaForCausalLM(config).save_pretrained(made["policy"])
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(made["reward"])
    config.save_pretrained(made["bare"])
    for folder in made.values():
        tokenizer.save_pretrained(folder)
    return {name: str(folder) for name, folder in made.items()}
