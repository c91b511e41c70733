"""What TRL 1.12's PPOTrainer does in three updates on the tiny world: the script that wrote golden_trl112.safetensors.

    python tests/ppo/golden.py      # with TRL 1.12, the last that has a PPOTrainer

A file, because later TRLs have none to compare with. It holds the weights before and after, the completions that TRL
drew, what it made of them in each update, and its log; and the fields of its PPOConfig with their defaults.
"""

import dataclasses
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from tiny_world import history, make_models, make_trl_trainer

FILE = Path(__file__).with_name("golden_trl112.safetensors")
UPDATES = 3
CONFIGS = [
    {},
    {"whiten_rewards": True, "kl_estimator": "k3", "gamma": 0.95, "vf_coef": 0.5, "missing_eos_penalty": 1.0},
]
ALWAYS = {"total_episodes": 8 * UPDATES, "learning_rate": 3e-4, "response_length": 5}
MADE = ("kl", "scores", "values", "rewards", "returns")
# not approxkl, entropy and ratio: TRL averages padding into them
METRICS = [
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/num_eos_tokens",
]


def record(config: dict) -> tuple[dict[str, torch.Tensor], dict[str, list[float]]]:
    """Train TRL's own trainer.

    Returns:
        tensors: `start/…` and `end/…`, weights by model; `<update>/…`, queries, answers and what was made of them.
        metrics: TRL's log, a list a metric.
    """
    import trl.experimental.ppo.ppo_trainer as trl_ppo

    drawn, seen = [], []
    plain_generation, plain_whiten = trl_ppo.batch_generation, trl_ppo.masked_whiten

    def record_generation(model, queries, *args):
        """TRL's draw. A pad in it, at which TRL would end the answer, becomes a word; the logits follow."""
        width = queries.shape[1]
        sequences, _ = plain_generation(model, queries, *args)
        answer = sequences[:, width:]
        answer[(answer == 0) & ((answer == 2).int().cumsum(1) == 0)] = 5
        drawn.append({"queries": queries, "answers": answer.clone()})
        with torch.no_grad():
            logits = trl_ppo.forward(model, sequences, 0).logits
        return sequences, logits[:, width - 1 : -1] / (trainer.args.temperature + 1e-7)

    def record_whiten(values, mask, shift_mean=True):
        """Whitening the advantages is the last that TRL's train() does to them: its local variables are ready then."""
        white = plain_whiten(values, mask, shift_mean)
        if shift_mean:
            own = sys._getframe(1).f_locals
            seen.append({name: own[name].clone() for name in MADE} | {"advantages": white * mask})
        return white

    world = make_models()
    tensors = {f"start/{of}/{name}": value.clone() for of, m in world.items() for name, value in m.state_dict().items()}
    with (
        TemporaryDirectory() as folder,
        patch.object(trl_ppo, "batch_generation", record_generation),
        patch.object(trl_ppo, "masked_whiten", record_whiten),
    ):
        trainer = make_trl_trainer(folder, world=world, **ALWAYS | config)
        trainer.train()
    for update, made in enumerate(zip(drawn, seen, strict=True)):
        tensors |= {f"{update}/{name}": value for part in made for name, value in part.items()}
    for of, model in (("policy", trainer.model.policy), ("value", trainer.model.value_model)):
        tensors |= {f"end/{of}/{name}": value for name, value in model.state_dict().items()}
    metrics = {name: history(trainer, name) for name in [*METRICS, "policy/approxkl_avg"]}
    return {name: value.contiguous().clone() for name, value in tensors.items()}, metrics


if __name__ == "__main__":
    import trl
    from safetensors.torch import save_file
    from trl.experimental.ppo import PPOConfig

    assert trl.__version__.startswith("1.12."), f"TRL {trl.__version__} has no PPOTrainer; this wants 1.12"
    both = [record(config) for config in CONFIGS]
    tensors = {f"{i}/{name}": value for i, (made, _) in enumerate(both) for name, value in made.items()}
    declared = {name for cls in PPOConfig.__mro__[:2] for name in cls.__annotations__}  # by TRL, not by transformers
    fields = {f.name: f.default for f in dataclasses.fields(PPOConfig) if f.name in declared}
    notes = {"metrics": [metrics for _, metrics in both], "fields": fields}
    save_file(tensors, FILE, {"trl": trl.__version__} | {name: json.dumps(value) for name, value in notes.items()})
