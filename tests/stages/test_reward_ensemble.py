"""PPO against several reward models: twice the same one scores as it does alone, and disagrees with nobody."""

import json


def test_an_ensemble_of_one_model_twice_scores_as_that_model(made, house, tmp_path):
    run = made[0] / "default"
    paths = f"reward.models.learned.path=[auto,{run}/reward/model]"
    inputs = [f"inputs.policy={run}/sft/model"]
    inputs += [f"inputs.{name}={run}/reward/model" for name in ("reward_model", "value_model")]
    house("ppo", f"run.root={tmp_path}", "reward=ensemble", paths, "trainer.total_episodes=8", *inputs)
    alone, both = (first_update(root / "default" / "ppo" / "metrics.jsonl") for root in (made[0], tmp_path))
    assert both["reward/learned"] == alone["reward/learned"]
    assert both["reward/learned_spread"] == 0


def first_update(file):
    return next(row for row in map(json.loads, file.read_text().splitlines()) if "objective/scores" in row)
