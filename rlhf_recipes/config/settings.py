"""The checks on a composed config that need no model: they take well under a second.

Our own settings are checked against `schema`; the keys of TRL's and PEFT's (`trainer`, `peft`) are read from their
classes' source.
"""

import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from inspect import isclass, signature
from typing import get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlhf_recipes.config.fields import fields, misfit
from rlhf_recipes.config.schema import ALLOWED, REWARD, Settings
from rlhf_recipes.errors import UserError, one_line, suggest


def check(cfg: DictConfig) -> DictConfig:
    """The config with our defaults filled in and every key known.

    Raises:
        UserError: unknown key (with did-you-mean), wrong type, or a value that must be chosen and was not.
    """
    names(cfg)
    if missing := unset(cfg):
        raise UserError(f"no value for {', '.join(missing)}; give it as {missing[0]}=…")
    for node in ("trainer", "peft"):
        _check_class(node, cfg.get(node))
    _check_rewards(cfg.get("reward"))
    unread = _check_controller(cfg.get("kl"))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
    except OmegaConfBaseException as error:
        raise UserError(_mistyped(cfg, error) or one_line(error)) from error
    with open_dict(merged):
        for key in unread:
            del merged.kl[key]
    for key, (allowed, words) in ALLOWED.items():
        if not allowed(value := OmegaConf.select(merged, key)):  # NaN is never at least a number
            raise UserError(f"{key}={value}: expected {words}")
    return merged


def names(cfg: DictConfig) -> None:
    """Check every key that is ours before any value is looked at.

    Raises:
        UserError: an unknown one, with did-you-mean.
    """
    _check_names(cfg, Settings, "")


def unset(cfg: DictConfig) -> list[str]:
    """Keys left at `???`. Interpolations are not followed, since the first that leads to one of them would raise."""

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            elif value == "???":
                yield f"{prefix}{key}"

    return list(walk(OmegaConf.to_container(cfg, resolve=False), ""))


def _check_names(node: DictConfig, schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    for key in node:
        if key not in types:
            raise UserError(
                f"no setting {prefix}{key}{suggest(str(key), [*types] if prefix else [*types, 'recipes'], prefix)}"
            )
        if is_dataclass(types[key]) and isinstance(node._get_node(key), DictConfig):
            _check_names(node[key], types[key], f"{prefix}{key}.")


def _mistyped(cfg: DictConfig, error: OmegaConfBaseException) -> str | None:
    """One line for a value of ours of the wrong simple type, with one of the right type."""
    key, schema = str(error.full_key or ""), Settings
    *path, name = key.split(".")
    for part in path:
        schema = get_type_hints(schema).get(part)
    if not is_dataclass(schema) or name not in (types := fields(f"{schema.__module__}.{schema.__name__}")):
        return None
    value = OmegaConf.select(cfg, key)
    default = OmegaConf.to_yaml({"": OmegaConf.select(OmegaConf.structured(Settings), key)}).partition(":")[2].strip()
    expected = misfit(types[name], value)
    return f"{key}={value}: expected {expected}, e.g. {key}={default}" if expected else None


def _check_class(node: str, values: DictConfig | None) -> None:
    """Keys and simple types of a node that builds another package's class by `_target_`."""
    if values is None:
        return
    if not isinstance(values, DictConfig):
        raise UserError(f"{node}={values}: expected settings below it, e.g. {node}.<field>=<value>")
    given = OmegaConf.to_container(values)
    if not (target := given.pop("_target_", None)):
        return
    known, owner = fields(target), target.rpartition(".")[2]
    for key, value in given.items():
        if OmegaConf.is_interpolation(values, key):
            value = values[key]
        if key not in known:
            raise UserError(f"{owner} has no field {key}{suggest(str(key), known)}")
        if expected := misfit(known[key], value):
            raise UserError(f"{node}.{key}={value!r}: {owner} expects {expected}")


def _check_controller(node: DictConfig | None) -> list[str]:
    """Keys and numbers of the `kl` node against the controller's own parameters.

    Returns:
        Keys that another controller of the same module reads, as with kl=fixed over a recipe that sets kl.target.
    """
    if not node:
        return []
    given = OmegaConf.to_container(node, resolve=True)
    module, _, name = given.pop("_target_").rpartition(".")
    classes = {n: c for n, c in vars(import_module(module)).items() if isclass(c) and not issubclass(c, Exception)}
    known = list(signature(classes[name]).parameters)
    of_others = {key for other in classes.values() for key in signature(other).parameters} - {*known}
    unread = [key for key in given if key in of_others]
    if unread:
        print(f"kl: {name} reads no {' or '.join(unread)}; left out", file=sys.stderr)
    read = {key: value for key, value in given.items() if key not in unread}
    for key, value in read.items():
        if key not in known:
            raise UserError(f"{name} has no setting {key}{suggest(str(key), known, 'kl.')}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"kl.{key}={value!r}: expected a number")
    classes[name](**read)
    return unread


def _check_rewards(node: DictConfig | None) -> None:
    """Keys of the `reward` node; what a function itself takes is checked where it is loaded."""
    rewards = OmegaConf.to_container(node, resolve=False) if node else {}
    for group, entries in rewards.items():
        if group not in REWARD and group != "tags":
            raise UserError(f"no setting reward.{group}{suggest(str(group), REWARD, 'reward.')}")
        for name, entry in (entries or {}).items() if group in REWARD else ():
            known, path = REWARD[group]
            for key in entry if isinstance(entry, dict) else ():
                if key not in known:
                    raise UserError(f"no setting reward.{group}.{name}.{key}{suggest(str(key), known)}")
            if entry is not None and not (isinstance(entry, dict) and entry.get("path")):
                raise UserError(f"reward.{group}.{name} has no path; expected {path}")
