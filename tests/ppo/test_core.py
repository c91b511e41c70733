"""The tensor functions against numbers worked by hand and a second, naive implementation."""

import math

import pytest
import torch

from rlhf_recipes.ppo import core

LENGTHS = torch.tensor([4, 2, 0, 3])


def fake_batch(seed=0, width=4):
    g = torch.Generator().manual_seed(seed)
    mask, value_mask = core.length_masks(LENGTHS, width)
    logprobs = -torch.rand(4, width, generator=g, dtype=torch.float64) * mask
    ref = -torch.rand(4, width, generator=g, dtype=torch.float64) * mask
    values = torch.randn(4, width, generator=g, dtype=torch.float64) * value_mask
    scores = torch.randn(4, generator=g, dtype=torch.float64)
    return mask, value_mask, logprobs, ref, values, scores


def test_masks_give_values_one_step_more():
    mask, value_mask = core.length_masks(torch.tensor([0, 1, 3]), 3)
    assert mask.tolist() == [[False] * 3, [True, False, False], [True] * 3]
    assert value_mask.tolist() == [[True, False, False], [True, True, False], [True] * 3]


def test_masked_mean_by_hand_and_of_nothing():
    x = torch.tensor([[1.0, 2.0], [4.0, 9.0]])
    assert core.masked_mean(x, torch.tensor([[True, True], [True, False]])).item() == pytest.approx(7 / 3)
    assert core.masked_mean(x, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


def test_whitening_by_hand():
    x, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])
    # mean 2, variance with Bessel's correction 2
    assert core.masked_whiten(x, mask).tolist()[0] == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2), 0.0])
    kept = core.masked_whiten(x, mask, shift_mean=False).tolist()[0]
    assert kept == pytest.approx([2 - 1 / math.sqrt(2), 2 + 1 / math.sqrt(2), 0.0])
    assert core.masked_whiten(x, torch.tensor([[True, False, False]])).tolist()[0] == [0.0, 0.0, 0.0]


def test_kl_estimators_by_hand():
    logp, logq = torch.tensor(math.log(0.5)), torch.tensor(math.log(0.25))
    assert core.kl_estimate(logp, logq, "k1").item() == pytest.approx(math.log(2))
    assert core.kl_estimate(logp, logq, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert core.kl_estimate(logp, logq, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_expected_estimate_is_the_full_kl(kind):
    g = torch.Generator().manual_seed(1)
    logits, ref = torch.randn(5, generator=g), torch.randn(5, generator=g)
    p, logp, logq = logits.softmax(-1), logits.log_softmax(-1), ref.log_softmax(-1)
    exact = sum(p[v].item() * (logp[v] - logq[v]).item() for v in range(5))
    assert core.full_kl(logits, ref).item() == pytest.approx(exact, abs=1e-6)
    assert (p * core.kl_estimate(logp, logq, kind)).sum().item() == pytest.approx(exact, abs=1e-6)


def test_full_kl_ignores_tokens_the_policy_cannot_draw():
    logits = torch.tensor([0.0, 0.0, float("-inf")])
    assert core.full_kl(logits, torch.zeros(3)).item() == pytest.approx(math.log(3 / 2))


def test_rewards_put_the_score_one_step_after_the_end():
    kl = torch.tensor([[0.1, 0.2, 0.0], [0.1, 0.2, 0.3]])
    rewards = core.token_rewards(torch.tensor([5.0, 7.0]), kl, 0.5, torch.tensor([2, 3]))
    assert rewards[0].tolist() == pytest.approx([-0.05, -0.1, 5.0])
    assert rewards[1].tolist() == pytest.approx([-0.05, -0.1, 7.0 - 0.15])


def test_gae_by_hand():
    # delta = [0 + .5 - 1, 1 + 0 - .5] = [-.5, .5]; A_1 = .5, A_0 = -.5 + .5 * .5
    adv, ret = core.gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.5]]), gamma=1.0, lam=0.5)
    assert adv.tolist()[0] == pytest.approx([-0.25, 0.5])
    assert ret.tolist()[0] == pytest.approx([0.75, 1.0])


def test_gae_is_the_sum_of_discounted_errors():
    mask, _, logp, ref, values, scores = fake_batch()
    rewards = core.token_rewards(scores, core.kl_estimate(logp, ref) * mask, 0.1, LENGTHS)
    adv, _ = core.gae(rewards, values, gamma=0.9, lam=0.7)
    for b in range(4):
        for t in range(4):
            naive = 0.0
            for k in range(t, 4):
                after = values[b, k + 1].item() if k < 3 else 0.0
                delta = rewards[b, k].item() + 0.9 * after - values[b, k].item()
                naive += (0.9 * 0.7) ** (k - t) * delta
            assert adv[b, t].item() == pytest.approx(naive)


def test_lambda_one_gives_the_reward_to_go_as_return():
    _, _, _, _, values, _ = fake_batch()
    rewards = torch.arange(16, dtype=torch.float64).view(4, 4)
    _, ret = core.gae(rewards, values, gamma=1.0, lam=1.0)
    assert torch.allclose(ret, rewards.flip(1).cumsum(1).flip(1))


def test_policy_loss_by_hand():
    old = torch.zeros(4)
    new = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), 0.0])
    adv = torch.tensor([1.0, -1.0, 1.0, 2.0])
    terms, clipped = core.clipped_policy_terms(new, old, adv, 0.2)
    assert terms.tolist() == pytest.approx([-1.2, 1.5, -0.5, -2.0])
    assert clipped.tolist() == [True, False, False, False]


def test_policy_gradient_is_zero_where_clipped():
    new = torch.tensor([math.log(1.5), 0.0], requires_grad=True)
    core.clipped_policy_terms(new, torch.zeros(2), torch.ones(2), 0.2)[0].sum().backward()
    assert new.grad.tolist() == [0.0, -1.0]


def test_value_loss_by_hand():
    terms, clipped = core.clipped_value_terms(torch.tensor([2.0, 0.1]), torch.zeros(2), torch.tensor([2.0, 1.0]), 0.2)
    # the first ran to its target: the clipped branch (0.2 - 2)^2 / 2 still pulls it back
    assert terms.tolist() == pytest.approx([1.62, 0.405])
    assert clipped.tolist() == [True, False]


def test_entropy_of_a_coin():
    assert core.entropy_from_logits(torch.tensor([0.0, 0.0, float("-inf")])).item() == pytest.approx(math.log(2))


def test_logprobs_from_logits_by_hand():
    logits = torch.tensor([[math.log(1.0), math.log(3.0)]])
    assert core.logprobs_from_logits(logits, torch.tensor([1])).item() == pytest.approx(math.log(0.75))


def test_explained_variance():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert core.explained_variance(returns + 5, returns, mask).item() == pytest.approx(1.0)
    assert core.explained_variance(torch.zeros(1, 3), returns, mask).item() == pytest.approx(0.0)
    assert core.explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)


def test_padding_width_changes_nothing():
    mask, _, logp, ref, values, scores = fake_batch()
    short = LENGTHS < 4  # a row that fills the width is paid at its last token instead, so it may not be widened

    def advantages(width):
        pad = [torch.nn.functional.pad(x[short], (0, width - 4)) for x in (mask, logp, ref, values)]
        rewards = core.token_rewards(scores[short], core.kl_estimate(pad[1], pad[2]), 0.1, LENGTHS[short])
        return core.masked_whiten(core.gae(rewards, pad[3], 1.0, 0.95)[0], pad[0])

    wide = advantages(9)
    assert torch.allclose(wide[:, :4], advantages(4)) and wide[:, 4:].abs().sum() == 0
