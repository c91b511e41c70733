"""Config classes read from source must agree with the classes themselves."""

import dataclasses

import pytest

from rlhf_recipes.config.fields import fields, misfit
from rlhf_recipes.errors import UserError

CLASSES = ("trl.SFTConfig", "trl.RewardConfig", "trl.DPOConfig", "trl.GRPOConfig", "peft.LoraConfig")


@pytest.mark.parametrize("target", [*CLASSES, "rlhf_recipes.ppo.PPOConfig"])
def test_fields_read_from_source_are_the_class_own(target):
    from hydra.utils import get_class

    assert set(fields(target)) == {f.name for f in dataclasses.fields(get_class(target))}


def test_a_class_that_is_not_installed_is_named():
    with pytest.raises(UserError, match=r"no class trl\.NoConfig"):
        fields("trl.NoConfig")


@pytest.mark.parametrize("target", [*CLASSES, "rlhf_recipes.ppo.PPOConfig"])
def test_an_enumeration_beside_a_text_allows_its_own_values(target):
    from enum import EnumType
    from typing import get_args, get_type_hints

    from hydra.utils import get_class

    seen = 0
    for name, hint in get_type_hints(get_class(target)).items():
        for enumeration in (part for part in get_args(hint) if isinstance(part, EnumType)):
            for member in enumeration:
                assert misfit(fields(target)[name], member.value) is None, name
            assert "one of" in misfit(fields(target)[name], "no such"), name
            seen += 1
    assert seen


def test_of_a_long_list_the_nearest_are_shown():
    allowed = [f"sort_{letter}" for letter in "abcdefghijklmn"]
    said = misfit(f"Literal[{', '.join(map(repr, allowed))}]", "sort_nn")
    assert said.startswith("one of 'sort_n', ") and said.endswith("… (14 in all)")
    assert said.count("sort_") == 6


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
        ("Optional[Union[Literal['a'], str]]", ["b"], "one of 'a' or a text or null"),
    ],
)
def test_misfit(annotation, value, expected):
    assert misfit(annotation, value) == expected
