import copy
import os
from functools import partial

import pytest
from tiny_world import SETTINGS, make_models, make_prompts, make_tokenizer, make_trainer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def _models():
    return make_models()


@pytest.fixture
def models(_models):
    """Fresh copies of policy, value and reward model."""
    return {name: copy.deepcopy(model) for name, model in _models.items()}


@pytest.fixture(scope="session")
def prompts():
    return make_prompts()


@pytest.fixture
def make(_models, prompts, tokenizer, tmp_path):
    """PPOTrainer on the tiny world: make(trainer={keywords of the trainer}, **fields of the config)."""

    def build(tokenizer=tokenizer, data=prompts, output_dir=tmp_path / "out", **keywords):
        return make_trainer(output_dir, tokenizer=tokenizer, data=data, world=_models, **keywords)

    return build


@pytest.fixture
def trl_make(models, tokenizer, prompts, tmp_path):
    """TRL's own trainer on the same world."""
    from transformers import LlamaForCausalLM
    from trl.experimental.ppo import PPOConfig as TRLConfig
    from trl.experimental.ppo import PPOTrainer as TRLTrainer

    def build(model=None, tokenizer=tokenizer, reward_model=None, data=prompts, **config):
        policy = copy.deepcopy(models["policy"]) if model is None else model
        ref = LlamaForCausalLM(policy.config)
        ref.load_state_dict(policy.state_dict())
        tokenise = partial(_tokenise, tokenizer=tokenizer)
        rows = data.map(tokenise, remove_columns=data.column_names, keep_in_memory=True)
        return TRLTrainer(
            args=TRLConfig(**{"output_dir": str(tmp_path / "trl")} | SETTINGS | config),
            processing_class=tokenizer,
            model=policy,
            ref_model=ref,
            reward_model=reward_model or copy.deepcopy(models["reward"]),
            value_model=copy.deepcopy(models["value"]),
            train_dataset=rows,
            eval_dataset=rows,
        )

    return build


def _tokenise(row, tokenizer):
    return {"input_ids": tokenizer(row["prompt"])["input_ids"]}
