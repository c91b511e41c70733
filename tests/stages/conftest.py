"""One tiny run of every stage, made once: hidden 32, two layers, a few steps, in one process."""

import pytest
from hydra import compose, initialize_config_dir
from tiny_run import SMALL, STEPS

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF

PPO = [
    "trainer.total_episodes=32",
    "trainer.per_device_train_batch_size=8",
    "trainer.gradient_accumulation_steps=1",
    "trainer.num_mini_batches=2",
    "trainer.num_ppo_epochs=2",
    "trainer.response_length=12",
    "trainer.per_device_eval_batch_size=6",
    "trainer.gradient_checkpointing=false",
    "trainer.save_steps=1",
    "ppo.sample_rows=0",
]
OF = {
    "pretrain": [*STEPS, "trainer.max_length=64"],
    "sft": [*STEPS, "trainer.max_length=96"],
    "reward": [*STEPS, "trainer.max_length=96"],
    "dpo": [*STEPS, "trainer.max_length=96"],
    "kto": [*STEPS, "trainer.max_length=96"],
    "ppo": PPO,
    "grpo": [*STEPS, "trainer.num_generations=4", "trainer.max_completion_length=12", "reward=exact"],
    "collect": ["collect.prompts=8", "collect.answers=3", "collect.max_new_tokens=12", "reward=gold"],
    "evaluate": ["evaluate.prompts=8", "evaluate.max_new_tokens=12", "evaluate.ppl_rows=8"],
    "report": [],
    "export": [],
    "score": [],
}


@pytest.fixture(scope="session")
def house():
    """Runs one stage: house("sft", "run.root=…", …) -> (its metrics, its checked config)."""
    register_recipes()

    def run(stage, *overrides):
        shared = [] if stage == "report" else SMALL
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", rewrite([f"stage={stage}", *shared, *OF[stage], *overrides]))
            return stages.run(cfg), stages.checked(cfg)

    return run


@pytest.fixture(scope="session")
def small():
    """The overrides that make stages tiny, for a shell of its own: those of several stages that do not clash."""
    return lambda *names: list(dict.fromkeys([*SMALL, *(word for name in names for word in OF[name])]))


@pytest.fixture(scope="session")
def made(house, tmp_path_factory):
    """A finished run with every stage: (root, {stage: metrics})."""
    root = tmp_path_factory.mktemp("runs")
    order = ("pretrain", "sft", "reward", "ppo", "dpo", "grpo", "evaluate", "report")
    return root, {stage: house(stage, f"run.root={root}")[0] for stage in order}
