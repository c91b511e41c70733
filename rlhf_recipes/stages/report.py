"""What runs learned: tables on the screen, one HTML page, the same as Markdown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Stage, pipeline

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(name="report", title="Report", single_process=True)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes report.html and report.md into runs/<run>; of several runs, or a sweep, one page into their folder."""
    from omegaconf import ListConfig

    from rlhf_recipes import stages
    from rlhf_recipes.report import content, pages, terminal
    from rlhf_recipes.report.run import members

    root = Path(cfg.run.root)
    named = cfg.report.runs or [root / cfg.run.name]
    named = named if isinstance(named, list | ListConfig) else [named]
    places = [_place(root, Path(place)) for place in named]
    folders = [folder for place in places for folder in members(place)]
    out = places[0] if len(places) == 1 else Path(os.path.commonpath([place.absolute() for place in places]))
    made = [name for name in pipeline(run.stages) if any((folder / name).is_dir() for folder in folders)]
    defaults = {name: stages.defaults(name) for name in made}
    report = content.build(folders, run.stages.values(), defaults)
    terminal.write(report)
    page = pages.write_html(report, out / "report.html")
    text = pages.write_markdown(report, out / "report.md")
    print(f"report: {page} and {text}")
    return {}


def _place(root: Path, place: Path) -> Path:
    """A run by its folder or, for short, by its name."""
    return root / place if not place.exists() and (root / place).exists() else place
