import copy
import os

import pytest
from tiny_world import make_models, make_prompts, make_tokenizer, make_trainer, make_trl_trainer

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
def trl_make(_models, tokenizer, prompts, tmp_path):
    """TRL's own trainer on the same world: trl_make(trainer={keywords of the trainer}, **fields of the config)."""

    def build(tokenizer=tokenizer, data=prompts, **keywords):
        return make_trl_trainer(tmp_path / "trl", tokenizer=tokenizer, data=data, world=_models, **keywords)

    return build
