"""Checkpoints that are whole or not there: written aside, listed, and renamed into place in one step."""

import json
import logging
import os
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STAGING = ".writing"


def publish(staged: Path, place: Path) -> None:
    """List a written checkpoint's files and sizes in it, flush them to the disk, and rename it to `place`."""
    sizes = {str(f.relative_to(staged)): f.stat().st_size for f in sorted(staged.rglob("*")) if f.is_file()}
    (staged / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
    for name in [*sizes, MANIFEST]:
        with open(staged / name, "rb") as file:
            os.fsync(file.fileno())
    if place.exists():
        shutil.rmtree(place)
    os.replace(staged, place)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that its manifest lists stands with its size."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / n).is_file() and (checkpoint / n).stat().st_size == s for n, s in sizes.items())


def last_whole(output_dir: str | Path) -> str | None:
    """The newest checkpoint in a folder that is whole, or None. Torn ones are named in a warning and passed over."""
    found = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    for folder in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        if is_whole(folder):
            return str(folder)
        logger.warning("%s is torn (the run died while writing it): passed over for the one before", folder)
    return None
