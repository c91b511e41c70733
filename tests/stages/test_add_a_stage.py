"""A stage is one Python file and one YAML: a copy of the house with one more of each knows it everywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGE = '''"""A toy."""

from rlhf_recipes.config.stage import Figure, Stage

STAGE = Stage(
    name="toy",
    title="Toy training",
    order=65,
    starts_from={"policy": ("sft", "base")},
    rows=("preferences",),
    makes="policy",
    learns_from="preferences",
    figures=(Figure("eval_accuracy", "accuracy", "%"),),
)


def run(cfg, run):
    return {"eval_accuracy": 0.75}
'''
YAML = """# @package _global_
# a stage that learns nothing
stage: toy
"""
RECIPE = """# @package _global_
# the toy
# python -m rlhf_recipes recipes=embedded/toy
defaults:
  - override /stage: toy
"""
# What each room makes of the stage, asked in one process: a run whose stages are sft and toy.
ASK = """
import json, sys
from omegaconf import OmegaConf
from rlhf_recipes import stages
from rlhf_recipes.config import stage, sweeps
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun

known = stages.catalogue()
run = {"name": "r", "root": "runs", "parent": None}
chat = StageRun(OmegaConf.create({"stage": "chat", "preview": False, "run": run, "model": {"path": None}}), known)
sweeps.check(OmegaConf.create({"stage": "sft", "objective": "toy.eval_accuracy"}), known)
print(json.dumps({
    "compared": stage.inputs(known["evaluate"], known)["toy"],
    "latest": resolve.find(chat, None, "chat.models").name,
    "elsewhere": resolve.find(chat, "r:toy", "chat.models").path,
    "aligned": "toy" in stage.aligned(known),
    "torch": [name for name in ("torch", "trl") if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package, its configs and its Makefile, with one more stage."""
    root = tmp_path_factory.mktemp("house")
    for folder in ("rlhf_recipes", "conf", "recipes"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, root / file)
    (root / "rlhf_recipes/stages/toy.py").write_text(STAGE)
    (root / "conf/stage/toy.yaml").write_text(YAML)
    (root / "recipes/embedded/toy.yaml").write_text(RECIPE)
    for stage in ("sft", "toy"):
        folder = root / "runs/r" / stage
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text("{}")
        (folder / "config.yaml").write_text(f"stage: {stage}\n")
        metrics = {"metrics": {"eval_accuracy": 0.75}, "stage": stage, "wall_seconds": 1.0}
        (folder / "summary.json").write_text(json.dumps(metrics))
    return root


def shell(house, *command):
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "RECIPE", "MODEL")}
    done = subprocess.run(command, cwd=house, env=env | {"PYTHONPATH": str(house)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_help_lists_it(house):
    assert "a stage that learns nothing" in shell(house, sys.executable, "-m", "rlhf_recipes", "--help")
    assert "|toy|" in shell(house, "make", "help")


def test_make_runs_it_in_its_place(house):
    plan = shell(house, "make", "-n", "pipeline", "RUN=new", "VENV=venv")
    order = [line.split()[2] for line in plan.splitlines() if line.startswith('echo "== ')]
    assert order == ["pretrain", "sft", "reward", "ppo", "toy", "evaluate"]
    assert "recipes=embedded/toy" in plan


def test_it_composes_with_its_inputs(house):
    ask = "from hydra import compose, initialize_config_dir; from rlhf_recipes import stages; import os\n"
    ask += "with initialize_config_dir(os.path.abspath('conf'), version_base='1.3'):\n"
    ask += "    print(stages.checked(compose('config', ['stage=toy'])).inputs)"
    assert "{'policy': ['sft', 'base']}" in shell(house, sys.executable, "-c", ask)


def test_resolver_sweeps_and_evaluation_know_it(house):
    known = json.loads(shell(house, sys.executable, "-c", ASK))
    assert known == {
        "compared": ["toy", "none"],
        "latest": "toy",
        "elsewhere": "runs/r/toy/model",
        "aligned": True,
        "torch": [],
    }


def test_the_report_has_its_title_and_figure(house):
    shell(house, sys.executable, "-m", "rlhf_recipes", "stage=report", "run.name=r")
    page = (house / "runs/r/report.md").read_text(encoding="utf-8")
    assert "Toy training" in page and "75.0 %" in page
