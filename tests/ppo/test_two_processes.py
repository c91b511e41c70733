"""Two processes (gloo) end as one process with twice the batch, save, and resume; TRL's trainer (defect 4) does not."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from processes import meet, start
from tiny_world import make_models, make_prompts, make_trainer, make_trl_trainer

# a rollout of 8 in both cases: 2 processes x 4, or 1 x 8; two minibatches, two forwards each in one process
COMMON = {"num_mini_batches": 2, "total_episodes": 32, "max_grad_norm": 0.5, "learning_rate": 3e-4}
COMMON |= {"save_strategy": "steps", "save_steps": 2, "missing_eos_penalty": 0.5, "target_kl": 5.0}
COMMON |= {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_score"}
COMMON |= {"load_best_model_at_end": True}  # each process reads the best one's checkpoint


def adapter():
    from peft import LoraConfig

    target = ["q_proj", "down_proj"]
    return LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=target, init_lora_weights=False)


def adapted(lora: bool):
    """The policy with a random adapter, or None. It is not the reference, which is the policy without the adapter."""
    from peft import get_peft_model

    torch.manual_seed(5)
    return get_peft_model(make_models()["policy"], adapter()) if lora else None


def worker(rank: int, processes: int, folder: str, lora: bool, resume: str | None):
    meet(rank, processes, folder)
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4 // processes}
    held_out = {"eval_dataset": make_prompts().select(range(4))}
    trainer = make_trainer(folder, trainer=held_out, model=adapted(lora), **COMMON | size)
    assert trainer.accelerator.num_processes == processes
    trainer.train(resume_from_checkpoint=resume)
    state = {n: p.detach() for n, p in trainer.actor_critic.named_parameters()}
    log = [
        {k: v for k, v in row.items() if k.startswith(("objective", "policy", "loss", "val"))}
        for row in trainer.state.log_history
    ]
    torch.save((state, [row for row in log if row]), Path(folder) / f"end-{rank}.pt")


def run(folder: Path, lora: bool, processes: int, resume: str | None = None):
    return start(worker, folder, processes, lora, resume)


@pytest.mark.parametrize("lora", [False, True])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, lora):
    ((alone, alone_log),) = run(tmp_path / "one", lora, 1)
    (first, log), (second, _) = run(tmp_path / "two", lora, 2)
    assert len(log) == len(alone_log) == 4
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(first[name], second[name]), name
    for a, b in zip(alone_log, log, strict=True):
        assert b == pytest.approx(a, abs=1e-4, rel=0)
    half = tmp_path / "two" / "checkpoint-8"
    (resumed, _), _ = run(tmp_path / "again", lora, 2, resume=str(half))
    assert all(torch.equal(resumed[name], first[name]) for name in first)


def trl_worker(rank: int, processes: int, folder: str):
    """What TRL's trainer says: of LoRA, and of a full fine-tune that saves."""
    meet(rank, processes, folder)
    said = []
    for lora in (True, False):
        more = {"trainer": {"peft_config": adapter(), "ref_model": None}} if lora else {}
        size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        trainer = make_trl_trainer(folder, save_strategy="steps", save_steps=1, **more, **size)
        try:
            trainer.train()
            said.append("")
        except Exception as error:
            said.append(f"after {trainer.state.global_step} updates {type(error).__name__}: {error}")
    torch.save(said, Path(folder) / f"end-{rank}.pt")


@pytest.mark.skipif(not find_spec("trl.experimental.ppo"), reason="TRL has no PPOTrainer from 1.13 on")
def test_4_trls_own_trainer_fails_in_two_processes(tmp_path):
    (lora, full), (other, _) = start(trl_worker, tmp_path / "trl", 2)
    assert lora == other == "after 0 updates AttributeError: 'DistributedDataParallel' object has no attribute 'policy'"
    assert full == "after 1 updates AttributeError: 'DistributedDataParallel' object has no attribute 'config'"
