"""One made run with tiny random models, and a stage of it run in this process."""

import io
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.runs.artifacts import StageRun

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
import finished_run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """runs/made with sft, ppo (LoRA on sft), dpo (LoRA on ppo) and reward. Read only."""
    return finished_run.make(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="session")
def composed(made):
    """composed("seed=1", …) -> the checked config of stage=chat on the made run."""
    register_recipes()

    def compose_it(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            shared = ["stage=chat", f"run.root={made.parent}", f"run.name={made.name}"]
            return stages.checked(compose("config", rewrite([*shared, *overrides])))

    return compose_it


@pytest.fixture(scope="session")
def load(composed):
    """load("ppo") -> that stage's model, loaded as chat loads it."""
    from rlhf_recipes.chat.speaker import Speaker
    from rlhf_recipes.runs import resolve

    def load_it(place):
        cfg = composed()
        return Speaker(cfg, resolve.find(StageRun(cfg, stages.catalogue()), place, "chat.models"), place)

    return load_it


@pytest.fixture
def chat(composed, monkeypatch, capsys):
    """chat(lines, "chat.top_k=1", …) -> (stdout, stderr) of the stage with those lines piped in."""

    def run(lines, *overrides):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        capsys.readouterr()
        assert stages.run(composed(*overrides)) == {}
        return capsys.readouterr()

    return run
