"""The curves over training steps, in the order of the page: quantity, unit, and what a healthy one looks like."""

from typing import NamedTuple


class Curve(NamedTuple):
    """A chart of quantities of `run.NAMES`, drawn for the stages that logged them."""

    stages: tuple[str, ...]
    title: str
    unit: str
    lines: dict[str, str]  # label -> quantity; of several runs only the first is overlaid
    how: str
    below: str = ""  # the title of the chart that it stands under


TEXT, PAIRS, POLICY = ("pretrain", "sft"), ("reward", "dpo"), ("ppo", "grpo")
LOSS = {"train": "loss", "held-out": "eval_loss"}
ACCURACY = {"train": "accuracy", "held-out": "eval_accuracy"}


def _policy(quantity: str, title: str, unit: str, how: str, below: str = "") -> Curve:
    return Curve(POLICY, title, unit, {title.lower(): quantity}, how, below)


CURVES = (
    Curve(TEXT, "Loss", "nats a token", LOSS, "Held-out rising: too many epochs."),
    Curve(PAIRS, "Loss", "nats a pair", LOSS, "ln 2 = 0.69 is a coin."),
    Curve(PAIRS, "Accuracy", "share of pairs", ACCURACY, "Higher, up to the label ceiling."),
    _policy("score", "Score", "reward signal", "What the policy is trained to raise, before the KL penalty."),
    _policy("gold", "Gold score", "gold", "What is true. If it falls while the score rises, the score is being gamed."),
    _policy("kl", "KL to the reference", "nats a response", "Should settle near the target; below 0 is a fault."),
    _policy(
        "kl_coef",
        "Beta",
        "kl_coef",
        "The price of KL. If adaptive, it rises while KL is above its target.",
        below="KL to the reference",
    ),
    _policy("win_rate", "Win rate", "share", "Of decided held-out comparisons with the answers before training."),
    _policy("length", "Length", "tokens a response", "A steady climb: the reward may only like long answers."),
    _policy("eos_rate", "Ended by EOS", "share", "Near 1, or answers are cut off before they are scored."),
    _policy("entropy", "Entropy", "nats a token", "Falls slowly; near 0 nothing new is tried any more."),
    _policy(
        "explained_variance", "Explained variance", "share", "Of the returns, by the critic. 1 is perfect, 0 useless."
    ),
    _policy("clip_fraction", "Clip fraction", "share of tokens", "0.02 to 0.2. Above: a lower rate or fewer epochs."),
    _policy("approxkl", "KL of an update", "nats a token", "Below about 0.02, or the update went too far."),
    _policy("policy_loss", "Policy loss", "clipped surrogate", "Near 0, slightly below: each update begins anew."),
    _policy("value_loss", "Value loss", "score squared", "Falls, then follows the spread of the returns."),
    Curve(
        ("grpo",),
        "Loss",
        "GRPO's objective, reversed",
        {"loss": "loss"},
        "Stays near 0: no sign of progress or of none.",
    ),
    Curve((*TEXT, *PAIRS, *POLICY), "Gradient norm", "before clipping", {"norm": "grad_norm"}, "Spikes: instability."),
)
