"""reward.functions.mine.path=./my_reward.py:score, as it is typed in a shell, for ppo and grpo alike."""

import json

import pytest

MINE = (
    "def score(prompts, completions, family, **columns):\n    assert len(family) == len(prompts) == len(completions)\n"
    "    return [len(text) / 10 for text in completions]\n"
)
SHORT = {
    "ppo": ["trainer.total_episodes=8", "trainer.num_ppo_epochs=1"],
    "grpo": ["trainer.max_steps=1", "trainer.eval_strategy=no", "grpo.sample_rows=0"],
}


@pytest.mark.parametrize("stage", SHORT)
def test_a_function_of_ones_own_counts_with_its_weight(made, house, tmp_path, monkeypatch, stage):
    (tmp_path / "my_reward.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    run = made[0] / "default"
    given = [f"inputs.policy={run}/sft/model"]
    if stage == "ppo":
        given += [f"inputs.{name}={run}/reward/model" for name in ("reward_model", "value_model")]
    mine = ["reward.functions.mine.path=./my_reward.py:score", "reward.functions.mine.weight=0.5"]
    house(stage, f"run.root={tmp_path}", *given, *mine, *SHORT[stage])
    logged = map(json.loads, (tmp_path / "default" / stage / "metrics.jsonl").read_text().splitlines())
    if stage == "ppo":
        row = next(row for row in logged if "objective/scores" in row)
        score, other, own = (row[name] for name in ("objective/scores", "reward/learned", "reward/mine"))
    else:
        row = next(row for row in logged if "rewards/mine/mean" in row)
        score, other, own = row["reward"], 0.0, row["rewards/mine/mean"]  # `exact` beside it: never right, or no say
    assert own > 0
    assert score == pytest.approx(other + 0.5 * own, rel=1e-4)
