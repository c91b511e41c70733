"""Config classes read from source must agree with the classes themselves."""

import dataclasses

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.fields import fields, misfit

CLASSES = ("trl.SFTConfig", "trl.RewardConfig", "trl.DPOConfig", "trl.GRPOConfig", "peft.LoraConfig")


@pytest.mark.parametrize("target", [*CLASSES, "rlhf_recipes.ppo.PPOConfig"])
def test_fields_read_from_source_are_the_class_own(target):
    from hydra.utils import get_class

    assert set(fields(target)) == {f.name for f in dataclasses.fields(get_class(target))}


def test_a_class_that_is_not_installed_is_named():
    with pytest.raises(UserError, match=r"no class trl\.NoConfig"):
        fields("trl.NoConfig")


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("float", "abc", "a number"),
        ("float", "1e-5", None),
        ("float", 1, None),
        ("int", 1.5, "a whole number"),
        ("int", True, "a whole number"),
        ("bool", 1, "true or false"),
        ("bool | None", None, None),
        ("str | None", ["a"], "a text or null"),
        ("Optional[int]", None, None),
        ("Literal['k1', 'k3']", "k2", "one of 'k1', 'k3'"),
        ("dict | str | None", 3, None),  # not a simple type: left to the class
        ("IntervalStrategy | str", 3, None),
    ],
)
def test_misfit(annotation, value, expected):
    assert misfit(annotation, value) == expected
