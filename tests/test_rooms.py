"""Which rooms and which libraries come along when a room is imported: measured by importing, in new processes."""

import json
import os
import subprocess
import sys

import pytest

import rlhf_recipes

# from the top down; a room may import rooms of the same floor and of those below
FLOORS = (
    {"stages"},
    {"preflight", "evaluation", "export", "chat"},
    {"ppo", "grpo", "training"},
    {"rewards", "engine", "data", "models"},
    {"runs", "config"},
    {"errors"},
)
HEAVY = {"torch", "transformers", "trl", "hydra", "datasets", "peft", "accelerate"}
# what must load fast, or without a library: modules, and the heavy libraries that they may load
LIGHT = {
    "rlhf_recipes.report": set(),
    "rlhf_recipes.training.kl": set(),
    "rlhf_recipes.engine.prompts": set(),
    "rlhf_recipes.engine.stops": set(),
    "rlhf_recipes.engine.logprobs": {"torch"},
    "rlhf_recipes.engine.generation": HEAVY - {"trl", "hydra"},
    "rlhf_recipes.ppo": set(),
    "rlhf_recipes.ppo.core": {"torch"},
    "rlhf_recipes.rewards": HEAVY - {"trl", "hydra"},
}
# Loads `first`, then in a fork for each of `targets` all modules of that package or that one module, and prints
# {target: names of the modules loaded}.
CHILD = """
import importlib, json, os, pkgutil, sys
first, targets = json.loads(sys.argv[1])
for name in first:
    importlib.import_module(name)
sys.stdout.write("@result")
result = {}
for target in targets:
    reader, writer = os.pipe()
    if not os.fork():
        module = importlib.import_module(target["name"])
        if target["whole"] and hasattr(module, "__path__"):
            for m in pkgutil.walk_packages(module.__path__, module.__name__ + "."):
                importlib.import_module(m.name)
        os.write(writer, json.dumps(sorted({n.partition(".")[0] if not n.startswith("rlhf_recipes.")
            else ".".join(n.split(".")[:2]) for n in sys.modules})).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        result[target["name"]] = json.loads(lines.read())
    os.wait()
print(json.dumps(result))
"""


def loaded(targets: list[str], whole: bool, first: list[str]) -> dict[str, set[str]]:
    """{target: our rooms as rlhf_recipes.<room>, and other top-level modules, that its import leaves loaded}."""
    asked = json.dumps([first, [{"name": name, "whole": whole} for name in targets]])
    env = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD, asked], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "@result" in done.stdout, done.stderr[-3000:]
    return {name: set(names) for name, names in json.loads(done.stdout.rpartition("@result")[2]).items()}


@pytest.fixture(scope="module")
def brought() -> dict[str, set[str]]:
    """Of each room, the other rooms that all its modules bring along. The libraries are loaded once, before."""
    rooms = sorted(FLOORS[0].union(*FLOORS[1:]) | {"report"})
    first = ["trl", "trl.trainer.grpo_trainer", "peft", "datasets", "hydra", "transformers.trainer"]
    result = loaded([f"rlhf_recipes.{room}" for room in rooms], True, first)
    return {
        name.partition(".")[2]: {m.partition(".")[2] for m in modules if m.startswith("rlhf_recipes.")}
        - {name.partition(".")[2]}
        for name, modules in result.items()
    }


def test_every_room_stands_on_a_floor():
    [house] = rlhf_recipes.__path__
    rooms = {entry.name for entry in os.scandir(house) if entry.is_dir() and not entry.name.startswith("__")}
    assert rooms == FLOORS[0].union(*FLOORS[1:-1]) | {"report"}


def test_rooms_import_their_own_floor_and_those_below(brought):
    for height, floor in enumerate(FLOORS):
        below = set().union(*FLOORS[height:])
        for room in floor:
            assert brought[room] - {"report"} <= below, room  # report stands on the ground, beside errors
    assert brought["report"] <= {"errors"}, "it reads artifacts, not modules"


def test_no_two_rooms_import_each_other(brought):
    assert [(a, b) for a in brought for b in brought[a] if a < b and a in brought.get(b, ())] == []


def test_what_is_light_stays_light():
    for name, modules in loaded(list(LIGHT), False, []).items():
        assert modules & HEAVY <= LIGHT[name], name
