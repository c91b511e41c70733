"""The page by symptom quotes messages that this package prints, and settings that exist."""

import ast
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlhf_recipes.__main__ import groups, register_recipes
from rlhf_recipes.config import fields as sources
from rlhf_recipes.config import schema
from rlhf_recipes.config.paths import CONF, PACKAGE, options
from rlhf_recipes.config.stage import inputs
from rlhf_recipes.stages import catalogue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [" ".join(text.split()) for text in re.findall(r"«([^»]+)»", PAGE)]
SET = sorted(set(re.findall(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)*)=", " ".join(re.findall(r"`([^`]+)`", PAGE)))))


@pytest.fixture(scope="module")
def printed():
    """Every string of the package, what is filled in replaced by «…»."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sd]|%\.\df", "…", node.value))
    return "\n".join(found) + re.sub(r"\$+\(?\w+\)?", "…", (ROOT / "Makefile").read_text(encoding="utf-8"))


@pytest.mark.parametrize("message", [m for m in QUOTED if m])
def test_every_quoted_message_is_printed(printed, message):
    pieces = [piece.strip(" ();.") for piece in message.split("…")]
    assert any(len(piece) > 7 for piece in pieces), "too little is quoted to be looked for"
    for piece in pieces:
        assert piece in printed, piece


@pytest.mark.parametrize("key", [key for key in SET if key.islower()])
def test_every_named_setting_exists(known, key):
    assert key in known or key.startswith(("data.demos.", "data.preferences.")), key


@pytest.fixture(scope="module")
def known():
    """Keys of ours, of every stage's trainer class, of LoRA, and the groups."""
    register_recipes()
    found = set(groups([])) | {"stage"}
    found |= {f"peft.{name}" for name in sources.fields("peft.LoraConfig")}
    found |= {f"data.{name}" for name in ("template", "system", "max_prompt_length", "eval_fraction")}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found |= set(_flat(OmegaConf.to_container(OmegaConf.structured(schema.Settings))))
        for stage in options(CONF / "stage"):
            cfg = OmegaConf.to_container(compose("config", [f"stage={stage}"]), resolve=False)
            starts_from = inputs(catalogue()[stage], catalogue())
            found |= set(_flat(cfg)) | set(cfg) | {f"inputs.{name}" for name in starts_from}
            if target := (cfg.get("trainer") or {}).get("_target_"):
                found |= {f"trainer.{name}" for name in sources.fields(target)}
    return found


def _flat(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
