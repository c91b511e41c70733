"""What may be added to the reward model's loss, -log sigmoid(chosen - rejected): a margin a pair, and centring."""

import json

import pytest


@pytest.fixture(scope="module")
def first_loss(made, house, tmp_path_factory):
    """first_loss("trainer.…") -> the loss of the first batch: the same pairs and the same head each time."""

    def of(*overrides: str) -> float:
        root = tmp_path_factory.mktemp("loss")
        given = [f"run.root={root}", f"inputs.policy={made[0]}/default/sft/model", "data.eval_fraction=0"]
        house("reward", *given, "trainer.max_steps=1", "trainer.save_strategy=no", *overrides)
        lines = (root / "default" / "reward" / "metrics.jsonl").read_text().splitlines()
        return next(row["loss"] for row in map(json.loads, lines) if "loss" in row)

    return of


def test_a_margin_asks_for_more_and_centring_pays_for_scores_off_zero(first_loss):
    plain = first_loss()
    assert first_loss("data.preferences.options.use_margin=true") > plain + 0.05  # thirds, from 0 to 1
    assert first_loss("trainer.center_rewards_coefficient=10") > plain + 1e-4  # plus 10 (chosen + rejected)^2
