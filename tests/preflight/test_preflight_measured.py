"""The estimate against the peak of a real run, in a process of its own so that nothing else is counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("RLHF_RECIPES_REAL_DATA")
# Activations, gradients and moments of this shape are a third of the peak; the rest are libraries.
SHAPE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}
ROWS = "max_steps=2 max_length=96 gradient_accumulation_steps=1 eval_strategy=no "
PROMPTS = "data.prompts.limit=160"
EPISODES = "gradient_accumulation_steps=1 num_mini_batches=1 num_ppo_epochs=1 num_sample_generations=0 "
RUNS = {
    "sft": ["data.demos.limit=120", ROWS + "per_device_train_batch_size=64"],
    "reward": ["data.preferences.limit=120", ROWS + "per_device_train_batch_size=32"],
    "ppo": [PROMPTS, EPISODES + "per_device_train_batch_size=64 total_episodes=128 response_length=48"],
    "ppo+lora": [PROMPTS, EPISODES + "per_device_train_batch_size=32 total_episodes=64 response_length=32"],
}


@pytest.fixture(scope="module")
def models(folders, tmp_path_factory):
    """{"policy": folder, "reward": folder} of SHAPE, with random weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    root = tmp_path_factory.mktemp("measured")
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, num_labels=1, **SHAPE)
    for name, kind in (("policy", LlamaForCausalLM), ("reward", LlamaForSequenceClassification)):
        kind(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in ("policy", "reward")}


def measured(root, run: str, *words: str) -> dict:
    """summary.json's `preflight` after a run of two steps at the shell."""
    stage, _, adapter = run.partition("+")
    limit, trainer = RUNS[run]
    words = [f"stage={stage}", f"peft={adapter or 'none'}", f"run.root={root}", limit, *words]
    words += [f"trainer.{word}" for word in (trainer + " gradient_checkpointing=false save_strategy=no").split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlhf_recipes", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((root / "default" / stage / "summary.json").read_text())["preflight"]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_takes_what_was_estimated_within_a_quarter(models, tmp_path, run):
    scorers = {"reward_model": "reward", "value_model": "reward"} if run.startswith("ppo") else {}
    starts = {"policy": "policy"} | scorers
    found = measured(tmp_path, run, *(f"inputs.{name}={models[folder]}" for name, folder in starts.items()))
    assert abs(found["estimate_mb"] / found["measured_mb"] - 1) <= 0.25, found
    assert found["measured_mb"] > 750  # it was a run with activations worth counting


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="RLHF_RECIPES_REAL_DATA is unset: no real model to train")
def test_a_real_model_takes_what_was_estimated_within_a_quarter(tmp_path):
    model = Path(REAL) / "models" / "stories260K"
    found = measured(tmp_path, "sft", "model=local", f"model.path={model}")
    assert abs(found["estimate_mb"] / found["measured_mb"] - 1) <= 0.25, found
