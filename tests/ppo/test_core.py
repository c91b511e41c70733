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


# ---- a second, naive implementation: loops over Python numbers ----


@pytest.fixture(params=range(6))
def ragged(request):
    """A batch of random size whose rows have random lengths, with noise, not zeros, where there is no token."""
    g = torch.Generator().manual_seed(request.param)
    rows, width = (int(torch.randint(low, high, (), generator=g)) for low, high in ((1, 7), (2, 9)))
    lengths = torch.randint(0, width + 1, (rows,), generator=g)
    names = ("logprobs", "ref", "old", "values", "old_values", "returns", "advantages", "kl", "rewards")
    noise = {name: torch.randn(rows, width, generator=g, dtype=torch.float64) for name in names}
    return noise | {"lengths": lengths, "scores": torch.randn(rows, generator=g, dtype=torch.float64)}


def each(function, *tensors):
    """A tensor of what a function gives for each entry."""
    numbers = [function(*entry) for entry in zip(*(t.flatten().tolist() for t in tensors), strict=True)]
    return torch.tensor(numbers, dtype=torch.float64).view(tensors[0].shape)


def real(lengths, x):
    """The entries of x on tokens, row after row."""
    return [x[b, t].item() for b, n in enumerate(lengths.tolist()) for t in range(n)]


def test_masks_and_means_equal_loops(ragged):
    lengths, x = ragged["lengths"], ragged["values"]
    mask, value_mask = core.length_masks(lengths, x.shape[1])
    for b, n in enumerate(lengths.tolist()):
        for t in range(x.shape[1]):
            assert mask[b, t].item() == (t < n) and value_mask[b, t].item() == (t <= n)
    tokens = real(lengths, x)
    assert core.masked_mean(x, mask).item() == pytest.approx(sum(tokens) / max(1, len(tokens)))


@pytest.mark.parametrize("shift", [True, False])
def test_whitening_equals_loops(ragged, shift):
    lengths, x = ragged["lengths"], ragged["advantages"]
    mask, _ = core.length_masks(lengths, x.shape[1])
    tokens = real(lengths, x)
    mean = sum(tokens) / max(1, len(tokens))
    scale = 1.0
    if len(tokens) > 1:
        scale = 1 / math.sqrt(sum((v - mean) ** 2 for v in tokens) / (len(tokens) - 1) + 1e-8)
    want = [(v - mean) * scale + (0 if shift else mean) for v in tokens]
    white = core.masked_whiten(x, mask, shift_mean=shift)
    assert real(lengths, white) == pytest.approx(want) and white[~mask].abs().sum() == 0


def test_token_rewards_equal_loops(ragged):
    rewards = core.token_rewards(ragged["scores"], ragged["kl"], 0.3, ragged["lengths"])
    for b, n in enumerate(ragged["lengths"].tolist()):
        row = [-0.3 * kl for kl in ragged["kl"][b].tolist()]
        row[n if n < len(row) else n - 1] += ragged["scores"][b].item()
        assert rewards[b].tolist() == pytest.approx(row)


def test_gae_equals_loops(ragged):
    rewards, values = ragged["rewards"], ragged["values"]
    adv, ret = core.gae(rewards, values, gamma=0.97, lam=0.8)
    for b in range(len(rewards)):
        r, v = rewards[b].tolist(), [*values[b].tolist(), 0.0]
        for t in range(len(r)):
            errors = [r[k] + 0.97 * v[k + 1] - v[k] for k in range(t, len(r))]
            want = sum((0.97 * 0.8) ** i * e for i, e in enumerate(errors))
            assert adv[b, t].item() == pytest.approx(want) and ret[b, t].item() == pytest.approx(want + v[t])


def test_policy_loss_equals_loops(ragged):
    def term(new, old, a):
        ratio = math.exp(new - old)
        return max(-a * ratio, -a * min(max(ratio, 0.8), 1.2))

    def is_clipped(new, old, a):  # only where the ratio ran the way the advantage pushed it
        return (a > 0 and math.exp(new - old) > 1.2) or (a < 0 and math.exp(new - old) < 0.8)

    given = [ragged[name] for name in ("logprobs", "old", "advantages")]
    terms, clipped = core.clipped_policy_terms(*given, 0.2)
    torch.testing.assert_close(terms, each(term, *given))
    assert clipped.tolist() == each(is_clipped, *given).bool().tolist()


def test_value_loss_equals_loops(ragged):
    def term(value, old, target):
        near = min(max(value, old - 0.5), old + 0.5)
        return max((value - target) ** 2, (near - target) ** 2) / 2

    def is_clipped(value, old, target):
        return term(value, old, target) > (value - target) ** 2 / 2

    given = [ragged[name] for name in ("values", "old_values", "returns")]
    terms, clipped = core.clipped_value_terms(*given, 0.5)
    torch.testing.assert_close(terms, each(term, *given))
    assert clipped.tolist() == each(is_clipped, *given).bool().tolist()


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("k1", lambda p, q: math.log(math.exp(p) / math.exp(q))),
        ("k2", lambda p, q: math.log(math.exp(p) / math.exp(q)) ** 2 / 2),
        ("k3", lambda p, q: math.exp(q) / math.exp(p) - 1 - math.log(math.exp(q) / math.exp(p))),
    ],
)
def test_kl_estimates_equal_loops(ragged, kind, formula):
    p, q = ragged["logprobs"], ragged["ref"]
    torch.testing.assert_close(core.kl_estimate(p, q, kind), each(formula, p, q))


def test_entropy_logprobs_and_full_kl_equal_loops(ragged):
    """The rows are read as logits of a vocabulary as wide; one entry of each is out of the question."""
    z, w = ragged["logprobs"].float(), ragged["ref"].float()
    z[:, 0] = -math.inf
    for b in range(len(z)):
        p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (z[b].tolist(), w[b].tolist()))
        entropy = -sum(x * math.log(x) for x in p if x > 0)
        kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)
        assert core.entropy_from_logits(z[b]).item() == pytest.approx(entropy, abs=1e-5)
        assert core.full_kl(z[b], w[b]).item() == pytest.approx(kl, abs=1e-5)
        for token in range(1, len(p)):
            got = core.logprobs_from_logits(z[b], torch.tensor(token)).item()
            assert got == pytest.approx(math.log(p[token]), abs=1e-5)


def test_explained_variance_equals_loops(ragged):
    lengths, values, returns = ragged["lengths"], ragged["values"], ragged["returns"]
    mask, _ = core.length_masks(lengths, values.shape[1])
    v, r = real(lengths, values), real(lengths, returns)
    if len(r) < 2:
        pytest.skip("no variance")

    def variance(x):
        return sum((y - sum(x) / len(x)) ** 2 for y in x) / len(x)

    want = 1 - variance([a - b for a, b in zip(r, v, strict=True)]) / variance(r)
    assert core.explained_variance(values, returns, mask).item() == pytest.approx(want)


def test_padding_width_changes_nothing():
    mask, _, logp, ref, values, scores = fake_batch()
    short = LENGTHS < 4  # a row that fills the width is paid at its last token instead, so it may not be widened

    def advantages(width):
        pad = [torch.nn.functional.pad(x[short], (0, width - 4)) for x in (mask, logp, ref, values)]
        rewards = core.token_rewards(scores[short], core.kl_estimate(pad[1], pad[2]), 0.1, LENGTHS[short])
        return core.masked_whiten(core.gae(rewards, pad[3], 1.0, 0.95)[0], pad[0])

    wide = advantages(9)
    assert torch.allclose(wide[:, :4], advantages(4)) and wide[:, 4:].abs().sum() == 0
