import doctest
import math

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.training import kl


def test_doctests():
    assert doctest.testmod(kl).failed == 0


@pytest.mark.parametrize(
    ("ratio", "error"), [(2.0, 0.2), (1.1, 0.1), (1.0, 0.0), (0.95, -0.05), (0.0, -0.2), (-3, -0.2)]
)
def test_ziegler_step(ratio, error):
    control = kl.AdaptiveKL(kl_coef=0.1, target=6.0, horizon=1000)
    assert control.update(6.0 * ratio, episodes=50) == pytest.approx(0.1 * (1 + error * 50 / 1000))


def test_floor_and_ceiling():
    control = kl.AdaptiveKL(kl_coef=0.1, target=1.0, horizon=10, floor=0.09, ceiling=0.11)
    assert control.update(50.0, 10) == 0.11
    assert control.update(0.0, 10) == pytest.approx(0.09)
    control = kl.AdaptiveKL(kl_coef=0.1, target=1.0, horizon=1)
    assert control.update(0.0, 100) == 0.0, "a batch of many horizons must not turn beta negative"


def test_a_broken_measurement_leaves_beta():
    control = kl.AdaptiveKL(kl_coef=0.1)
    assert control.update(math.nan, 64) == 0.1 and control.update(math.inf, 64) == 0.1


def test_state_round_trip():
    control = kl.AdaptiveKL(kl_coef=0.1)
    control.update(60.0, 512)
    other = kl.AdaptiveKL(kl_coef=0.1)
    other.load_state_dict(control.state_dict())
    assert other.update(3.0, 64) == control.update(3.0, 64)
    fixed = kl.FixedKL(0.2)
    fixed.load_state_dict({"kl_coef": 9.0})
    assert fixed.update(100.0, 64) == 0.2


@pytest.mark.parametrize(
    "bad", [{"kl_coef": 0}, {"target": -1}, {"horizon": 0}, {"floor": 1.0}, {"ceiling": 0.01}, {"kl_coef": math.nan}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError):
        kl.AdaptiveKL(**bad)
    with pytest.raises(UserError):
        kl.FixedKL(-1.0)


def test_it_settles_on_the_target():
    """A toy plant: the KL falls as beta rises. Whatever beta starts from, the loop ends near the target."""
    for start in (1e-3, 1.0):
        control = kl.AdaptiveKL(kl_coef=start, target=6.0, horizon=2000)
        for _ in range(2000):
            control.update(0.6 / control.kl_coef, episodes=64)
        assert 0.6 / control.kl_coef == pytest.approx(6.0, rel=0.05)
