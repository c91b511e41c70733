"""The checks on a composed config that need no model: they take well under a second.

Our own settings are checked against `schema`; the keys of TRL's and PEFT's (`trainer`, `peft`) are read from their
classes' source.
"""

import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import isclass, signature
from typing import get_type_hints

import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlhf_recipes.config import fields as sources
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.config.schema import AT_LEAST, CHOICES, Settings
from rlhf_recipes.errors import UserError, one_line, suggest


def check(cfg: DictConfig) -> DictConfig:
    """The config with our defaults filled in and every key known, or one line that says what is wrong.

    Raises:
        UserError: unknown key (with did-you-mean), wrong type, or a value that must be chosen and was not.
    """
    names(cfg)
    if missing := unset(cfg):
        raise UserError(f"no value for {', '.join(missing)}; give it as {missing[0]}=…")
    for node in ("trainer", "peft"):
        _against_source(node, cfg.get(node))
    not_its_own = _controller(cfg.get("kl"))
    _rewards(cfg.get("reward"))
    _inputs(cfg)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
    except OmegaConfBaseException as error:
        raise UserError(_mistyped(cfg, error) or one_line(error)) from error
    with open_dict(merged):
        for key in not_its_own:
            del merged.kl[key]
    for key, allowed in CHOICES.items():
        if (value := OmegaConf.select(merged, key)) not in allowed:
            raise UserError(f"{key}={value}: expected one of {', '.join(allowed)}")
    for key, least in AT_LEAST.items():
        if (value := OmegaConf.select(merged, key)) < least:
            raise UserError(f"{key}={value}: expected at least {least}")
    return merged


def defaults(stage: str) -> dict:
    """What a run's config.yaml of this stage would say had neither a recipe nor the shell chosen anything."""
    return OmegaConf.to_container(check(compose("config", [f"stage={stage}"])), resolve=True)


def names(cfg: DictConfig) -> None:
    """Every key that is ours to know, before any of their values is looked at.

    Raises:
        UserError: an unknown one, with did-you-mean.
    """
    _known(cfg, Settings, "")


def _mistyped(cfg: DictConfig, error: OmegaConfBaseException) -> str | None:
    """One line for a value of the wrong simple type, with one of the right type."""
    key, hint = str(error.full_key or ""), Settings
    for part in key.split("."):
        hint = get_type_hints(hint).get(part) if is_dataclass(hint) else None
    value = OmegaConf.select(cfg, key) if key else None
    expected = sources.misfit(hint.__name__ if isclass(hint) else str(hint), value)
    if not expected:
        return None
    default = OmegaConf.to_yaml({"": OmegaConf.select(OmegaConf.structured(Settings), key)}).partition(":")[2].strip()
    return f"{key}={value}: expected {expected}, e.g. {key}={default}"


def _inputs(cfg: DictConfig) -> None:
    """Names of what a stage starts from, against its own file; evaluate compares whatever it is given."""
    file = CONF / "stage" / f"{cfg.get('stage')}.yaml"
    if cfg.get("stage") == "evaluate" or not file.is_file():
        return
    known = yaml.safe_load(file.read_text(encoding="utf-8")).get("inputs") or {}
    for name in cfg.get("inputs") or {}:
        if name not in known:
            if not known:
                raise UserError(f"inputs.{name}: stage={cfg.stage} starts from no model of a run")
            raise UserError(f"stage={cfg.stage} reads no inputs.{name}{suggest(str(name), known, 'inputs.')}")


def _controller(node: DictConfig | None) -> list[str]:
    """Keys and numbers of the `kl` node against the controller's own parameters (plain Python, no torch).

    Returns:
        Keys that belong to another controller of the same module: kl=fixed over a recipe that sets kl.target.
    """
    if not node:
        return []
    fields = OmegaConf.to_container(node, resolve=True)
    module, _, name = fields.pop("_target_").rpartition(".")
    controller = getattr(import_module(module), name)
    known = list(signature(controller).parameters)
    others = {key for found in vars(import_module(module)).values() if isclass(found) for key in _parameters(found)}
    not_its_own = [key for key in fields if key not in known and key in others]
    if not_its_own:
        print(f"kl: {name} reads no {' or '.join(not_its_own)}; left out", file=sys.stderr)
    for key, value in fields.items():
        if key in not_its_own:
            continue
        if key not in known:
            raise UserError(f"{name} has no setting {key}{suggest(str(key), known, 'kl.')}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"kl.{key}={value!r}: expected a number")
    controller(**{key: value for key, value in fields.items() if key not in not_its_own})
    return not_its_own


def _parameters(controller: type) -> list[str]:
    return [] if issubclass(controller, Exception) else list(signature(controller).parameters)


def _rewards(node: DictConfig | None) -> None:
    """Keys of the `reward` node; what a function itself takes is checked where it is loaded."""
    if not node:
        return
    plain = OmegaConf.to_container(node, resolve=False)
    for key in plain:
        if key not in ("models", "functions", "tags"):
            raise UserError(f"no setting reward.{key}{suggest(str(key), ('models', 'functions'), 'reward.')}")
    for name, spec in (plain.get("models") or {}).items():
        known = ("path", "weight", "label", "batch_size", "ensemble", "std_coef")
        for key in spec or ():
            if key not in known:
                raise UserError(f"no setting reward.models.{name}.{key}{suggest(str(key), known)}")
        if spec is not None and not spec.get("path"):
            raise UserError(f"reward.models.{name} has no path; expected auto, a folder, a hub id, or a list of them")
    for name, spec in (plain.get("functions") or {}).items():
        known = ("path", "weight", "kwargs", "clip", "gate")
        for key in spec if isinstance(spec, dict) else ():
            if key not in known:
                raise UserError(f"no setting reward.functions.{name}.{key}{suggest(str(key), known)}")
        if spec is not None and not (isinstance(spec, dict) and spec.get("path")):
            raise UserError(f"reward.functions.{name} has no path; expected pkg.module:function or ./file.py:function")


def unset(cfg: DictConfig) -> list[str]:
    """Keys left at `???`, as they are written: without following interpolations, which would stop at the first."""
    found: list[str] = []

    def walk(node, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif value == "???":
                found.append(f"{prefix}{key}")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return found


def _known(node: DictConfig, schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    ours = [f.name for f in fields(schema)]
    for key in node:
        if key not in ours:
            near = ours if prefix else [*ours, "recipes"]
            raise UserError(f"no setting {prefix}{key}{suggest(str(key), near, prefix)}")
        if is_dataclass(types[key]) and isinstance(node._get_node(key), DictConfig):
            _known(node[key], types[key], f"{prefix}{key}.")


def _against_source(node: str, values: DictConfig | None) -> None:
    """Keys and simple types of a node that builds another package's class by `_target_`."""
    if values is None:
        return
    if not isinstance(values, DictConfig):
        raise UserError(f"{node}={values}: expected settings below it, e.g. {node}.<field>=<value>")
    if "_target_" not in values:
        return
    target = values["_target_"]
    known = sources.fields(target)
    owner = target.rpartition(".")[2]
    for key, value in values.items():
        if key == "_target_":
            continue
        if key not in known:
            raise UserError(f"{owner} has no field {key}{suggest(str(key), known)}")
        if expected := sources.misfit(known[key], OmegaConf.to_container(values)[key]):
            raise UserError(f"{node}.{key}={value!r}: {owner} expects {expected}")
