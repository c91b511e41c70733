"""Whether the reward tells chosen from rejected, on ten held-out pairs. This loads the reward model."""

from omegaconf import DictConfig

from rlhf_recipes import data
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.artifacts import StageRun

PAIRS = 10


def told_apart(cfg: DictConfig, run: StageRun) -> str:
    """One line: of how many pairs the reward scores the chosen answer above the rejected one."""
    from rlhf_recipes.rewards.from_config import build_rewards  # torch where there is a model

    try:
        data.check(cfg.data, "preferences")
        held = data.load(cfg.data, "preferences", seed=cfg.seed).eval
        if not len(held):
            raise UserError("no pairs are held out; expected data.eval_fraction above 0")
        rows = [held[i] for i in range(min(PAIRS, len(held)))]
        rewards = build_rewards(cfg, run, optional=True)
        if rewards is None:
            return "reward: no model or function is at hand to try on pairs"
        prompts = [row["prompt"] for row in rows]
        columns = {n: [row[n] for row in rows] for n in rows[0] if n not in ("prompt", "chosen", "rejected")}
        chosen, rejected = (rewards(prompts, [row[n] for row in rows], columns)[0] for n in ("chosen", "rejected"))
    except UserError as error:
        return f"reward: not tried on pairs: {error}"
    scored = [pair for pair in zip(chosen, rejected, strict=True) if None not in pair]
    if not scored:
        return f"reward: not tried on pairs: it scores none of {len(rows)}"
    right = sum(a > b for a, b in scored)
    means = [sum(scores) / len(scored) for scores in zip(*scored, strict=True)]
    line = f"reward: scores the chosen answer higher in {right} of {len(scored)} held-out pairs; "
    line += f"mean score {means[0]:.3g} chosen, {means[1]:.3g} rejected"
    return line if 2 * right > len(scored) else f"{line}; that is no better than a coin: look at stage=reward first"
