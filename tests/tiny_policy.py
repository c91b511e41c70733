"""A tiny policy on disk and the stages run on it: hidden 32, two layers, random weights, a BPE of the corpus."""

import json
import shutil
from contextlib import contextmanager

import tiny_run
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
STEPS = [*tiny_run.STEPS, "trainer.learning_rate=1e-3"]
OF = {
    "ppo": [
        "trainer.total_episodes=32",  # 4 updates of 8 answers, 2 steps each
        "trainer.per_device_train_batch_size=8",
        "trainer.gradient_accumulation_steps=1",
        "trainer.num_mini_batches=2",
        "trainer.num_ppo_epochs=1",
        "trainer.response_length=8",
        "trainer.gradient_checkpointing=false",
        "trainer.num_sample_generations=0",
        "trainer.save_steps=2",
        "trainer.learning_rate=1e-3",
        "data.prompts.limit=200",
    ],
    "dpo": [*STEPS, "trainer.max_length=96", "data.preferences.limit=160"],
    "kto": [*STEPS, "trainer.max_length=96", "data.preferences.limit=160"],
    "grpo": [
        *STEPS,
        "trainer.num_generations=4",
        "trainer.max_completion_length=8",
        "trainer.eval_steps=2",
        "trainer.per_device_eval_batch_size=8",
        "grpo.eval_prompts=4",
        "grpo.sample_rows=0",
        "data.prompts.limit=200",
    ],
}
OF["rloo"] = OF["grpo"]

# every answer has a length, and few have the same
LENGTH = ("reward=length", "reward.functions.length_target.kwargs={target: 10, width: 60, unit: characters}")


def save_policy(folder) -> str:
    """A random policy and its tokenizer in a folder."""
    from rlhf_recipes import models
    from rlhf_recipes.data import embedded
    from rlhf_recipes.models.tokenizer import train_bpe

    with house():
        model = compose("config", overrides=["stage=sft"]).model
    model.init.update(SHAPE)
    tokenizer = train_bpe([row["text"] for row in embedded.rows("corpus", n=120)], vocab_size=512)
    models.init_policy(model, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run_stage(stage: str, *overrides: str) -> dict:
    """A stage's metrics."""
    with house():
        return stages.run(compose("config", rewrite([f"stage={stage}", *OF[stage], *overrides])))


def config(stage: str, *overrides: str):
    """A stage's checked config."""
    with house():
        return stages.checked(compose("config", rewrite([f"stage={stage}", *OF[stage], *overrides])))


@contextmanager
def house():
    register_recipes()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def trainer_of(stage: str, *overrides: str):
    """A stage's trainer, before it has trained."""
    from importlib import import_module

    from rlhf_recipes.runs.artifacts import StageRun

    cfg = config(stage, *overrides)
    run = StageRun(cfg, stages.catalogue())
    run.resolve()
    return import_module(f"rlhf_recipes.stages.{stage}").trainer(cfg, run)


def log(root, stage: str, run: str = "default") -> list[dict]:
    """The training lines of a stage's metrics.jsonl."""
    lines = (root / run / stage / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def weights(folder) -> dict:
    """The tensors of a saved model."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def undo_the_end(folder, last: str = "checkpoint-4") -> None:
    """Leave a stage's folder as if it had been killed after the checkpoint before its last one."""
    for name in ("model", f"checkpoints/{last}"):
        shutil.rmtree(folder / name)
    (folder / "summary.json").unlink()


def whole_and_resumed(stage, folder, given: tuple[str, ...]) -> tuple[dict, dict]:
    """Metrics of a whole run, and of one that went on after its end was undone. Their weights must be equal."""
    import torch

    whole = stage(*given)
    expected = weights(folder / "model")
    undo_the_end(folder)
    again = stage(*given)
    for name, value in weights(folder / "model").items():
        torch.testing.assert_close(value, expected[name], msg=name)
    return whole, again
