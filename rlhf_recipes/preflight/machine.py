"""What this machine has: memory and disk that are free now, and what the libraries take of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rlhf_recipes.errors import UserError

KERNELS = 60e6  # bytes that come with the first real product on a CPU: the kernels' code and their own buffers
CUDA_CONTEXT = 0.5e9  # bytes a GPU loses to the driver and kernels of one process, beside what torch allocates


@dataclass(frozen=True)
class Machine:
    """Memory in bytes.

    Args:
        device: "cpu" or "cuda".
        name: for the screen.
        free: what this process can still get, with what it holds already.
    """

    device: str
    name: str
    free: float

    @property
    def libraries(self) -> float:
        """What a process holds beside tensors: this one's own, and KERNELS; 0 on a GPU."""
        return resident() + KERNELS if self.device == "cpu" else 0.0


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
    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    if limit_gb is not None:
        return Machine(device, f"preflight_gb={limit_gb:g}", limit_gb * 1e9)
    if device == "cuda":
        return Machine(device, torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] - CUDA_CONTEXT)
    return Machine(device, "RAM", available() + resident())


def resident() -> float:
    """Resident memory of this process, bytes."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def available(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Available RAM, bytes: the machine's, or the control group's where that has less (containers)."""
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(0.0, limit - used))


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
