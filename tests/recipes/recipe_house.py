"""A recipe as the Makefile runs it, and what of it must shrink in a test."""

import copy
import json
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir

from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF, RECIPES
from rlhf_recipes.config.stage import pipeline
from rlhf_recipes.stages import catalogue

EVERY = tuple(sorted(folder.name for folder in RECIPES.iterdir() if any(folder.glob("*.yaml"))))
# Those whose models and data come from the hub: run here on stand-ins for both. The others run on what they make.
NAMES = (
    *("instructgpt", "alpaca_sft", "hh_rlhf", "imdb_sentiment", "gpt2_imdb", "nl2sql", "gsm8k"),
    "reasoning_qwen3_4b",
)
ORDER = pipeline(catalogue())

# What must shrink, and nothing else: steps, batches, lengths, and what this machine has no hardware for.
TRAIN = (
    "trainer.max_steps=2",
    "trainer.per_device_train_batch_size=2",
    "trainer.per_device_eval_batch_size=4",
    "trainer.gradient_accumulation_steps=1",
)
PPO = (
    "trainer.total_episodes=16",
    "trainer.per_device_train_batch_size=8",
    "trainer.gradient_accumulation_steps=1",
    "trainer.num_mini_batches=2",
    "trainer.response_length=10",
    "trainer.per_device_eval_batch_size=4",
    "trainer.num_sample_generations=1",
    "ppo.sample_rows=0",
)
GRPO = (
    "trainer.max_steps=2",
    "trainer.per_device_train_batch_size=8",
    "trainer.per_device_eval_batch_size=8",
    "trainer.gradient_accumulation_steps=1",
    "trainer.max_completion_length=28",
    "trainer.bf16=false",
    "trainer.use_vllm=false",
    "grpo.eval_prompts=2",
    "grpo.sample_rows=0",
)
SHRINK = {
    "sft": TRAIN,
    "reward": TRAIN,
    "dpo": TRAIN,
    "kto": TRAIN,
    "collect": ("collect.prompts=28", "collect.max_new_tokens=28"),
    "ppo": PPO,
    "grpo": GRPO,
    "rloo": GRPO,
    "evaluate": ("evaluate.prompts=4", "evaluate.max_new_tokens=28", "evaluate.batch_size=4"),
}


def stages_of(recipe: str) -> list[str]:
    """The stages a recipe has files for, in the order the Makefile runs them."""
    return [stage for stage in ORDER if (RECIPES / recipe / f"{stage}.yaml").is_file()]


def composed(recipe: str, stage: str, *overrides: str):
    """A recipe's config for a stage, as the Makefile's command composes it."""
    return copy.deepcopy(_composed(recipe, stage, *overrides))


@cache
def _composed(recipe: str, stage: str, *overrides: str):
    register_recipes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", rewrite([f"stage={stage}", f"recipes={recipe}/{stage}", *overrides]))


def summary(root: Path, stage: str, run: str = "default") -> dict:
    return json.loads((root / run / stage / "summary.json").read_text(encoding="utf-8"))


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
