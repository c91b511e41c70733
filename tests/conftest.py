"""Two workers share the tests by file; the stage tests stay together, for they share one tiny run."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest

# Begun first: whoever began one of these last would leave the other worker idle.
LONG = ("stages", "test_recipes_real", "test_recipes_run", "test_tinystories", "test_survives", "test_trl_defects")


def group(item) -> str:
    shares = item.path.parent.name == "stages" and item.path.stem != "test_tinystories"  # which makes a run of its own
    return "stages" if shares else item.path.stem


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(group(item)) if group(item) in LONG else len(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
