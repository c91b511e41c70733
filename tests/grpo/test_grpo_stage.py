"""stage=grpo: beta, the reference, resuming, adapters, and what is refused."""

import json
import shutil

import pytest
import torch
from tiny_policy import config

from rlhf_recipes.errors import UserError


def log(tmp_path):
    lines = (tmp_path / "default" / "grpo" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_adaptive_kl_moves_the_beta_that_the_loss_is_computed_with(grpo, tmp_path, monkeypatch):
    from rlhf_recipes.grpo import GRPOTrainer

    used = []
    loss = GRPOTrainer._compute_loss
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, *a: used.append(self.beta) or loss(self, *a))
    metrics = grpo("trainer.max_steps=4", "kl.target=1e-6", "kl.horizon=80", "trainer.beta=0.5")
    kl = [row["kl"] for row in log(tmp_path)]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-6
    assert used == [row["kl_coef"] for row in log(tmp_path)]
    # 8 episodes a step of an error of -0.2 or +0.2: beta (1 -+ 0.2 * 8 / 80)
    assert used[1] / used[0] == pytest.approx(0.98)
    assert used[-1] / used[-2] == pytest.approx(1.02)
    assert metrics["kl_coef_last"] == pytest.approx(used[-1] * 1.02)


def test_beta_is_felt_in_the_loss(trainer, policy):
    """d loss / d beta is the mean k3 over tokens."""
    from transformers import AutoModelForCausalLM

    def words(completions, **kwargs):
        return [float(len(c)) for c in completions]

    one = trainer(words, beta=0.1, ref_model=AutoModelForCausalLM.from_pretrained(policy))
    one.model.train()
    one.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        one.model.lm_head.weight.add_(0.05 * torch.randn_like(one.model.lm_head.weight))
    inputs = one._prepare_inputs([{"prompt": "Question 1:", "number": 1}] * 8)
    losses = {}
    for beta in (0.1, 0.6):
        one.beta = beta
        losses[beta] = one.compute_loss(one.model, inputs).item()
    kl = one._metrics["train"]["kl"][-1]
    assert kl > 0.01
    assert losses[0.6] - losses[0.1] == pytest.approx(0.5 * kl, rel=1e-3)


def test_without_beta_there_is_no_reference_and_no_kl(grpo):
    with pytest.raises(UserError, match="kl=fixed"):
        grpo("trainer.beta=0")
    metrics = grpo("trainer.beta=0", "kl=fixed", "trainer.max_steps=2")
    assert metrics["kl_last"] is None
    assert metrics["kl_coef_last"] == 0
    assert metrics["score_last"] is not None


def test_the_reference_is_the_start_even_where_the_vocabulary_grew(policy, grpo, tmp_path):
    """TRL loads the reference from the model's folder, without the pad token that the tokenizer was given here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "bare"
    shutil.copytree(policy, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    metrics = grpo(f"inputs.policy={folder}", "model.pad_token='<|new_pad|>'", "trainer.max_steps=1")
    assert metrics["kl_last"] == pytest.approx(0, abs=1e-6)
    before = AutoModelForCausalLM.from_pretrained(policy).get_input_embeddings().num_embeddings
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "default" / "grpo" / "model")
    assert after.get_input_embeddings().num_embeddings == before + 1


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_an_interrupted_run_ends_where_a_whole_one_does(grpo, tmp_path):
    given = ("trainer.max_steps=4", "trainer.save_total_limit=3", "kl.target=0.01", "kl.horizon=80")
    whole = grpo(*given)
    folder = tmp_path / "default" / "grpo"
    expected, rows = weights(folder / "model"), log(tmp_path)
    for name in ("model", "checkpoints/checkpoint-4"):  # as if it had been killed at step 3
        shutil.rmtree(folder / name)
    (folder / "summary.json").unlink()
    again = grpo(*given)
    for name, value in weights(folder / "model").items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4]
    assert [row["kl_coef"] for row in log(tmp_path)] == [row["kl_coef"] for row in rows]
    assert again["kl_coef_last"] == whole["kl_coef_last"]
    assert again["score_first"] == whole["score_first"]
    assert again["eval_reward_first"] == whole["eval_reward_first"]


def test_lora_trains_an_adapter_against_the_policy_without_it(grpo, tmp_path):
    metrics = grpo("peft=lora", "peft.r=4", "trainer.max_steps=3", "trainer.learning_rate=1e-2", "kl=fixed")
    folder = tmp_path / "default" / "grpo" / "model"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    assert log(tmp_path)[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl_last"] > 1e-6


def test_batches_that_nothing_scores_leave_no_gap_in_the_summary(grpo, tmp_path):
    """Of nine families four can be checked: with two prompts a step, about a third of the steps has no score."""
    metrics = grpo("reward=exact", "trainer.max_steps=12")
    assert None in [row["reward"] for row in log(tmp_path)]
    assert all(metrics[name] is not None for name in ("score_first", "score_last", "kl_last", "entropy_last"))


def test_zero_variance_is_a_setting_of_the_stage(grpo, tmp_path):
    grpo("reward=exact", "trainer.zero_variance=skip", "trainer.max_steps=2")
    assert [row["groups/trained"] for row in log(tmp_path)] == [0.0, 0.0]  # a random model is never right
    assert [row["frac_reward_zero_std"] for row in log(tmp_path)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.zero_variance=resampel", "'resample'"),
        ("trainer.max_resamples=0", "at least 1"),
        ("trainer.loss_type=dr_grp", "did you mean dr_grpo"),
        ("trainer.num_generations=3", "divisible by"),
        ("grpo.eval_prompts=0", "at least 1"),
        ("grpo.accurracy=x", "did you mean grpo.accuracy"),
        ("grpo.vote=rlhf_recipes.grpo.evaluation:no_such", "no_such"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(grpo, override, said):
    with pytest.raises(UserError, match=said) as told:
        grpo(override)
    assert "\n" not in str(told.value)


def test_the_losses_are_all_that_trl_has():
    import inspect
    import re

    from trl import GRPOTrainer

    from rlhf_recipes.stages import grpo

    source = inspect.getsource(GRPOTrainer._compute_loss)
    policy_loss = source[: source.index("Unknown loss type")]
    quoted = re.findall(r'"(\w+)"', " ".join(re.findall(r"loss_type (?:==|in) (.*):", policy_loss)))
    assert set(quoted) >= {"cispo", "grpo", "vespo"}
    assert set(quoted) == set(grpo.LOSSES)


def test_vllm_is_trls_own_flags(tmp_path):
    from omegaconf import OmegaConf

    from rlhf_recipes.grpo import GRPOConfig

    cfg = config(
        "grpo", "trainer.use_vllm=true", "trainer.vllm_mode=colocate", "trainer.vllm_gpu_memory_utilization=0.3"
    )
    fields = OmegaConf.to_container(cfg.trainer, resolve=True)
    fields.pop("_target_")
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, **fields)
    assert (args.use_vllm, args.vllm_mode, args.vllm_gpu_memory_utilization) == (True, "colocate", 0.3)
