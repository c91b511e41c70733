"""What each recipe says, against what was published: the composed config, no model."""

import os
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recipe_house import EVERY, composed, stages_of

from rlhf_recipes.config.paths import RECIPES

ROOT = Path(__file__).parents[2]
DPO = {"optim": "rmsprop", "beta": 0.1, "learning_rate": 5e-7, "warmup_steps": 150, "max_grad_norm": 10.0}
ZIEGLER = {"kl.target": 6.0, "kl.horizon": 10000}

# recipe/stage: {key below trainer, or a whole key: value}; rollout and minibatch are counted from the trainer's.
PUBLISHED = {
    "instructgpt/sft": {"learning_rate": 2e-5, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "batch": 32},
    "instructgpt/reward": {"learning_rate": 9e-6, "warmup_steps": 0.05, "num_train_epochs": 1, "batch": 64},
    "instructgpt/ppo": {
        **{"learning_rate": 1.5e-5, "value_learning_rate": 5e-6, "kl_coef": 0.02, "num_ppo_epochs": 4},
        **{"cliprange": 0.2, "lam": 0.95, "gamma": 1.0, "batch": 512, "minibatch": 64},
    },
    "instructgpt/ptx/ppo": {"ptx_coef": 27.8, "learning_rate": 1.5e-5, "batch": 512, "minibatch": 64},
    "alpaca_sft/sft": {
        **{"learning_rate": 2e-5, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0},
        **{"num_train_epochs": 3, "max_length": 512, "batch": 128, "data.template": "alpaca"},
    },
    "hh_rlhf/ppo": {
        **{"learning_rate": 6e-6, "kl_coef": 0.05, "num_ppo_epochs": 4, "vf_coef": 1.0, "response_length": 128},
        **{"reward_normalize": "running", "reward_clip": 10.0, "batch": 64, "minibatch": 8},
        **ZIEGLER,
    },
    "hh_rlhf/dpo": {**DPO, "max_length": 512, "batch": 64},
    "imdb_sentiment/ppo": {
        **{"learning_rate": 6e-6, "value_learning_rate": None, "target_kl": 0.03, "batch": 128, "minibatch": 16},
        **{"model.path": "Qwen/Qwen2.5-0.5B-Instruct", "data.demos.options.tokens": 10},
        **{"reward.functions.sentiment.kwargs.model": "lvwerra/distilbert-imdb", "inputs.policy": "base"},
        **{"reward.functions.sentiment.kwargs.label": "POSITIVE"},
    },
    "gpt2_imdb/ppo": {
        **{"model.path": "lvwerra/gpt2-imdb", "response_length": 48, "temperature": 0.7, "learning_rate": 1.41e-5},
        **{"kl_coef": 0.2, "batch": 128, "reward.functions.sentiment.kwargs.model": "lvwerra/distilbert-imdb"},
        **ZIEGLER,
    },
    "nl2sql/sft": {"model.path": "facebook/opt-1.3b", "peft._target_": "peft.LoraConfig"},
    "nl2sql/reward": {"model.path": "facebook/opt-350m", "inputs.policy": "base", "peft._target_": None},
    "nl2sql/ppo": {"model.path": "facebook/opt-1.3b", "peft._target_": "peft.LoraConfig"},
    "nl2sql/dpo": {**DPO, "model.path": "openai-community/gpt2", "inputs.policy": "base"},
    "nl2sql/grpo": {"reward.functions.execution.weight": 1.0, "peft._target_": "peft.LoraConfig"},
    "gsm8k/grpo": {
        **{"model.path": "Qwen/Qwen2.5-0.5B-Instruct", "learning_rate": 5e-6, "adam_beta1": 0.9, "adam_beta2": 0.99},
        **{"weight_decay": 0.1, "warmup_steps": 0.1, "lr_scheduler_type": "cosine", "bf16": True},
        **{"num_generations": 8, "max_completion_length": 200, "max_grad_norm": 0.1},
    },
    "reasoning_qwen3_4b/sft": {"model.path": "Qwen/Qwen3-4B-Base", "num_train_epochs": 2},
    "reasoning_qwen3_4b/grpo": {
        **{"model.path": "Qwen/Qwen3-4B-Base", "peft.r": 32, "peft.lora_alpha": 64, "use_vllm": True},
        **{"peft.target_modules": "all-linear", "data.prompts.path": "open-r1/DAPO-Math-17k-Processed"},
    },
}
FIVE = {"correctness", "integer", "strict_format", "soft_format", "xml_count"}
FOUR = {"exact_format", "approximate_format", "check_answer", "check_number"}


