"""The made run, its exports, and what a process without this package makes of them."""

import json
import os
import subprocess
import sys

import finished_run
import pytest
from finished_run import PROMPT, QUESTION, TOKENS
from hydra import compose, initialize_config_dir

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF

# Runs with `python -I` and with the package blocked: an editable install would make it importable from anywhere.
OUTSIDE = """
import json, sys
sys.modules["rlhf_recipes"] = None
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
job, said = json.loads(sys.argv[1]), {}
for name, folder in job["policies"].items():
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(job["prompt"], return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=job["tokens"], do_sample=False)
    said[name] = {"ids": out[0, ids["input_ids"].shape[1] :].tolist(), "dtype": str(model.dtype)}
    ask = pipeline("text-generation", folder)
    told = ask([{"role": "user", "content": job["question"]}], max_new_tokens=job["tokens"], do_sample=False)
    said[name]["pipeline"] = told[0]["generated_text"][-1]["content"]
for name, folder in job["rewards"].items():
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        said[name] = model(**tokenizer(job["prompt"], return_tensors="pt")).logits[0].tolist()
try:
    import rlhf_recipes
except ImportError:
    said["package"] = "absent"
print(json.dumps(said))
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """runs/made with sft, ppo (LoRA on sft), dpo (LoRA on ppo) and reward. Read only."""
    return finished_run.make(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="session")
def export(made):
    """export("export.model=sft", …) -> what the stage returns."""
    register_recipes()

    def run(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            shared = ["stage=export", f"run.root={made.parent}", f"run.name={made.name}"]
            return stages.run(stages.checked(compose("config", rewrite([*shared, *overrides]))))

    return run


@pytest.fixture(scope="session")
def exports(made, export, tmp_path_factory):
    """{name: folder} of every kind of export, and {name: what the stage returned}."""
    root = tmp_path_factory.mktemp("exports")
    lora = made.parent / "lora_reward"
    if not lora.exists():
        finished_run.reward_adapter(lora, base=made / "sft" / "model")
    wanted = {
        "ppo": ["export.model=ppo"],
        "dpo": ["export.model=dpo"],
        "half": ["export.model=sft", "export.dtype=bfloat16"],
        "reward": ["export.model=reward"],
        "lora_reward": [f"export.model={lora}/reward"],
    }
    told = {name: export(*overrides, f"export.to={root}/{name}") for name, overrides in wanted.items()}
    return {name: root / name for name in wanted}, told


@pytest.fixture(scope="session")
def outside(exports, tmp_path_factory):
    """What a process without this package gets from the exports."""
    folders, _ = exports
    job = {"prompt": PROMPT, "question": QUESTION, "tokens": TOKENS}
    job["policies"] = {name: str(folders[name]) for name in ("ppo", "dpo", "half")}
    job["rewards"] = {name: str(folders[name]) for name in ("reward", "lora_reward")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", OUTSIDE, json.dumps(job)],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
