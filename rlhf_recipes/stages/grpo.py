"""Group-relative policy optimisation (arXiv:2402.03300) from the SFT model. Our GRPOTrainer on TRL's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.errors import UserError, suggest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.rewards import RewardFunctions
    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="grpo",
    title="GRPO",
    order=70,
    starts_from={"policy": ("sft", "base"), "reward_model": ("reward", "none")},
    rows=("prompts",),
    makes="policy",
    learns_from="reward",
    scores=True,
    figures=(Figure("score_last", "score"),),  # its KL is a token's mean and does not compare with PPO's
)

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")  # of TRL 1.12


def check(cfg: DictConfig, run: StageRun) -> None:
    """Raise UserError for a loss that TRL has not: it would only notice once it computes the loss."""
    loss = cfg.trainer.get("loss_type")
    if loss is not None and loss not in LOSSES:
        raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(str(loss), LOSSES)}")


def trainer(cfg: DictConfig, run: StageRun):
    """GRPOTrainer on prompts, with the reward signal's parts as its reward functions and beta under a controller."""
    from rlhf_recipes import data, models
    from rlhf_recipes.grpo import GRPOTrainer
    from rlhf_recipes.rewards.from_config import build_rewards
    from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, peft_config
    from rlhf_recipes.training.kl import kl_controller
    from rlhf_recipes.training.kl_control import KLControl
    from rlhf_recipes.training.samples import SamplesFile, SamplesTable
    from rlhf_recipes.training.updates import UpdateSummary

    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    room = models.room_for_prompt(cfg, path, args.max_completion_length)
    rows = data.load(cfg.data, "prompts", tokenizer=tokenizer, max_prompt_length=room, seed=cfg.seed)
    print(rows.describe())
    rewards = build_rewards(cfg, run)
    measured = _held_out(cfg, rewards)
    functions, args.reward_weights = rewards.trl_functions()
    controller = kl_controller(cfg)
    args.beta = controller.kl_coef
    adapter = peft_config(cfg, "CAUSAL_LM")
    shown = [SamplesTable(rows=cfg.grpo.sample_rows)] if cfg.grpo.sample_rows else []
    return GRPOTrainer(
        models.load_policy(cfg.model, path, tokenizer),
        functions,
        args,
        # With an adapter the reference is the policy with its adapter switched off.
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if args.beta and not adapter else None,
        eval_settings=measured,
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[
            *callbacks(run),
            SamplesFile(run.samples),
            *shown,
            KLControl(controller),
            UpdateSummary(controller),
        ],
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second.

    And eval_<name>_first and eval_<name> for what was measured on held-out prompts before training and after. kl_last
    is None where beta is 0: without a reference no KL is measured.
    """
    from rlhf_recipes import models
    from rlhf_recipes.training.fit import fit, show
    from rlhf_recipes.training.updates import UpdateSummary, callback_of

    training = trainer(cfg, run)
    if cfg.preview:
        return show(training, "prompts", cfg.preview_rows)
    print(f"grpo: {models.parameters(training.model)}")
    fit(training, run)
    if training.eval_dataset is not None and training.args.eval_strategy != "no":
        training.evaluate()  # nothing, where the last step was measured
    return callback_of(training, UpdateSummary).metrics() | _measured(training.state.log_history)


def _held_out(cfg: DictConfig, rewards: RewardFunctions):
    """What counts as right: grpo.accuracy, a reward's name or a function's path; else the domain's `exact`."""
    from rlhf_recipes.grpo.evaluation import EvalSettings
    from rlhf_recipes.rewards import load_function
    from rlhf_recipes.rewards.from_config import function_spec

    named, accuracy = cfg.grpo.accuracy, None
    if isinstance(named, str) and named in rewards.parts:

        def accuracy(prompts, completions, **columns):
            return rewards.score_by(named, prompts, completions, columns)

    elif named or cfg.data.get("exact"):
        accuracy = load_function(function_spec(named or cfg.data.exact))
    vote = load_function(function_spec(cfg.grpo.vote)) if cfg.grpo.vote else None
    return EvalSettings(accuracy=accuracy, vote=vote, prompts=cfg.grpo.eval_prompts)


def _measured(history: list[dict]) -> dict:
    """eval_accuracy and its like: the first measurement, before training, and the last."""
    rows = [row for row in history if "eval_reward" in row]
    if not rows:
        return {}
    names = [
        n for n in rows[-1] if n == "eval_reward" or n.startswith(("eval_accuracy", "eval_majority", "eval_mean_at"))
    ]
    return {f"{n}_first": rows[0].get(n) for n in names} | {n: rows[-1][n] for n in names}
