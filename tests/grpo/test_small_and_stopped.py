"""Few prompts, no held-out ones or several sets, the best checkpoint, and stops while a rollout is learned from."""

import shutil
import signal

import pytest
import torch
from datasets import Dataset
from tiny_policy import log, weights

from rlhf_recipes.errors import Stopped, UserError


def letters(completions, **columns):
    return [float(len(c)) for c in completions]


def test_fewer_prompts_than_a_rollout_takes_are_refused(trainer):
    """TRL would train no step and call the run done."""
    with pytest.raises(UserError, match="8 prompts are too few: each rollout answers 9") as error:
        trainer(letters, per_device_train_batch_size=36, num_generations=4)
    assert "\n" not in str(error.value)
    one = trainer(letters, per_device_train_batch_size=32, num_generations=4)
    one.train()
    assert one.state.global_step == 1


@pytest.mark.parametrize("overrides", [(), ("trainer.eval_on_start=false", "trainer.per_device_eval_batch_size=4")])
def test_without_held_out_prompts_nothing_is_evaluated(grpo, tmp_path, overrides):
    metrics = grpo("data.eval_fraction=0", "trainer.max_steps=2", *overrides)
    assert metrics["score_last"] is not None
    assert "eval_reward" not in metrics
    assert len(log(tmp_path, "grpo")) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.sync_ref_model=true", "peft=lora"), "without its adapter"),
        (("trainer.sync_ref_model=true", "trainer.beta=0", "kl=fixed"), "with beta 0 there is none"),
        (("trainer.load_best_model_at_end=true",), "metric_for_best_model=loss.*expected one of reward"),
        (("trainer.metric_for_best_model=reward_mean",), "expected one of reward, rewards/length_target/mean"),
        (("trainer.load_best_model_at_end=true", "data.eval_fraction=0"), "needs held-out rows"),
        (
            (
                "trainer.load_best_model_at_end=true",
                "trainer.metric_for_best_model=reward",
                "trainer.num_iterations=3",
            ),
            "3 steps learn from one rollout",
        ),
        (("trainer.use_vllm=true",), "vLLM is not installed"),
        (("trainer.per_device_eval_batch_size=6",), "divisible by the number of generations"),
    ],
)
def test_what_would_fail_after_hours_is_refused_in_one_line(grpo, monkeypatch, overrides, message):
    monkeypatch.setattr("rlhf_recipes.grpo.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message) as error:
        grpo(*overrides)
    assert "\n" not in str(error.value)


def test_the_best_policy_is_what_is_left_and_what_is_told(grpo, tmp_path, monkeypatch):
    """The reward of three evaluations is set by hand: none, 2 and 1; an evaluation that nothing scores is no best."""
    from rlhf_recipes.grpo import group_trainer

    given = iter([None, 2.0, 1.0])
    monkeypatch.setattr(group_trainer, "measure", lambda *a: ({"reward": next(given)}, []))
    best = ("trainer.load_best_model_at_end=true", "trainer.metric_for_best_model=reward", "trainer.save_total_limit=3")
    metrics = grpo(*best)
    assert metrics["eval_reward"] == 2.0
    folder = tmp_path / "default" / "grpo"
    kept, last = (weights(folder / "checkpoints" / f"checkpoint-{step}") for step in (2, 4))
    left = weights(folder / "model")
    assert all(torch.equal(left[name], kept[name]) for name in left)
    assert not all(torch.equal(left[name], last[name]) for name in left)


def test_held_out_sets_are_measured_by_their_names(trainer):
    one = trainer(letters)
    rows = one.eval_dataset
    one.eval_dataset = {"few": rows.select([0, 1]), "other": rows.select([2]).to_iterable_dataset()}
    metrics = one.evaluate()
    assert {"eval_few_reward", "eval_other_reward", "eval_other_completions/mean_length"} <= metrics.keys()
    given = one.evaluate({"own": rows.select([0, 1])}, metric_key_prefix="test")
    assert given["test_own_reward"] == metrics["eval_few_reward"]


@pytest.mark.parametrize("size", [4, 12, 64])
def test_held_out_lengths_are_means_over_answers_whatever_the_batch(trainer, size):
    """Five prompts answered four times: with batches of 12 answers TRL's mean of means weighs the last 8 more."""
    one = trainer(letters, per_device_eval_batch_size=size)
    answered = []
    one._generate_single_turn = lambda ids, *rest: ([length(ids) for ids in ids], None)

    def length(prompt):
        answered.append(1 + len(answered) % 5)
        return [5] * answered[-1]

    metrics = one.evaluate(Dataset.from_dict({"prompt": [f"Question {i}:" for i in range(5)]}))
    sampled = answered[5:]  # the first five are the greedy answers
    assert len(sampled) == 20
    assert metrics["eval_completions/mean_length"] == pytest.approx(sum(sampled) / 20)
    assert (metrics["eval_completions/min_length"], metrics["eval_completions/max_length"]) == (1, 5)
    assert metrics["eval_completions/clipped_ratio"] == 1.0


CYCLES = {
    "passes": ("trainer.num_iterations=3",),
    "slices": ("trainer.steps_per_generation=2", "trainer.gradient_accumulation_steps=1"),
    "uneven": ("trainer.steps_per_generation=3", "trainer.gradient_accumulation_steps=2"),
}


@pytest.mark.parametrize("cycle", CYCLES)
def test_a_stop_while_a_rollout_is_learned_from_resumes_to_the_bit(grpo, tmp_path, monkeypatch, cycle):
    from transformers import Trainer

    given = (*CYCLES[cycle], "trainer.max_steps=6", "trainer.save_steps=1", "trainer.eval_strategy=no", "kl=fixed")
    given += ("trainer.per_device_train_batch_size=4",)
    grpo("run.name=whole", *given)
    step, sent = Trainer.training_step, []

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 1 and not sent:  # a second signal would stop at once
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "training_step", interrupted)
        grpo("run.name=cut", *given)
    folder = tmp_path / "cut" / "grpo"
    names = sorted(p.name for p in (folder / "checkpoints").glob("checkpoint-*"))
    ends = {"passes": 3, "slices": 2, "uneven": 3}[cycle]
    assert names == [f"checkpoint-{ends}"]
    grpo("run.name=cut", *given)
    whole, again = weights(tmp_path / "whole" / "grpo" / "model"), weights(folder / "model")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_reference_that_moves_is_resumed_where_it_was(grpo, tmp_path):
    given = ("trainer.sync_ref_model=true", "trainer.ref_model_sync_steps=1", "trainer.ref_model_mixup_alpha=0.5")
    given += ("trainer.beta=0.5", "kl=fixed", "trainer.save_total_limit=3", "trainer.eval_strategy=no")
    grpo(*given)
    folder = tmp_path / "default" / "grpo"
    expected = weights(folder / "model")
    for name in ("model", "checkpoints/checkpoint-4"):  # as if it had been killed at step 3
        shutil.rmtree(folder / name)
    (folder / "summary.json").unlink()
    grpo(*given)
    again = weights(folder / "model")
    assert all(torch.equal(again[name], expected[name]) for name in expected)
