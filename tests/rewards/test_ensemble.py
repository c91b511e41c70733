"""Several reward models as one: the three reductions by hand, the spread, and the wiring from the shell."""

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.model import Ensemble


def fixed(*scores):
    calls = []

    def member(prompts, completions, **columns):
        calls.append(columns)
        return list(scores)

    member.calls = calls
    return member


@pytest.mark.parametrize(
    ("reduce", "k", "expected"),
    # rows (1, 3, 5) and (2, 2, 2): means 3 and 2, deviations sqrt(8/3) and 0
    [
        ("mean", 1.0, [3.0, 2.0]),
        ("min", 1.0, [1.0, 2.0]),
        ("mean_minus_std", 0.0, [3.0, 2.0]),
        ("mean_minus_std", 2.0, [3.0 - 2.0 * (8 / 3) ** 0.5, 2.0]),
    ],
)
def test_reductions(reduce, k, expected):
    members = [fixed(1.0, 2.0), fixed(3.0, 2.0), fixed(5.0, 2.0)]
    assert Ensemble(members, reduce, k)(["?", "?"], ["a", "b"]) == pytest.approx(expected)


def test_spread_reads_the_batch_that_was_just_scored_and_no_model_twice():
    members = [fixed(1.0, 2.0), fixed(3.0, 2.0)]
    ensemble, completions = Ensemble(members), ["a", "b"]
    ensemble(["?", "?"], completions, answer=["7", "8"])
    assert ensemble.spread(["?", "?"], completions) == [1.0, 0.0]
    assert members[0].calls == [{"answer": ["7", "8"]}]
    ensemble.spread(["?", "?"], ["a", "b"])  # another batch, though equal in text
    assert len(members[0].calls) == 2


def test_refusals():
    with pytest.raises(UserError, match="two or more"):
        Ensemble([fixed(1.0)])
    with pytest.raises(UserError, match="mean, min, mean_minus_std"):
        Ensemble([fixed(1.0), fixed(2.0)], "median")
    with pytest.raises(UserError, match="reward disagreement"):
        Ensemble([fixed(1.0), fixed(2.0)], "mean_minus_std", -1.0)
