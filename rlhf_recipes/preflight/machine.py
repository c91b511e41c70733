"""What this machine has: memory that is free now, and how much the libraries have taken already."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rlhf_recipes.errors import UserError

LAZY = 80e6  # bytes that come later on a CPU: modules imported late, the kernels' own buffers, a small dataset
CUDA_CONTEXT = 0.5e9  # bytes a GPU loses to the driver and kernels of one process, beside what torch allocates


@dataclass(frozen=True)
class Machine:
    """Memory in bytes.

    Args:
        device: "cpu" or "cuda".
        name: for the screen.
        total: of the machine, or of its control group.
        free: that this process can still get, what it holds already included.
        baseline: what the process holds before any model is loaded, and LAZY; 0 on a GPU.
    """

    device: str
    name: str
    total: float
    free: float
    baseline: float


def this_machine(limit_gb: float | None = None, *, gpu: bool = True) -> Machine:
    """The first GPU where there is one, else RAM; with `limit_gb`, as if that much were free.

    Args:
        limit_gb: 10^9 bytes; None for what is free.
        gpu: False for a stage that leaves a GPU alone.

    Raises:
        UserError: the limit is not above 0.
    """
    import torch

    if limit_gb is not None and not limit_gb > 0:
        raise UserError(f"preflight_gb={limit_gb}: expected gigabytes above 0, or null for what this machine has")
    if gpu and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name, found = torch.cuda.get_device_name(), Machine("cuda", "", total, free - CUDA_CONTEXT, 0.0)
    else:
        held = resident()
        total, free = memory()
        name, found = "RAM", Machine("cpu", "", total, free + held, held + LAZY)
    if limit_gb is not None:
        return Machine(found.device, f"preflight_gb={limit_gb:g}", limit_gb * 1e9, limit_gb * 1e9, found.baseline)
    return Machine(found.device, name, found.total, found.free, found.baseline)


def resident() -> float:
    """Resident memory of this process, bytes."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def memory(group: Path = Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """Total and available RAM, bytes: the machine's, or the control group's where that has less (containers)."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = float(machine.total), float(machine.available)
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None and limit < total:
        total, free = limit, min(free, max(0.0, limit - used))
    return total, free


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # no control group; `max` is no limit
        return None


def free_disk(place: Path) -> float:
    """Bytes free where `place` lies or will lie."""
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)
