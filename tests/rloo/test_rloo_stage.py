"""stage=rloo: the advantage by hand, beta, the reference, held-out accuracy, resuming, what is refused."""

import pytest
import torch
from tiny_policy import LENGTH, log, run_stage, save_policy, trainer_of, whole_and_resumed

from rlhf_recipes.errors import UserError


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def places(policy, tmp_path):
    return (f"run.root={tmp_path}", f"inputs.policy={policy}", *LENGTH)


@pytest.fixture
def rloo(places):
    """rloo("trainer.beta=0.5", …) -> metrics of stage=rloo on the tiny policy, in tmp_path/default/rloo."""
    return lambda *overrides: run_stage("rloo", *places, *overrides)


def scripted(places, rewards, *overrides):
    """A trainer whose reward functions give what is written, and a generation batch of its first prompts."""
    trainer = trainer_of("rloo", *places, *overrides)
    trainer.reward_funcs = [lambda completions, values=values, **columns: values for values in rewards]
    trainer.reward_func_names = [f"reward{i}" for i in range(len(rewards))]
    trainer.reward_processing_classes = [None] * len(rewards)
    trainer.reward_weights = torch.ones(len(rewards))
    trainer.model.train()
    rows = [trainer.train_dataset[i // 4] for i in range(8)]
    return trainer, lambda: trainer._generate_and_score_completions(rows)


def test_an_advantage_is_the_reward_minus_the_mean_of_the_others(places):
    given = [1.0, 0.0, 0.0, 0.5, 2.0, 2.0, None, 1.0]
    _, play = scripted(places, [given], "kl=fixed", "trainer.beta=0")
    advantages = play()["advantages"]
    # of 1.0 the others' mean is 0.5 / 3; an answer that nothing scored is no one's baseline and learns nothing
    expected = [1 - 0.5 / 3, -1.5 / 3, -1.5 / 3, 0.5 - 1 / 3, 2 - 1.5, 2 - 1.5, 0.0, 1 - 2.0]
    torch.testing.assert_close(advantages, torch.tensor(expected))


def test_the_kl_is_part_of_the_reward(places):
    """Each answer's reward loses beta times its summed log-ratio, with the beta that the controller has set."""
    trainer, play = scripted(places, [[1.0, 0.0, 0.0, 0.5] * 2], "kl=fixed", "trainer.beta=0.1")
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trainer.args.beta = 0.7
    batch = play()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    steps = batch["completion_ids"].shape[1]
    with torch.no_grad():
        ratio = [
            trainer._get_per_token_logps_and_entropies(m, ids, mask, steps)[0]
            for m in (trainer.model, trainer.ref_model)
        ]
    kl = ((ratio[0] - ratio[1]) * batch["completion_mask"]).sum(1)
    assert kl.abs().max() > 0.01
    reward = (torch.tensor([1.0, 0.0, 0.0, 0.5] * 2) - 0.7 * kl).view(2, 4)
    others = (reward.sum(1, keepdim=True) - reward) / 3
    torch.testing.assert_close(batch["advantages"], (reward - others).flatten(), rtol=1e-3, atol=1e-5)


def test_silent_groups_are_counted_by_their_rewards_and_metrics_of_weight_0_are_never_felt(places):
    trainer, play = scripted(places, [[1.0] * 4 + [1.0, None, 0.8, 0.9], [3.0, 5.0, 7.0, 9.0] * 2], "trainer.beta=0.5")
    trainer.reward_weights = torch.tensor([1.0, 0.0])
    advantages = play()["advantages"]
    logged = trainer._metrics["train"]
    assert logged["frac_reward_zero_std"] == [0.5], "TRL's rewards differ by their KL"
    assert advantages[5] == 0, "only a metric scored it"
    assert logged["rewards/reward1/mean"] == [6.0]
    assert logged["reward"] == [pytest.approx((4 + 1 + 0.8 + 0.9) / 7)]


def test_adaptive_kl_moves_beta_and_held_out_prompts_are_measured(rloo, tmp_path):
    metrics = rloo("kl.target=1e-6", "kl.horizon=80", "trainer.beta=0.5", "grpo.accuracy=length_target")
    used = [row["kl_coef"] for row in log(tmp_path, "rloo")]
    assert log(tmp_path, "rloo")[0]["kl"] == pytest.approx(0, abs=1e-6), "the reference is the start"
    # 8 answers an update, an error of -0.2 or 0.2: beta (1 -+ 0.2 * 8 / 80)
    assert used[1] / used[0] == pytest.approx(0.98)
    assert set(used) != {0.5} and metrics["kl_coef_last"] != used[-1]
    assert {"eval_accuracy_first", "eval_accuracy", "eval_majority_at_4", "eval_reward"} <= metrics.keys()
    assert None not in metrics.values() and metrics["episodes"] == 32


def test_without_beta_there_is_no_reference_and_no_kl(rloo):
    with pytest.raises(UserError, match="kl=fixed"):
        rloo("trainer.beta=0")
    metrics = rloo("trainer.beta=0", "kl=fixed", "trainer.max_steps=2")
    assert metrics["kl_last"] is None and metrics["score_last"] is not None


def test_an_interrupted_run_ends_where_a_whole_one_does(rloo, tmp_path):
    given = ("trainer.save_total_limit=3", "kl.target=0.01", "kl.horizon=80")
    whole, again = whole_and_resumed(rloo, tmp_path / "default" / "rloo", given)
    assert (again["kl_coef_last"], again["score_first"]) == (whole["kl_coef_last"], whole["score_first"])


def test_lora_trains_an_adapter_against_the_policy_without_it(rloo, tmp_path):
    metrics = rloo("peft=lora", "peft.r=4", "trainer.max_steps=3", "trainer.learning_rate=1e-2", "kl=fixed")
    assert (tmp_path / "default" / "rloo" / "model" / "adapter_model.safetensors").is_file()
    assert log(tmp_path, "rloo")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["kl_last"] != 0


def test_preview_shows_prompts(rloo, tmp_path, capsys):
    rloo("preview=true", "preview_rows=2")
    assert "2 prompt" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.num_generations=3", "divisible by"),
        ("trainer.num_generations=1", "at least 2"),
        ("trainer.zero_variance=skip", "no field zero_variance"),
        ("grpo.vote=rlhf_recipes.grpo.evaluation:no_such", "no_such"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(rloo, override, message):
    with pytest.raises(UserError, match=message) as error:
        rloo(override)
    assert "\n" not in str(error.value)
