"""Two processes (gloo), of which one gets SIGTERM: both stop at the end of the same update."""

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import TrainerControl, TrainerState

from rlhf_recipes.training.stop import GracefulStop


def stopped(rank: int, folder: str):
    meet = Path(folder, "rendezvous").as_uri()  # a file: no port that another program may take first
    torch.distributed.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    stop, control, state = GracefulStop(), TrainerControl(), TrainerState()
    args = SimpleNamespace(num_ppo_epochs=2, num_mini_batches=1, device="cpu")
    stop.on_train_begin(args, state, control)
    while not control.should_training_stop:
        state.global_step += 1
        if (rank, state.global_step) == (1, 3):  # in the middle of the second update
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher's own, on top of the terminal's
        stop.on_step_end(args, state, control)
    Path(folder, f"end-{rank}").write_text(f"{state.global_step} {control.should_save} {stop.received}")
    torch.distributed.destroy_process_group()


def test_a_signal_to_one_process_stops_both_at_the_same_update(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf_recipes.training.stop"])
    workers = [context.Process(target=stopped, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(90)
        process.kill()
    assert [(tmp_path / f"end-{rank}").read_text() for rank in (0, 1)] == [f"4 True {int(signal.SIGTERM)}"] * 2
