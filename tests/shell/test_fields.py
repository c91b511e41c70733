"""Config classes read from source must agree with the classes themselves."""

import dataclasses
from enum import EnumType
from typing import get_args, get_type_hints

import pytest
from hydra.utils import get_class

from rlhf_recipes.config.fields import fields, misfit
from rlhf_recipes.errors import UserError

CLASSES = ("trl.SFTConfig", "trl.RewardConfig", "trl.DPOConfig", "peft.LoraConfig")
OURS = ("rlhf_recipes.ppo.PPOConfig", "rlhf_recipes.grpo.GRPOConfig")


@pytest.mark.parametrize("target", [*CLASSES, *OURS])
def test_fields_read_from_source_are_the_class_own(target):
    known, cls = fields(target), get_class(target)
    assert set(known) == {f.name for f in dataclasses.fields(cls)}
    enumerations = 0
    for name, hint in get_type_hints(cls).items():
        for enumeration in (part for part in get_args(hint) if isinstance(part, EnumType)):
            assert all(misfit(known[name], member.value) is None for member in enumeration), name
            assert "one of" in misfit(known[name], "no such"), name
            enumerations += 1
    assert enumerations


def test_a_class_that_is_not_installed_is_named():
    with pytest.raises(UserError, match=r"no class trl\.NoConfig"):
        fields("trl.NoConfig")
    with pytest.raises(UserError, match=r"no class nowhere\.Config"):
        fields("nowhere.Config")


def test_a_module_of_ones_own_with_every_way_to_write_a_type(tmp_path, monkeypatch):
    (tmp_path / "own_config.py").write_text(
        "from typing import Literal, Optional, Union\nclass Base:\n    a: float = 1.0\n"
        "class Config(Base):\n    b: int | None = None\n    c: Optional[Union[Literal['x'], str]] = None\n"
        "    d: list[str] | str = ''\n    _hidden: int = 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    known = {"a": ("float",), "b": ("int", "None"), "c": (("x",), "str", "None"), "d": ("list[str]", "str")}
    assert fields("own_config.Config") == known


def test_of_a_long_list_the_nearest_are_shown():
    message = misfit((tuple(f"sort_{letter}" for letter in "abcdefghijklmn"),), "sort_nn")
    assert message.startswith("one of 'sort_n', ") and message.endswith("… (14 in all)")
    assert message.count("sort_") == 6


@pytest.mark.parametrize(
    ("alternatives", "value", "expected"),
    [
        (("float",), "abc", "a number"),
        (("float",), 1, None),
        (("int",), 1.5, "a whole number"),
        (("int",), float("inf"), "a whole number"),
        (("int",), True, "a whole number"),
        (("bool",), 1, "true or false"),
        (("bool", "None"), None, None),
        (("str", "None"), ["a"], "a text or null"),
        ((("k1", "k3"),), "k2", "one of 'k1', 'k3'"),
        (("dict", "str", "None"), 3, None),  # not a simple type: left to the class
    ],
)
def test_misfit(alternatives, value, expected):
    assert misfit(alternatives, value) == expected
