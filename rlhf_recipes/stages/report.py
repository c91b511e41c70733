"""What the run learned, on the screen and as one HTML page."""

from pathlib import Path

from omegaconf import DictConfig

from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.report import html, tables


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Tables on the screen, runs/<run>/report.html beside the stages."""
    folder = Path(cfg.run.root) / cfg.run.name
    tables.show(folder)
    print(f"report: {html.write([folder], folder / 'report.html')}")
    return {}
