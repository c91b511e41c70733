"""Two workers share the tests by file; the stage tests stay together, for they share one tiny run."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.parent.name
        shares = folder == "stages" and item.path.stem != "test_tinystories"  # which makes a run of its own
        item.add_marker(pytest.mark.xdist_group("stages" if shares else str(item.path)))
