"""The reference page names every field that is ours, and the defaults that stage=ppo has."""

import re
from dataclasses import fields
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from test_golden import note
from transformers import TrainingArguments

import rlhf_recipes.config.adapters  # noqa: F401  registers what the YAML interpolates with
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.config.schema import Ppo
from rlhf_recipes.ppo import PPOConfig

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "ppo.md").read_text(encoding="utf-8")
ROWS = {
    key: default
    for keys, default in re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE, re.M)
    for key in re.findall(r"`(.*?)`", keys)
}


def test_every_field_of_ours_is_there():
    own = {f.name for f in fields(PPOConfig)} - {f.name for f in fields(TrainingArguments)} - {*note("fields")}
    assert [name for name in own if f"`trainer.{name}`" not in PAGE] == []
    assert [f.name for f in fields(Ppo) if f"ppo.{f.name}" not in ROWS] == []


def test_the_defaults_are_the_stages():
    stage = OmegaConf.to_container(OmegaConf.load(CONF / "stage" / "ppo.yaml"), resolve=True)
    given = {f"trainer.{f.name}": f.default for f in fields(PPOConfig)}
    given |= {f"{node}.{key}": value for node in ("trainer", "ppo") for key, value in stage[node].items()}
    said = {key: yaml.safe_load(value) for key, value in ROWS.items() if key.startswith(("trainer.", "ppo."))}
    assert len(said) > 35
    assert said == {key: given[key] for key in said}
