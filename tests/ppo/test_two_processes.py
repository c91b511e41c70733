"""Two processes (gloo) end as one process with twice the batch, save, and resume."""

import faulthandler
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from tiny_world import make_trainer

# a rollout of 8 in both cases: 2 processes x 4, or 1 x 8; two minibatches, two forwards each in one process
COMMON = {"num_mini_batches": 2, "total_episodes": 32, "max_grad_norm": 0.5, "learning_rate": 3e-4}
COMMON |= {"save_strategy": "steps", "save_steps": 2, "missing_eos_penalty": 0.5, "target_kl": 5.0}

PATIENCE = 120
"""Seconds; a run takes about ten."""


def trainer_of(folder, lora: bool, processes: int):
    from peft import LoraConfig

    torch.manual_seed(5)
    more = {}
    if lora:
        target = ["q_proj", "down_proj"]
        more = {"peft_config": LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=target, init_lora_weights=False)}
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4 // processes}
    return make_trainer(folder, trainer=more, **COMMON | size)


def worker(rank: int, processes: int, folder: str, lora: bool, resume: str | None):
    faulthandler.dump_traceback_later(PATIENCE - 20)  # one that hangs says where
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
        meet = Path(folder, "rendezvous").as_uri()  # a file: no port that another program may take first
        torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=processes)
    trainer = trainer_of(folder, lora, processes)
    assert trainer.accelerator.num_processes == processes
    trainer.train(resume_from_checkpoint=resume)
    state = {n: p.detach() for n, p in trainer.actor_critic.named_parameters()}
    log = [
        {k: v for k, v in row.items() if k.startswith(("objective", "policy", "loss", "val"))}
        for row in trainer.state.log_history
    ]
    torch.save((state, [row for row in log if row]), Path(folder) / f"end-{rank}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()


def run(folder: Path, lora: bool, processes: int, resume: str | None = None):
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf_recipes.ppo"])
    arguments = [(rank, processes, str(folder), lora, resume) for rank in range(processes)]
    workers = [context.Process(target=worker, args=a) for a in arguments]
    for process in workers:
        process.start()
    for process in workers:
        process.join(PATIENCE)
    ended = [process.exitcode for process in workers]
    for process in workers:
        process.kill()
    assert ended == [0] * processes
    return [torch.load(folder / f"end-{rank}.pt") for rank in range(processes)]


@pytest.mark.parametrize("lora", [False, True])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, lora):
    ((alone, alone_log),) = run(tmp_path / "one", lora, 1)
    (first, log), (second, _) = run(tmp_path / "two", lora, 2)
    assert len(log) == len(alone_log) == 4
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(first[name], second[name]), name
    for a, b in zip(alone_log, log, strict=True):
        assert b == pytest.approx(a, abs=1e-3, rel=1e-3)
    half = tmp_path / "two" / "checkpoint-8"
    (resumed, _), _ = run(tmp_path / "again", lora, 2, resume=str(half))
    assert all(torch.equal(resumed[name], first[name]) for name in first)
