"""A tiny world: fifty words, a two-layer model, prompts of unlike length, and a reward that counts one word."""

import copy
import os

import pytest

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **special)


@pytest.fixture(scope="session")
def _models():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    shape = {"vocab_size": 44, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    config = LlamaConfig(**shape, **heads, **special, num_labels=1)
    torch.manual_seed(0)
    made = {"policy": LlamaForCausalLM(config)}
    with torch.no_grad():  # end about one answer in five at each step
        made["policy"].lm_head.weight[2] *= 2
    for name in ("value", "reward"):
        made[name] = LlamaForSequenceClassification(config)
    return made


@pytest.fixture
def models(_models):
    """Fresh copies of policy, value and reward model."""
    return {name: copy.deepcopy(model) for name, model in _models.items()}


@pytest.fixture(scope="session")
def prompts():
    from datasets import Dataset

    rows = [" ".join(WORDS[(3 * i + j) % 40] for j in range(1 + i % 4)) for i in range(24)]
    return Dataset.from_dict({"prompt": rows, "answer": [f"a{i}" for i in range(24)]})


@pytest.fixture
def settings(tmp_path):
    """Keywords of a config for one update of eight episodes, one forward."""
    return {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": 1,
        "num_ppo_epochs": 2,
        "total_episodes": 8,
        "response_length": 6,
        "stop_token": "eos",
        "temperature": 0.7,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "num_sample_generations": 0,
        "seed": 3,
    }


def count_w1(prompts, completions, **kwargs):
    """1 for each w1 in the answer, and a little for length, so that no two rows need be alike."""
    return [float(c.split().count("w1")) + 0.1 * len(c.split()) for c in completions]


@pytest.fixture
def make(models, settings, tokenizer, prompts):
    """PPOTrainer on the tiny world; keywords go to the config, `trainer` to the trainer."""
    from rlhf_recipes.ppo import PPOConfig, PPOTrainer

    def build(trainer=None, model=None, reward=count_w1, data=None, tokenizer=tokenizer, **config):
        given = {"value_model": copy.deepcopy(models["value"])} | (trainer or {})
        policy = copy.deepcopy(models["policy"]) if model is None else model
        args = PPOConfig(**settings | config)
        return PPOTrainer(policy, args, tokenizer, reward, prompts if data is None else data, **given)

    return build


@pytest.fixture
def trl_make(models, settings, tokenizer, prompts):
    """TRL's own trainer on the same world."""
    from transformers import LlamaForCausalLM
    from trl.experimental.ppo import PPOConfig as TRLConfig
    from trl.experimental.ppo import PPOTrainer as TRLTrainer

    def build(model=None, tokenizer=tokenizer, reward_model=None, data=None, **config):
        policy = copy.deepcopy(models["policy"]) if model is None else model
        ref = LlamaForCausalLM(policy.config)
        ref.load_state_dict(policy.state_dict())
        data = prompts if data is None else data
        rows = data.map(
            lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns=data.column_names
        )
        return TRLTrainer(
            args=TRLConfig(**{"save_strategy": "no"} | settings | config),
            processing_class=tokenizer,
            model=policy,
            ref_model=ref,
            reward_model=reward_model or copy.deepcopy(models["reward"]),
            value_model=copy.deepcopy(models["value"]),
            train_dataset=rows,
            eval_dataset=rows,
        )

    return build


def history(trainer, metric):
    """The values of a metric over a run's log lines."""
    return [row[metric] for row in trainer.state.log_history if metric in row]
