"""The estimate against the peak of a real run, each in a process of its own so that nothing else is counted."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("RLHF_RECIPES_REAL_DATA")
TRAINER = "max_steps=2 per_device_train_batch_size=32 max_length=96 gradient_accumulation_steps=1 eval_strategy=no "
TRAINER += "gradient_checkpointing=false save_strategy=no"


def shell(*words: str) -> str:
    command = [sys.executable, "-m", "rlhf_recipes", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(root: Path, stage: str, *words: str) -> None:
    """preflight=true says 0.9 to 1.2 of what a run of two steps then measures."""
    trainer = [f"trainer.{word}" for word in TRAINER.split()]
    words = [f"stage={stage}", f"run.root={root}", *trainer, *words]
    amount, unit = re.search(r"together +([\d.]+) (GB|MB)", shell(*words, "preflight=true")).groups()
    shell(*words)
    measured = json.loads((root / "default" / stage / "summary.json").read_text())["preflight"]["measured_mb"]
    estimate = float(amount) * (1000 if unit == "GB" else 1)
    assert 0.9 <= estimate / measured <= 1.2, (estimate, measured)


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_a_run_takes_what_was_estimated(tmp_path, folders, peft):
    check(tmp_path, "reward", f"inputs.policy={folders['policy']}", f"peft={peft}", "data.preferences.limit=120")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="RLHF_RECIPES_REAL_DATA is unset: no real model to train")
def test_a_real_model_takes_what_was_estimated(tmp_path):
    model = Path(REAL) / "models" / "stories260K"
    check(tmp_path, "sft", "model=local", f"model.path={model}", "data.demos.limit=120")
