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
    right = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    means = f"mean score {sum(chosen) / len(rows):.3g} chosen, {sum(rejected) / len(rows):.3g} rejected"
    line = f"reward: scores the chosen answer higher in {right} of {len(rows)} held-out pairs; {means}"
    return line if 2 * right > len(rows) else f"{line}; that is no better than a coin: look at stage=reward first"
