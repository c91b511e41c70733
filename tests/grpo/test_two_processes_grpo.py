"""Two processes of which one has more groups that teach than the other train, and end with the same weights."""

from pathlib import Path

import torch
from processes import meet, start
from tiny_policy import save_policy


def some(prompts, completions, number, **columns):
    """A quarter of the questions is answered better or worse; the others score alike whatever is said."""
    return [float(len(c)) * (n % 4 == 1) for c, n in zip(completions, number, strict=True)]


def worker(rank: int, processes: int, folder: str, policy: str):
    meet(rank, processes, folder)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_recipes.grpo import GRPOConfig, GRPOTrainer

    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 4}
    plain = {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    rows = Dataset.from_dict({"prompt": [f"Question {i}:" for i in range(8)], "number": list(range(8))})
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(policy),
        some,
        GRPOConfig(output_dir=folder, zero_variance="skip", logging_steps=1, learning_rate=1e-3, **sizes, **plain),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    trainer.train()
    shares = [row["groups/trained"] for row in trainer.state.log_history if "groups/trained" in row]
    state = {name: value.detach() for name, value in trainer.accelerator.unwrap_model(trainer.model).named_parameters()}
    torch.save((state, shares), Path(folder) / f"end-{rank}.pt")


def test_processes_with_unlike_shares_of_silent_groups(tmp_path):
    policy = save_policy(tmp_path / "policy")
    (first, shares), (second, _) = start(worker, tmp_path / "two", 2, str(policy))
    assert any(0 < share <= 0.25 for share in shares), "one process had a group that taught, the other none"
    assert all(torch.equal(first[name], second[name]) for name in first)
