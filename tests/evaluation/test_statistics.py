"""Closed forms of the means and of the paired comparison."""

import math

import pytest

from rlhf_recipes.evaluation import statistics


def shares(found):
    return found.win, found.tie, found.loss


def test_mean_of_four_by_hand():
    found = statistics.mean([2.0, 4.0, 4.0, 6.0])
    assert found.mean == 4.0
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    assert found.se == pytest.approx(math.sqrt(8 / 3) / 2)


def test_mean_leaves_out_none_and_nan_and_says_how_many_it_counted():
    found = statistics.mean([None, 1.0, float("nan"), 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert statistics.mean([None]) == (None, None, None, 0)
    assert statistics.mean([5.0]) == (5.0, 0.0, 0.0, 1)


def test_tie_band_includes_its_edge():
    verdicts = [1.0, 0.5, 0.4, -1.0]
    assert shares(statistics.compare(verdicts)) == (0.75, 0.0, 0.25)
    assert shares(statistics.compare(verdicts, tie=0.5)) == (0.25, 0.5, 0.25)


def test_interval_is_the_binomial_one():
    # 60 of 100 won, none tied: standard error sqrt(0.6 * 0.4 / 100) = 0.049
    found = statistics.compare([0.5] * 60 + [-0.5] * 40, resamples=20_000)
    assert found.ci95 == pytest.approx((0.6 - 1.96 * 0.049, 0.6 + 1.96 * 0.049), abs=0.011)
    assert found.decided == 0.6
    assert found.decided_ci95 == found.ci95


def test_ties_and_losses_have_the_binomial_interval_too():
    # 50 won, 30 tied, 20 lost of 100: standard errors sqrt(0.3 * 0.7 / 100) = 0.0458 and sqrt(0.2 * 0.8 / 100) = 0.04
    found = statistics.compare([0.5] * 50 + [0.0] * 30 + [-0.5] * 20, resamples=20_000)
    assert found.tie_ci95 == pytest.approx((0.3 - 1.96 * 0.0458, 0.3 + 1.96 * 0.0458), abs=0.011)
    assert found.loss_ci95 == pytest.approx((0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04), abs=0.011)


def test_decided_wins_leave_the_ties_out_and_all_ties_decide_nothing():
    found = statistics.compare([1, 1, 1, -1] + [0] * 6)
    assert shares(found) == (0.3, 0.6, 0.1)
    assert found.decided == 0.75
    tied = statistics.compare([0.0, 0.0])
    assert shares(tied) == (0.0, 1.0, 0.0)
    assert (tied.decided, tied.decided_ci95) == (None, None)


def test_swapping_the_sides_swaps_wins_and_losses():
    verdicts = [2.0, 0.0, -2.0, 3.0]
    a, b = statistics.compare(verdicts), statistics.compare([-v for v in verdicts])
    assert shares(a) == shares(b)[::-1]


def test_a_missing_score_takes_its_pair_out():
    assert statistics.compare([1.0, None, float("nan")]).n == 1
    assert statistics.compare([None]).ci95 == (0.0, 1.0)


def test_same_seed_same_interval_other_seed_another():
    verdicts = [float(i % 3 - 1) for i in range(50)]
    first = statistics.compare(verdicts, seed=1, resamples=200)
    assert first == statistics.compare(verdicts, seed=1, resamples=200)
    assert any(first.ci95 != statistics.compare(verdicts, seed=s, resamples=200).ci95 for s in (2, 3, 4))
