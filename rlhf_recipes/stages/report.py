"""What runs learned: tables on the screen, one HTML page, the same as Markdown."""

from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.paths import CONF, options
from rlhf_recipes.report import html, markdown, tables


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes report.html and report.md to runs/<run>; with report.runs, one page that compares several runs."""
    folder = Path(cfg.run.root) / cfg.run.name
    folders = [Path(place) for place in cfg.report.runs] or [folder]
    if len(folders) == 1:
        tables.show(folders[0])
    defaults = {s: OmegaConf.to_container(compose("config", [f"stage={s}"])) for s in options(CONF / "stage")}
    page = html.write(folders, folder / "report.html", defaults=defaults)
    text = markdown.write(folders, folder / "report.md", defaults=defaults)
    print(f"report: {page} and {text}")
    return {}
