"""The folder an export goes to: refused while nothing is built yet, filled beside its place, moved there at once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_recipes.errors import UserError


def check(to: Path, source: str, overwrite: bool) -> None:
    """Raise unless the folder may be written.

    Args:
        to: where the export goes.
        source: the model's folder or hub id.
        overwrite: run.overwrite: an earlier export may be replaced. Nothing else ever is.

    Raises:
        UserError: something is there, or it holds the model itself.
    """
    to, model = to.resolve(), Path(source).expanduser().resolve()
    if model.exists() and (to == model or to in model.parents or model in to.parents):
        raise UserError(f"export.to={to} and the model in {model} lie in one another; choose another folder")
    if to.exists() and not to.is_dir():
        raise UserError(f"export.to={to} is a file; expected a folder")
    if not to.exists() or not any(to.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{to} is not empty; give run.overwrite=true to export again, or export.to=<folder>")
    if not (to / "config.json").is_file() or not (to / "README.md").is_file():
        raise UserError(f"{to} holds something else than an export (no config.json and README.md); remove it yourself")


@contextmanager
def filled(to: Path) -> Iterator[Path]:
    """A folder beside `to` that becomes `to` when the block ends well, and vanishes when it does not."""
    to = to.resolve()
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's folders are for their owner alone
        if to.exists():
            shutil.rmtree(to)
        os.replace(part, to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
