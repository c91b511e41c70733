"""Checkpoints and model folders that are whole or not there. No torch: the shell asks before anything is imported."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from rlhf_recipes.errors import UserError

MANIFEST = "manifest.json"
STATE_FILE = "ppo_state.pt"  # of PPO's only
ZIPPED = (".pt", ".pth", ".bin")  # what torch.save writes


def seal(folder: Path) -> None:
    """List a finished folder's files and sizes in it, and flush them to the disk."""
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
    for name in [*sizes, MANIFEST]:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end.

    PPO's list their files: every one must stand with its size. Trainer's own have no list: their last file must stand,
    every safetensors file must have its length, and every file of torch's its end.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if (checkpoint / MANIFEST).is_file() or (checkpoint / STATE_FILE).is_file():
            sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
            return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
        files = [f for f in checkpoint.rglob("*") if f.is_file()]
        return all(
            _whole_safetensors(f) if f.suffix == ".safetensors" else zipfile.is_zipfile(f)
            for f in files
            if f.suffix in (".safetensors", *ZIPPED)
        )
    except (OSError, ValueError):
        return False


def _whole_safetensors(file: Path) -> bool:
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > size:
            return False
        header = json.loads(stream.read(length))
    ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def numbered(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, newest first, whole or not."""
    checkpoints = [p for p in Path(folder).glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    return sorted(checkpoints, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)


def choose(folder: str | Path, wanted: str | bool | None, say: Callable[[str], object]) -> str | None:
    """The checkpoint to go on from.

    Args:
        folder: where a run's own checkpoints lie.
        wanted: a checkpoint; None, True or "auto" for the newest in `folder` that is whole, where there is one.
        say: called with a line about each torn checkpoint that is passed over.

    Raises:
        UserError: the checkpoint that is wanted is not there, or not whole.
    """
    if wanted not in (None, True, "auto"):
        if not Path(wanted).is_dir():
            raise UserError(f"trainer.resume_from_checkpoint={wanted}: no such folder; expected a checkpoint or auto")
        if not is_whole(Path(wanted)):
            raise UserError(
                f"trainer.resume_from_checkpoint={wanted}: torn, or no checkpoint; name another, or give auto"
            )
        return str(wanted)
    for checkpoint in numbered(folder):
        if is_whole(checkpoint):
            return str(checkpoint)
        say(f"{checkpoint} is torn (the run died while writing it): passed over for the one before")
    return None


def replace(new: Path, place: Path) -> None:
    """Put a finished folder in the place of another. Killed in between, one of the two is where `standing` looks."""
    old = _old(place)
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def standing(place: Path) -> Path | None:
    """What `replace` left at a place: the folder, the one before it where the process was killed, or None."""
    return next((p for p in (place, _old(place)) if p.is_dir()), None)


def remove(place: Path) -> None:
    """Take away what `replace` put there."""
    for folder in (place, _old(place)):
        shutil.rmtree(folder, ignore_errors=True)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")