def value(cfg, key: str):
    trainer = cfg.trainer
    match key:
        case "batch":
            return trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
        case "minibatch":
            return value(cfg, "batch") / trainer.num_mini_batches
        case _:
            return OmegaConf.select(cfg, key if "." in key else f"trainer.{key}")


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_composed_config_holds_what_was_published(recipe):
    name, _, stage = recipe.rpartition("/")
    cfg = composed(name, stage)
    assert {key: value(cfg, key) for key in PUBLISHED[recipe]} == PUBLISHED[recipe]


def test_rewards_are_the_published_ones():
    assert set(composed("gsm8k", "grpo").reward.functions) == FIVE
    assert set(composed("reasoning_qwen3_4b", "grpo").reward.functions) == FOUR


@pytest.mark.parametrize("recipe", [*(r for r in EVERY if r != "embedded_grpo"), "instructgpt/ptx"])
def test_what_is_compared_was_trained_alike(recipe):
    """evaluate asks under the prompt, the template and the length that ppo or grpo trained with.

    embedded_grpo lets answers go on for longer: the one that counts stands in the first sentence.
    """
    trained = [s for s in ("ppo", "grpo") if (RECIPES / recipe / f"{s}.yaml").is_file()]
    if not trained or not (RECIPES / recipe / "evaluate.yaml").is_file():
        pytest.skip("trains no policy by reward, or leaves its evaluation to another recipe")
    asked = composed(recipe, "evaluate")
    for stage in trained:
        cfg = composed(recipe, stage)
        length = cfg.trainer.get("response_length", cfg.trainer.get("max_completion_length"))
        assert asked.evaluate.max_new_tokens == length
        for key in ("model.path", "model.chat_template", "data.system", "data.template", "data.name", "data.demos"):
            assert OmegaConf.select(asked, key) == OmegaConf.select(cfg, key), key
        if asked.evaluate.temperature:  # not greedy
            assert asked.evaluate.temperature == cfg.trainer.temperature


def test_a_tag_is_changed_in_one_place():
    cfg = composed(
        "reasoning_qwen3_4b", "sft", "reward.tags.reasoning_start='<think>'", "reward.tags.solution_end='</A>'"
    )
    assert "set start = '<think>'" in cfg.model.chat_template
    assert cfg.data.demos.options.solution_end == "</A>"


@pytest.mark.parametrize("recipe", [*EVERY, "instructgpt/ptx"])
def test_make_runs_its_stages_in_order(recipe, tmp_path):
    """`make -n` prints what `make` would run."""
    ready = tmp_path / "venv" / ".ready"
    ready.parent.mkdir()
    ready.touch()
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    given = [f"RECIPE={recipe}", f"VENV={tmp_path}/venv", f"RUNS={tmp_path}/runs"]
    command = ["make", "-n", "-C", str(ROOT), "pipeline", *given]
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = [line.removeprefix('echo "== ').removesuffix(' =="') for line in done.stdout.splitlines() if " ==" in line]
    assert run == stages_of(recipe)
    for stage in run:
        assert f"stage={stage} recipes={recipe}/{stage}" in done.stdout


@pytest.mark.parametrize("recipe", EVERY)
def test_a_readme_gives_a_command_for_every_stage(recipe):
    text = (RECIPES / recipe / "README.md").read_text(encoding="utf-8")
    if f"make pipeline RECIPE={recipe}" in text or f"for stage in {' '.join(stages_of(recipe))};" in text:
        return
    for stage in stages_of(recipe):
        assert f"recipes={recipe}/{stage}" in text or "objective=evaluate" in text, stage
