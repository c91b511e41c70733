"""One made run, and a sweep of three, shared by all tests of the report. Read only."""

import made_run
import pytest

from rlhf_recipes import stages
from rlhf_recipes.report import content, pages


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return made_run.make(tmp_path_factory.mktemp("runs") / "made", steps=60, prompts=24)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "kl.sweep"
    return [
        made_run.make(root / str(i), seed=i, kl_target=t, steps=30, prompts=8) for i, t in enumerate((2.0, 4.0, 8.0))
    ]


@pytest.fixture(scope="session")
def report():
    """A report of run directories, with the stages' own descriptions."""
    return lambda *run_dirs, defaults=None: content.build(run_dirs, stages.catalogue().values(), defaults)


@pytest.fixture
def page(report, tmp_path):
    """The HTML of run directories."""
    return lambda *run_dirs, **more: pages.write_html(report(*run_dirs, **more), tmp_path / "r.html").read_text()


@pytest.fixture
def text(report, tmp_path):
    """The Markdown of run directories; its pictures lie in `tmp_path / "r_files"`."""
    return lambda *run_dirs, **more: pages.write_markdown(report(*run_dirs, **more), tmp_path / "r.md").read_text()
