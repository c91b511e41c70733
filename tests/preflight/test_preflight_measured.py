"""The estimate against the peak of a real run, in a process of its own so that nothing else is counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Activations, gradients and moments of this shape are a third of the peak; the rest are libraries.
SHAPE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}


def test_a_run_of_sft_takes_what_was_estimated_within_a_quarter(folders, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    policy = tmp_path / "policy"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    words = ["stage=sft", f"inputs.policy={policy}", f"run.root={tmp_path}", "data.demos.limit=120"]
    trainer = "max_steps=2 max_length=96 per_device_train_batch_size=64 gradient_accumulation_steps=1 "
    trainer += "gradient_checkpointing=false eval_strategy=no save_strategy=no"
    words += [f"trainer.{word}" for word in trainer.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlhf_recipes", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "default" / "sft" / "summary.json").read_text())["preflight"]
    assert abs(found["estimate_mb"] / found["measured_mb"] - 1) <= 0.25, found
    assert found["measured_mb"] > 750  # it was a run with activations worth counting
