"""Groups that teach nothing: found, counted, left out, drawn again."""

import pytest
import torch

from rlhf_recipes.errors import UserError
from rlhf_recipes.grpo import groups

NAN = float("nan")


def test_a_group_is_silent_where_nothing_differs_or_nothing_was_scored():
    rewards = torch.tensor([1, 1, 0, 1, NAN, NAN, 1, NAN, 0.5, 0.5])
    assert groups.silent(rewards, 2).tolist() == [True, True, False, False, True, True, True, True, True, True]
    assert groups.silent(torch.tensor([1.0, 1.0, NAN, 2.0]), 4).tolist() == [False] * 4


def test_functions_normalised_apart_must_all_be_silent():
    both = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 2.0], [1.0, 3.0]])
    assert groups.silent(both, 2).tolist() == [True, True, False, False]


def test_batches_are_joined_on_their_own_sides():
    short = {"prompt_ids": torch.tensor([[5]]), "completion_ids": torch.tensor([[6, 7]]), "n": torch.tensor(3.0)}
    long = {"prompt_ids": torch.tensor([[8, 9]]), "completion_ids": torch.tensor([[4]]), "n": torch.tensor(5.0)}
    joined = groups.join([short, long], pad_token=0)
    assert joined["prompt_ids"].tolist() == [[0, 5], [8, 9]]
    assert joined["completion_ids"].tolist() == [[6, 7], [4, 0]]
    assert joined["n"] == 3
    with pytest.raises(UserError, match="pixel_values"):
        groups.join([{"pixel_values": torch.zeros(1, 2, 3)}] * 2, pad_token=0)


def lively(prompts, completions, number, **columns):
    """Even questions score alike whatever is said; odd ones by the letters said."""
    return [float(len(c)) * (n % 2) for c, n in zip(completions, number, strict=True)]


def batch(trainer, *numbers):
    """A generation batch as the data loader gives it."""
    return [{"prompt": f"Question {n}:", "number": n} for n in numbers for _ in range(trainer.num_generations)]


