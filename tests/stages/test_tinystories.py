"""The tinystories_sentiment recipe on the real model and stories, shortened: it must still make stories happier."""

import json
import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config.paths import CONF

REAL = os.environ.get("RLHF_RECIPES_REAL_DATA")
SHORT = {
    "sft": ["trainer.max_steps=10", "trainer.eval_strategy=no", "data.demos.limit=600"],
    "collect": ["collect.prompts=300", "data.demos.limit=1000"],
    "reward": ["trainer.per_device_train_batch_size=32", "trainer.max_steps=40"],
    "ppo": [
        "trainer.total_episodes=896",
        "trainer.learning_rate=3e-4",
        "trainer.num_sample_generations=1",
        "data.demos.limit=600",
    ],
    "evaluate": ["evaluate.prompts=240", "evaluate.ppl_rows=16", "data.demos.limit=600"],
}


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="RLHF_RECIPES_REAL_DATA is unset: no real model to train")
def test_ppo_makes_real_stories_happier(tmp_path):
    real = Path(REAL)
    given = [
        f"model.path={real}/models/stories260K",
        f"data.demos.path={real}/data/tinystories/stories.jsonl",
        f"data.gold.kwargs.lexicon={real}/data/sentiment/vader_lexicon.txt",
        f"run.root={tmp_path}",
    ]
    register_recipes()
    metrics = {}
    for stage, short in SHORT.items():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            recipe = f"recipes=tinystories_sentiment/{stage}"
            metrics[stage] = stages.run(compose("config", rewrite([recipe, *given, *short])))
    assert metrics["reward"]["eval_accuracy"] > 0.6
    models = metrics["evaluate"]["models"]
    assert models["ppo"]["gold"] > models["sft"]["gold"] + 0.1
    assert 0 < models["ppo"]["kl"] < 60
    logged = [json.loads(line) for line in (tmp_path / "default" / "ppo" / "metrics.jsonl").read_text().splitlines()]
    assert next(r for r in logged if "objective/kl" in r)["objective/kl"] == pytest.approx(0, abs=1e-3)
