"""stage=score with a reward model: the one case in which it loads a model."""

import json

import pytest

from rlhf_recipes.errors import UserError


def test_a_reward_model_and_a_function_score_a_file(made, house, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"prompt": "What is 3 plus 4?", "completion": f" {i}."}) + "\n" for i in (7, 8)))
    model = made[0] / "default" / "reward" / "model"
    summary, _ = house(
        "score",
        f"run.root={tmp_path}",
        f"score.file={file}",
        f"inputs.reward_model={model}",
        "reward=model",
        "reward.functions.exact={path: rlhf_recipes.data.embedded.gold:exact, weight: 2.0}",
    )
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["reward/exact"] for row in rows] == [1.0, 0.0]
    assert rows[0]["reward/learned"] != rows[1]["reward/learned"]
    assert rows[0]["score"] == pytest.approx(rows[0]["reward/learned"] + 2.0)
    assert summary["functions"]["learned"]["count"] == 2
    assert not (tmp_path / "default").exists()


def test_a_misspelt_column_ends_in_an_error_and_leaves_the_scores(house, tmp_path):
    (tmp_path / "answers.jsonl").write_text(json.dumps({"prompt": "6 x 12?", "completion": "72", "anser": "72"}))
    with pytest.raises(UserError, match="no score by 'correctness' for 1 of 1 rows"):
        house("score", f"run.root={tmp_path}", f"score.file={tmp_path}/answers.jsonl", "reward=gsm8k")
    assert json.loads((tmp_path / "scores.jsonl").read_text())["reward/integer"] == 0.5
