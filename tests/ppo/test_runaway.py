"""The policy kept when the KL runs away is the one that was measured, in the real trainer."""

import json

import torch
from tiny_world import history

from rlhf_recipes.training.kl_control import KLRunaway


def test_the_policy_kept_is_the_one_its_figures_are_of(make, tmp_path):
    from transformers import AutoModelForCausalLM

    trainer = make(trainer={"callbacks": [KLRunaway(max_kl=5.0)]}, learning_rate=0.006, kl_coef=0.0, total_episodes=128)
    measured = []  # the weights that each rollout measured
    play = trainer._play

    def playing():
        measured.append({n: p.detach().clone() for n, p in trainer.actor_critic.policy.named_parameters()})
        return play()

    trainer._play = playing
    trainer.train()
    kls, rewards = history(trainer, "objective/kl"), history(trainer, "objective/rlhf_reward")
    assert 2 < len(kls) < 16 and kls[-1] > 5 >= max(kls[:-1]), f"it has to run away, and not at once: {kls}"
    best = max(range(len(kls) - 1), key=rewards.__getitem__)
    place = tmp_path / "out" / "best"
    assert json.loads((place / "kept.json").read_text()) == {
        "step": best * 2,
        "kl": kls[best],
        "rlhf_reward": rewards[best],
    }
    for name, value in AutoModelForCausalLM.from_pretrained(place).named_parameters():
        assert torch.equal(value, measured[best][name]), name


def test_a_resumed_run_stops_and_keeps_as_the_one_left_alone(make, tmp_path):
    def run(resume=None):
        saves = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 0.006, "kl_coef": 0.0}
        trainer = make(trainer={"callbacks": [KLRunaway(max_kl=5.0, patience=2)]}, total_episodes=128, **saves)
        trainer.train(resume_from_checkpoint=resume)
        return history(trainer, "objective/kl"), (tmp_path / "out" / "best" / "kept.json").read_text()

    kls, kept = run()
    assert 3 < len(kls) < 16 and min(kls[-2:]) > 5, f"two rollouts above, then it stops: {kls}"
    before = f"{tmp_path}/out/checkpoint-{2 * len(kls) - 2}"  # one rollout above is behind it
    assert run(before) == (kls, kept)
    assert run(f"{tmp_path}/out/checkpoint-{2 * len(kls)}") == (kls, kept), "it had stopped when it was killed"
