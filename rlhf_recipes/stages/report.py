"""What runs learned: tables on the screen, one HTML page, the same as Markdown."""

import os
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from rlhf_recipes.config import settings
from rlhf_recipes.report import html, markdown, tables
from rlhf_recipes.report.run import members
from rlhf_recipes.runs.artifacts import STAGES, StageRun


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes report.html and report.md into runs/<run>; of several runs, or a sweep, one page into their folder."""
    root = Path(cfg.run.root)
    asked = cfg.report.runs or [root / cfg.run.name]
    asked = asked if isinstance(asked, list | ListConfig) else [asked]
    places = [_place(root, Path(place)) for place in asked]
    folders = [folder for place in places for folder in members(place)]
    out = places[0] if len(places) == 1 else Path(os.path.commonpath([place.absolute() for place in places]))
    if len(folders) == 1:
        tables.show(folders[0])
    else:
        tables.compare(folders)
    defaults = {s: settings.defaults(s) for s in STAGES if any((folder / s).is_dir() for folder in folders)}
    page = html.write(folders, out / "report.html", defaults=defaults)
    text = markdown.write(folders, out / "report.md", defaults=defaults)
    print(f"report: {page} and {text}")
    return {}


def _place(root: Path, place: Path) -> Path:
    """A run by its folder or, for short, by its name."""
    return root / place if not place.exists() and (root / place).exists() else place
