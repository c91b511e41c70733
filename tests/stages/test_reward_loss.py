"""What may be added to the reward model's loss, -log sigmoid(chosen - rejected): a margin a pair, and centring."""

import json
import math

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


def test_held_out_figures_are_over_all_pairs_and_not_over_batches(made, house, tmp_path):
    given = [f"run.root={tmp_path}", f"inputs.policy={made[0]}/default/sft/model", "data.eval_fraction=0.1"]
    given += ["data.max_eval=9", "trainer.max_steps=2", "trainer.eval_strategy=steps", "trainer.eval_steps=1"]
    metrics, _ = house("reward", *given, "trainer.per_device_eval_batch_size=8", "trainer.save_strategy=no")
    pairs, logged = (
        [json.loads(line) for line in (tmp_path / "default" / "reward" / name).read_text().splitlines()]
        for name in ("samples.jsonl", "metrics.jsonl")
    )
    differences = [pair["score_chosen"] - pair["score_rejected"] for pair in pairs]
    assert len(differences) == 9
    assert metrics["eval_accuracy"] == pytest.approx(sum(d > 0 for d in differences) / 9)
    assert metrics["eval_margin"] == pytest.approx(sum(differences) / 9, rel=1e-3)
    assert metrics["eval_loss"] == pytest.approx(sum(math.log1p(math.exp(-d)) for d in differences) / 9, rel=1e-3)
    held = [row["eval_accuracy"] for row in logged if "eval_accuracy" in row]
    assert len(held) == 2 and all(round(9 * share, 4).is_integer() for share in held)
