"""A reward function by its path: `pkg.module:function`, or `./file.py:function` for one of your own.

This module imports no torch, so that the shell can load, and thereby check, every function of a config before training.
"""

import asyncio
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_recipes.errors import UserError, suggest

RewardFunction = Callable[..., list[float | None]]

_EXTRA = "Run: pip install 'rlhf-recipes[rewards]'"


def load_function(spec: Mapping[str, Any] | str) -> RewardFunction:
    """The function behind `path`, with its kwargs bound.

    `prompts` and `completions` receive the batch. A parameter without a default, or with the default None, receives
    the dataset column of its name. A parameter with any other default is a setting: only `kwargs` sets it, so a dataset
    with a column called `weight` changes nothing. `**columns` receives all remaining columns.

    Args:
        spec: `{"path": ..., "kwargs": {...}}` (RewardFunctions reads the other keys), or the path alone.

    Returns:
        A callable `f(prompts, completions, **columns) -> list[float | None]`, which waits for an async function.

    Raises:
        UserError: no such file, module or function, something that is not a function, or kwargs it does not take.

    >>> integer = load_function({"path": "rlhf_recipes.rewards.gsm8k:integer", "kwargs": {"reward": 2.0}})
    >>> integer(["?"], ["#### 72"], reward=["a column of that name"])
    [2.0]
    """
    spec = {"path": spec} if isinstance(spec, str) else spec
    path = spec.get("path")
    if not isinstance(path, str) or not all(path.rpartition(":")):
        raise UserError(
            f"reward path {path!r} does not name a function. Write pkg.module:function, or ./file.py:function."
        )
    place, _, name = path.rpartition(":")
    module = _file(place) if place.endswith(".py") else _module(place)
    function = _member(module, place, name)
    return _bind(function, path, dict(spec.get("kwargs") or {}))


def settled(scores: Any) -> Any:
    """What a reward function returned; of an async one, what it gives once it has run."""
    if not inspect.iscoroutine(scores):
        return scores
    return asyncio.run_coroutine_threadsafe(scores, _event_loop()).result()


@lru_cache(maxsize=1)
def _event_loop() -> asyncio.AbstractEventLoop:
    """One for the whole run, because an async client belongs to the loop that it first ran in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async rewards", daemon=True).start()
    return loop


def extra(package: str) -> ModuleType:
    """An optional package, imported by the function that needs it.

    Raises:
        UserError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"this reward needs the package {package}, which is not installed. {_EXTRA}") from error


def _file(place: str) -> ModuleType:
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        beside = [f.name for f in file.parent.glob("*.py")]
        raise UserError(f"no reward file {place} (looked for {file}){suggest(file.name, beside)}")
    name = f"_reward_{file.stem}_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look the module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"reward file {place} fails when imported: {_first_line(error)}") from error
    return module


def _module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place != missing and not place.startswith(missing + "."):
            how = f" {_EXTRA}" if place.startswith("rlhf_recipes.") else ""
            raise UserError(
                f"reward module {place} needs the package {missing}, which is not installed.{how}"
            ) from error
        parent, _, leaf = place.rpartition(".")
        folders = getattr(sys.modules.get(parent), "__path__", [])
        beside = [f.stem for folder in folders for f in Path(folder).glob("*.py")]
        raise UserError(
            f"no reward module {place}{suggest(leaf, beside) if beside else '.'} "
            "For a file of your own write its path with .py, as in ./my_reward.py:score."
        ) from error
    except Exception as error:
        raise UserError(f"reward module {place} fails when imported: {_first_line(error)}") from error


def _member(module: ModuleType, place: str, name: str) -> Callable:
    function = getattr(module, name, None)
    if function is None:
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise UserError(f"{place} has no function {name}{suggest(name, names)}")
    if not callable(function) or inspect.isclass(function):
        kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
        raise UserError(f"{place}:{name} is {kind}; a reward is a function f(prompts, completions, **columns).")
    return function


def _bind(function: Callable, path: str, kwargs: dict[str, Any]) -> RewardFunction:
    every = inspect.signature(function).parameters.values()
    parameters = {p.name: p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in every)
    batch = {"prompts", "completions"}
    for name in kwargs:
        if name not in parameters.keys() - batch:
            raise UserError(f"{path} has no keyword {name}{suggest(name, parameters.keys() - batch)}")
    settings = {n for n, p in parameters.items() if p.default is not p.empty and p.default is not None} | set(kwargs)
    required = {n for n, p in parameters.items() if p.default is p.empty} - set(kwargs) - batch

    @wraps(function)
    def reward(prompts: list, completions: list, **columns: Any) -> list[float | None]:
        columns |= {"prompts": prompts, "completions": completions}
        given = {n: v for n, v in columns.items() if n not in settings and (takes_all or n in parameters)}
        if missing := sorted(required - given.keys()):
            have = ", ".join(sorted(n for n, v in columns.items() if isinstance(v, list) and n not in batch)) or "none"
            raise UserError(
                f"{path} needs the column '{missing[0]}'; the rows have, beside prompt and completion: {have}."
            )
        return settled(function(**given, **kwargs))

    return reward


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
