"""Under FSDP2 a run is what it is in one process with twice the batch: full, LoRA, saved and resumed."""

import os
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, PartialState
from processes import fsdp, meet, start
from safetensors.torch import load_file
from test_two_processes import COMMON, adapted
from tiny_world import make_prompts, make_trainer
from transformers import AutoModelForCausalLM

SHORT = COMMON | {"total_episodes": 16, "save_steps": 1, "eval_steps": 1}


def share_out() -> None:
    """As conf/accelerate/fsdp.yaml has it. accelerate gives FSDP to GPUs only: CPU processes are named so here."""
    os.environ |= fsdp()
    ordinary = PartialState.__init__

    def named_gpu(self, *args, **kwargs):
        ordinary(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = named_gpu


def worker(rank: int, processes: int, folder: str, lora: bool, resume: str | None, more: dict):
    meet(rank, processes, folder)
    if processes > 1:
        share_out()
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4 // processes}
    given = {"eval_dataset": make_prompts().select(range(4))} | ({"value_model": None} if lora else {})
    trainer = make_trainer(folder, trainer=given, model=adapted(lora), **SHORT | size | more)
    trainer.train(resume_from_checkpoint=resume)
    shards = [p for p in trainer.actor_critic.parameters() if hasattr(p, "full_tensor")]
    assert bool(shards) == (processes > 1)
    saved = Path(folder, "model")
    trainer.save_model(str(saved))
    state = {n: getattr(p, "full_tensor", lambda p=p: p)().detach() for n, p in trainer.actor_critic.named_parameters()}
    log = [
        {k: v for k, v in row.items() if k.startswith(("objective", "policy", "loss", "val", "eval"))}
        for row in trainer.state.log_history
    ]
    torch.save((state, [row for row in log if row]), Path(folder) / f"end-{rank}.pt")
    if rank == 0 and not lora:
        plain = AutoModelForCausalLM.from_pretrained(saved)
        assert all(torch.equal(p, state[f"policy.{n}"]) for n, p in plain.named_parameters())
    elif rank == 0:
        kept = [n for n in state if "lora_" in n]
        assert len(load_file(saved / "adapter_model.safetensors")) == len(kept) > 0


@pytest.mark.parametrize("lora", [False, True])
def test_two_processes_that_share_the_weights_equal_one(tmp_path, lora):
    more = {} if lora else {"sync_ref_model": True, "ref_model_sync_steps": 1}
    ((alone, alone_log),) = start(worker, tmp_path / "one", 1, lora, None, more)
    (first, log), (second, _) = start(worker, tmp_path / "two", 2, lora, None, more)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(first[name], second[name]), name
    for a, b in zip(alone_log, log, strict=True):
        assert b == pytest.approx(a, abs=1e-4, rel=0)
    if lora:  # one of the two is killed and resumed: each run takes some seconds
        return
    half = tmp_path / "two" / "checkpoint-4"
    (resumed, _), _ = start(worker, tmp_path / "again", 2, lora, str(half), more)
    assert all(torch.equal(resumed[name], first[name]) for name in first)
