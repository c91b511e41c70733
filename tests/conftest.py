"""Two workers share the tests by file; those that share one tiny run stay together."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest

# Begun first: whoever began one of these last would leave the other worker idle.
LONG = ("stages", "test_tinystories", "test_documents_typed", "test_recipes_real", "test_recipes_run", "test_whole")


def group(item) -> str:
    folder = item.path.parent.name
    shares = folder in ("stages", "chat") and item.path.stem != "test_tinystories"  # which makes a run of its own
    return folder if shares else item.path.stem


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(group(item)) if group(item) in LONG else len(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
