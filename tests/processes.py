"""Functions run in several processes that meet over gloo, as `accelerate launch` starts them on a CPU."""

import faulthandler
import multiprocessing
import os
from pathlib import Path

import torch
from accelerate.commands.config.config_args import load_config_from_file

from rlhf_recipes.config.paths import CONF

PATIENCE = 120
"""Seconds; a run takes about ten."""


def meet(rank: int, processes: int, folder: str) -> None:
    """What `accelerate launch` sets, and a group of the processes.

    The group is left to the end of its process, not destroyed: DDP's reducer would then hold the last reference to it,
    and one freed with the GIL held waits for gloo's threads, which may be waiting for the GIL.
    """
    faulthandler.dump_traceback_later(PATIENCE - 20)  # one that hangs says where
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
        place = Path(folder, "rendezvous").as_uri()  # a file: no port that another program may take first
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=processes)


def fsdp() -> dict[str, str]:
    """What `accelerate launch` puts into the environment for conf/accelerate/fsdp.yaml."""
    settings = load_config_from_file(str(CONF / "accelerate" / "fsdp.yaml")).fsdp_config
    return {"ACCELERATE_USE_FSDP": "true"} | {name.upper(): str(value) for name, value in settings.items()}


def start(target, folder: Path, processes: int, *more) -> list:
    """Run a function in so many processes, and what each left in end-<rank>.pt."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf_recipes.ppo"])
    workers = [context.Process(target=target, args=(rank, processes, str(folder), *more)) for rank in range(processes)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(PATIENCE)
    ended = [process.exitcode for process in workers]
    for process in workers:
        process.kill()
    assert ended == [0] * processes
    return [torch.load(folder / f"end-{rank}.pt") for rank in range(processes)]
