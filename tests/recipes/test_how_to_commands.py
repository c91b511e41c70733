"""Every command on the pages about DPO, GRPO and rewards composes, and holds only keys that something reads."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.stages import dpo, grpo, kto

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def commands(page: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"python -m rlhf_recipes (.*?)[`\n]", text)
    return [line for line in found if "reward=mine" not in line]  # a file that the reader writes


COMMANDS = [(page, line) for page in ("dpo", "kto", "grpo", "rloo", "custom-reward") for line in commands(page)]


@pytest.fixture(scope="module", autouse=True)
def hydra_house():
    register_recipes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_composes(page, line, monkeypatch):
    monkeypatch.setattr(grpo, "check_vllm", lambda cfg: None)  # it is not installed here
    cfg = stages.checked(compose("config", rewrite(shlex.split(line))))
    for stage in (dpo, grpo, kto):
        if cfg.stage == stage.STAGE.name:
            stage.check(cfg, None)


@pytest.mark.parametrize(("page", "names"), [("dpo", dpo.LOSSES), ("grpo", grpo.LOSSES), ("kto", kto.LOSSES)])
def test_every_loss_is_on_its_page(page, names):
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in text] == []