def gradient(trainer, generated, loss_type):
    """Of one optimizer step over all micro-batches of a generation batch."""
    trainer.loss_type = loss_type
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer._generate_and_score_completions = lambda inputs: dict(generated)
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.model.zero_grad()
    for _ in range(trainer.args.gradient_accumulation_steps):
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(None)).backward()
        trainer._step += 1
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_skipping_is_training_on_the_other_groups_alone(trainer, loss_type, micro_batches):
    """Without a KL a silent group has no gradient: kept, it only makes the mean smaller, by rows or by tokens."""
    sizes = {"per_device_train_batch_size": 16 // micro_batches, "gradient_accumulation_steps": micro_batches}
    one = trainer(lively, zero_variance="skip", **sizes)
    one.model.train()
    torch.manual_seed(1)
    skipped = one._generate_and_score_completions(batch(one, 0, 1, 2, 3))
    assert skipped["taught"].sum() == 8
    mask, taught = skipped["completion_mask"], skipped["taught"]
    assert skipped["num_items_in_batch"] == mask[taught].sum()
    ours = gradient(one, skipped, loss_type)
    kept = {name: v for name, v in skipped.items() if name not in ("taught", "mean_taught")}
    trl = gradient(one, kept | {"num_items_in_batch": mask.sum()}, loss_type)
    ratio = mask.sum() / mask[taught].sum() if loss_type == "dapo" else 2.0
    assert ours.norm() > 0
    torch.testing.assert_close(ours, trl * ratio, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_what_is_kept_because_another_process_has_more_rows_counts_nothing(trainer, loss_type):
    one = trainer(lively, zero_variance="skip", per_device_train_batch_size=16)
    one.model.train()
    torch.manual_seed(1)
    generated = one._generate_and_score_completions(batch(one, 0, 1, 2, 3))
    alone = gradient(one, generated, loss_type)
    one._most = lambda count: int(count) + 3
    assert len(one._prepare_inputs(None)["completion_mask"]) == 11
    torch.testing.assert_close(gradient(one, generated, loss_type), alone, rtol=1e-3, atol=1e-6)
    assert alone.norm() > 0


def test_a_batch_of_silent_groups_only_moves_nothing(trainer):
    one = trainer(lively, zero_variance="skip")
    one.model.train()
    generated = one._generate_and_score_completions(batch(one, 0, 2))
    assert gradient(one, generated, "dapo").abs().max() == 0
    assert one._metrics["train"]["groups/trained"] == [0.0]


def test_resampling_fills_the_batch_with_groups_that_differ(trainer):
    one = trainer(lively, zero_variance="resample", max_resamples=20)
    one.model.train()
    torch.manual_seed(0)
    generated = one._generate_and_score_completions(batch(one, 0, 2))
    assert generated["taught"].all()
    said = one.processing_class.batch_decode(generated["prompt_ids"], skip_special_tokens=True)
    assert len(said) == 8
    assert all(int(prompt.strip(" :").split()[-1]) % 2 for prompt in said)
    assert one._metrics["train"]["groups/resamples"][0] >= 1
    assert len(one._metrics["train"]["frac_reward_zero_std"]) == 1 + one._metrics["train"]["groups/resamples"][0]


def test_resampling_ends(trainer):
    one = trainer(lambda completions, **kwargs: [1.0] * len(completions), zero_variance="resample", max_resamples=2)
    one.model.train()
    generated = one._generate_and_score_completions(batch(one, 1, 3))
    assert not generated["taught"].any()
    assert one._metrics["train"]["groups/resamples"] == [2.0]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_share_is_of_groups_however_rewards_are_scaled(trainer, scale):
    """TRL logs 0 or 1 for scale_rewards=batch."""
    one = trainer(lively, scale_rewards=scale)
    one.model.train()
    one._generate_and_score_completions(batch(one, 0, 1))
    assert one._metrics["train"]["frac_reward_zero_std"] == [0.5]
    assert "taught" not in one._generate_and_score_completions(batch(one, 0, 1))


def test_a_group_that_nothing_scores_counts_as_silent(trainer):
    one = trainer(
        lambda completions, number, **kwargs: [
            None if n == 0 else float(len(c)) for c, n in zip(completions, number, strict=True)
        ]
    )
    one.model.train()
    one._generate_and_score_completions(batch(one, 0, 1))
    assert one._metrics["train"]["frac_reward_zero_std"] == [0.5]


def by_place(completions, **columns):
    return [1.0, 0.8, None, 0.9][: len(completions)]


def watched(completions, **columns):
    return [3.0, 5.0, 7.0, 9.0][: len(completions)]


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_metric_of_weight_0_is_logged_and_never_felt(trainer, aggregation):
    """TRL takes the third row for scored, since the metric has a number there."""
    given = {"scale_rewards": "none", "multi_objective_aggregation": aggregation, "per_device_train_batch_size": 4}
    found = []
    for functions, weights in ([by_place], [1.0]), ([by_place, watched], [1.0, 0.0]):
        one = trainer(functions, reward_weights=weights, **given)
        one.model.train()
        found.append(one._generate_and_score_completions(batch(one, 1))["advantages"])
    torch.testing.assert_close(found[1], found[0])
    assert found[1][2] == 0
    if aggregation == "sum_then_normalize":
        torch.testing.assert_close(found[1], torch.tensor([0.1, -0.1, 0.0, 0.0]))
    assert one._metrics["train"]["rewards/watched/mean"] == [6.0]
    assert one._metrics["train"]["rewards/watched/std"] == [pytest.approx((20 / 3) ** 0.5)]
    assert list(one._logs["rewards"]["watched"]) == [3.0, 5.0, 7.0, 9.0]
    assert one._metrics["train"]["reward"] == [pytest.approx(0.9)]
