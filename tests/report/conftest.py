"""One made run, and a sweep of three, shared by all tests of the report. Read only."""

import made_run
import pytest


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return made_run.make(tmp_path_factory.mktemp("runs") / "made", steps=60, prompts=24)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "kl.sweep"
    return [
        made_run.make(root / str(i), seed=i, kl_target=t, steps=30, prompts=8) for i, t in enumerate((2.0, 4.0, 8.0))
    ]
