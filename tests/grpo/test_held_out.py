"""Accuracy, majority and rewards on held-out prompts while GRPO trains."""

import pytest
import torch
from transformers import TrainerCallback

from rlhf_recipes.grpo.evaluation import EvalSettings, majority


def test_a_majority_is_of_answers_not_of_verdicts():
    assert majority(["7", "8", "9", "7"], [1.0, 0.0, 0.0, 1.0]) == 1.0  # half are right, and agree
    assert majority(["8", "7", "8"], [0.0, 1.0, 0.0]) == 0.0
    assert majority([None, None, "7"], [0.0, 0.0, 1.0]) == 1.0  # an answer without a claim has no vote
    assert majority([None], [0.0]) == 0.0
    assert majority(["7"], [None]) is None


ANSWERS = {0: ["4", "5", "4"], 1: ["9", "9", "1"], 2: ["3", "2", "1"]}


def right(prompts, completions, number, **columns):
    return [None if n == 2 else float(c == {0: "4", 1: "1"}[n]) for c, n in zip(completions, number, strict=True)]


@pytest.fixture
def scripted(trainer):
    """A trainer that answers greedily with the first of ANSWERS, and sampling with all three."""
    one = trainer(
        lambda completions, **columns: [float(c) for c in completions],
        eval_settings=EvalSettings(accuracy=right, prompts=3),
        num_generations_eval=3,
        per_device_eval_batch_size=5,
    )
    drawn = dict.fromkeys(ANSWERS, 0)

    def generate(prompts):
        said = []
        for n in (int(prompt.strip(":").split()[-1]) for prompt in prompts):
            said.append(ANSWERS[n][drawn[n]])
            drawn[n] = (drawn[n] + one.generation_config.do_sample) % 3
        return [[1]] * len(said), [[2]] * len(said), None, said

    one._generate = generate
    return one


def test_held_out_figures_in_closed_form(scripted):
    metrics = scripted.evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(1 / 2)  # 4 is right, 9 is not, the third cannot be judged
    assert metrics["eval_mean_at_3"] == pytest.approx((2 + 1) / 6)
    assert metrics["eval_majority_at_3"] == pytest.approx(1 / 2)  # 4 by two votes of three; 9 outvotes 1
    assert metrics["eval_reward"] == pytest.approx((4 + 5 + 4 + 9 + 9 + 1 + 3 + 2 + 1) / 9)
    assert scripted.state.log_history[-1]["eval_accuracy"] == metrics["eval_accuracy"]


def test_what_a_reward_logs_of_each_answer_is_in_the_samples(scripted):
    def reward(completions, log_extra, **columns):
        log_extra("read_as", [f"<{c}>" for c in completions])
        return [float(c) for c in completions]

    class Keep(TrainerCallback):
        def on_samples(self, args, state, control, samples=()):
            self.samples = samples

    scripted.reward_funcs[0], keep = reward, Keep()
    scripted.add_callback(keep)
    scripted.evaluate()
    assert [row["read_as"] for row in keep.samples] == [f"<{row['completion']}>" for row in keep.samples]
    assert len(keep.samples) == 3


def test_an_answer_that_only_a_metric_scores_has_no_reward(scripted):
    scripted.reward_funcs[0] = lambda completions, **columns: [None if c == "9" else float(c) for c in completions]
    scripted.reward_funcs.append(lambda completions, **columns: [float(c) for c in completions])
    scripted.reward_func_names.append("watched")
    scripted.reward_processing_classes.append(None)
    scripted.reward_weights = torch.tensor([1.0, 0.0])
    metrics = scripted.evaluate()
    assert metrics["eval_reward"] == pytest.approx((4 + 5 + 4 + 1 + 3 + 2 + 1) / 7)
    assert metrics["eval_rewards/watched/mean"] == pytest.approx((4 + 5 + 4 + 9 + 9 + 1 + 3 + 2 + 1) / 9)


def test_a_step_is_measured_once(scripted, monkeypatch):
    first = scripted.evaluate()
    monkeypatch.setattr("rlhf_recipes.grpo.group_trainer.measure", None)
    assert scripted.evaluate()["eval_accuracy"] == first["eval_accuracy"]
    scripted.state.global_step = 1
    with pytest.raises(TypeError):
        scripted.evaluate()


def test_greedy_is_the_likeliest_token_and_leaves_training_as_it_was(trainer, policy):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_recipes.evaluation.answers import Draw, generate

    told = []
    one = trainer(lambda completions, **kwargs: told.append(completions) or [1.0] * len(completions), temperature=0.7)
    config, before = one.generation_config, torch.get_rng_state()
    one.evaluate()
    assert torch.equal(before, torch.get_rng_state())
    assert one.generation_config is config
    assert config.do_sample and config.temperature == 0.7
    assert one.num_generations_eval == 4
    assert not one._metrics["train"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    likeliest = generate(model, tokenizer, one.eval_dataset["prompt"], Draw(max_new_tokens=6, temperature=0))
    assert told[0] == [answer.text for answer in likeliest]
    first = [said for part in told for said in part]
    one.state.global_step, told[:] = 5, []
    one.evaluate()
    assert first == [said for part in told for said in part]  # the same random numbers every time


def test_the_stage_logs_them_at_every_eval_step_and_sums_them_up(grpo, tmp_path):
    import json

    metrics = grpo("trainer.max_steps=3", "grpo.accuracy=length_target")
    lines = (tmp_path / "default" / "grpo" / "metrics.jsonl").read_text().splitlines()
    measured = [row for row in map(json.loads, lines) if "eval_accuracy" in row]
    assert [row["step"] for row in measured] == [0, 2, 3]
    assert {"eval_majority_at_4", "eval_rewards/length/mean", "eval_completions/mean_length"} <= measured[0].keys()
    assert metrics["eval_accuracy_first"] == measured[0]["eval_accuracy"]
    assert metrics["eval_majority_at_4"] == measured[-1]["eval_majority_at_4"]
    samples = (tmp_path / "default" / "grpo" / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 3 * 4
    assert {"step", "prompt", "completion", "score", "accuracy"} <= json.loads(samples[0]).keys()


def test_accuracy_is_the_domains_own_where_none_is_named(grpo):
    metrics = grpo("trainer.max_steps=1", "data.prompts.options.checkable=true")
    assert metrics["eval_accuracy"] == 0.0  # a random model is never right
    assert "eval_accuracy" not in grpo("run.name=none", "trainer.max_steps=1", "~data.exact")
