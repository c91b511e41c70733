"""Closed forms of the means and of the paired comparison."""

import math

import pytest

from rlhf_recipes.evaluation import statistics


def test_mean_of_four_by_hand():
    found = statistics.mean([2.0, 4.0, 4.0, 6.0])
    assert found.mean == 4.0
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    assert found.se == pytest.approx(math.sqrt(8 / 3) / 2)


def test_mean_leaves_out_none_and_nan_and_says_how_many_it_counted():
    assert statistics.mean([None, 1.0, float("nan"), 3.0])[::3] == (2.0, 2)
    assert statistics.mean([None]) == (None, None, None, 0)
    assert statistics.mean([5.0]) == (5.0, 0.0, 0.0, 1)


def test_tie_band_includes_its_edge():
    ours, theirs = [1.0, 0.5, 0.4, 0.0], [0.0, 0.0, 0.0, 1.0]
    assert statistics.compare(ours, theirs)[:3] == (0.75, 0.0, 0.25)
    assert statistics.compare(ours, theirs, epsilon=0.5)[:3] == (0.25, 0.5, 0.25)


def test_interval_is_the_binomial_one():
    # 60 of 100 won, none tied: standard error sqrt(0.6 * 0.4 / 100) = 0.049
    found = statistics.compare([1.0] * 60 + [0.0] * 40, [0.5] * 100, resamples=20_000)
    assert found.ci95 == pytest.approx((0.6 - 1.96 * 0.049, 0.6 + 1.96 * 0.049), abs=0.011)
    assert found.decided == 0.6
    assert found.decided_ci95 == found.ci95


def test_ties_and_losses_have_the_binomial_interval_too():
    # 50 won, 30 tied, 20 lost of 100: standard errors sqrt(0.3 * 0.7 / 100) = 0.0458 and sqrt(0.2 * 0.8 / 100) = 0.04
    found = statistics.compare([1.0] * 50 + [0.5] * 30 + [0.0] * 20, [0.5] * 100, resamples=20_000)
    assert found.tie_ci95 == pytest.approx((0.3 - 1.96 * 0.0458, 0.3 + 1.96 * 0.0458), abs=0.011)
    assert found.loss_ci95 == pytest.approx((0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04), abs=0.011)


def test_decided_wins_leave_the_ties_out():
    found = statistics.compare([1, 1, 1, 0] + [0] * 6, [0, 0, 0, 1] + [0] * 6)
    assert found[:3] == (0.3, 0.6, 0.1)
    assert found.decided == 0.75


def test_all_ties_decide_nothing():
    found = statistics.compare([1.0, 2.0], [1.0, 2.0])
    assert found[:3] == (0.0, 1.0, 0.0)
    assert (found.decided, found.decided_ci95) == (None, None)


def test_swapping_the_sides_swaps_wins_and_losses():
    ours, theirs = [3.0, 1.0, 2.0, 5.0], [1.0, 1.0, 4.0, 2.0]
    a, b = statistics.compare(ours, theirs), statistics.compare(theirs, ours)
    assert (a.win, a.tie, a.loss) == (b.loss, b.tie, b.win)


def test_a_missing_score_takes_its_pair_out():
    assert statistics.compare([1.0, None, 1.0], [0.0, 0.0, float("nan")]).n == 1


def test_same_seed_same_interval_other_seed_another():
    scores = [float(i % 3) for i in range(50)], [1.0] * 50
    first = statistics.compare(*scores, seed=1, resamples=200)
    assert first == statistics.compare(*scores, seed=1, resamples=200)
    assert any(first.ci95 != statistics.compare(*scores, seed=s, resamples=200).ci95 for s in (2, 3, 4))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="length: 1 and 2"):
        statistics.compare([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="negative"):
        statistics.compare([1.0], [1.0], epsilon=-0.1)
