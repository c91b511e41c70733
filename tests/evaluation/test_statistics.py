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


def test_intervals_are_wilsons_by_hand():
    # z = 1.96, n = 100: centre (k + 1.9208) / 103.8416, half width 0.018875 * sqrt(k * (100 - k) / 100 + 0.9604)
    compared = statistics.compare([0.5] * 60 + [-0.5] * 40)
    assert compared.ci95 == pytest.approx((0.5020, 0.6906), abs=1e-4)
    assert compared.tie_ci95 == pytest.approx((0.0, 0.0370), abs=1e-4)  # none of 100 is not «never»
    assert (compared.decided, compared.decided_ci95) == (0.6, compared.ci95)
    compared = statistics.compare([0.5] * 50 + [0.0] * 30 + [-0.5] * 20)
    assert compared.tie_ci95 == pytest.approx((0.2189, 0.3959), abs=1e-4)
    assert compared.loss_ci95 == pytest.approx((0.1334, 0.2888), abs=1e-4)


@pytest.mark.parametrize("n", [1, 2, 16, 1000])
def test_no_interval_is_a_point_or_leaves_the_unit_interval(n):
    for verdicts in ([1.0] * n, [-1.0] * n, [0.0] * n):
        compared = statistics.compare(verdicts)
        for low, high in (compared.ci95, compared.tie_ci95, compared.loss_ci95):
            assert 0.0 <= low < high <= 1.0


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
