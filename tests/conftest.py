"""Two workers share the tests by file; the stage tests stay together, for they share one tiny run."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("stages" if folder == "stages" else str(item.path)))
