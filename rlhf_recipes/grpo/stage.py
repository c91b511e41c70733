"""What stages of groups share: a trainer from the config, and the figures that it leaves."""

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.errors import UserError
from rlhf_recipes.grpo.evaluation import EvalSettings
from rlhf_recipes.rewards import RewardFunctions, load_function
from rlhf_recipes.rewards.from_config import build_rewards, function_spec
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, fit, peft_config, previewed
from rlhf_recipes.training.kl import kl_controller
from rlhf_recipes.training.kl_control import KLControl
from rlhf_recipes.training.samples import SamplesFile, SamplesTable
from rlhf_recipes.training.updates import UpdateSummary, callback_of


def group_trainer(kind: type, cfg: DictConfig, run: StageRun):
    """A trainer on prompts, with the reward functions of the config and beta under a controller.

    Args:
        kind: its class, a GroupTrainer.
    """
    args, controller, adapter = arguments(cfg, run), kl_controller(cfg), peft_config(cfg, "CAUSAL_LM")
    args.beta = controller.kl_coef
    if args.sync_ref_model and (adapter or not args.beta):
        held = "with peft the reference is the model without its adapter" if adapter else "with beta 0 there is none"
        raise UserError(f"trainer.sync_ref_model=true moves a reference, and {held}; set trainer.sync_ref_model=false")
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    room = models.room_for_prompt(cfg, path, args.max_completion_length)
    rows = data.load(cfg.data, "prompts", tokenizer=tokenizer, max_prompt_length=room, seed=cfg.seed)
    print(rows.describe())
    rewards = build_rewards(cfg, run, tokenizer=tokenizer)
    eval_settings = _eval_settings(cfg, rewards)
    functions, args.reward_weights = rewards.trl_functions()
    # With an adapter the reference is the policy with its adapter switched off, if that is where training starts.
    copied = args.beta and (not adapter or models.adapters.moves_base(adapter))
    table = [SamplesTable(rows=cfg.grpo.sample_rows)] if cfg.grpo.sample_rows else []
    return kind(
        models.load_policy(cfg.model, path, tokenizer),
        functions,
        args,
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if copied else None,
        eval_settings=eval_settings,
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[
            *callbacks(run),
            SamplesFile(run.samples),
            *table,
            KLControl(controller),
            UpdateSummary(controller),
        ],
    )


def train_on_groups(training, cfg: DictConfig, run: StageRun) -> dict:
    """Show, or train and measure.

    Returns:
        UpdateSummary's figures; kl_last is nats a token, and None where beta is 0: without a reference no KL is
        measured. And eval_<name>_first and eval_<name>, measured on held-out prompts before training and after.
    """
    if previewed(training, cfg, "prompts"):
        return {}
    fit(training, run)
    if training.eval_dataset is not None and training.args.eval_strategy != "no":
        training.evaluate()  # nothing, where the last step was measured
    metrics = callback_of(training, UpdateSummary).metrics()
    rows = [row for row in training.state.log_history if "eval_reward" in row]
    if training.args.load_best_model_at_end:  # which is what model/ holds
        rows = [rows[0], *(row for row in rows if row["step"] == training.state.best_global_step)]
    chosen = ("eval_accuracy", "eval_majority", "eval_mean_at")
    names = [n for n in (rows[-1] if rows else {}) if n == "eval_reward" or n.startswith(chosen)]
    return metrics | {f"{n}_first": rows[0].get(n) for n in names} | {n: rows[-1][n] for n in names}


def _eval_settings(cfg: DictConfig, rewards: RewardFunctions) -> EvalSettings:
    """What counts as right: grpo.accuracy, a reward's name or a function's path; else the domain's `exact`."""
    named, accuracy = cfg.grpo.accuracy, None
    if isinstance(named, str) and named in rewards.parts:

        def accuracy(prompts, completions, **columns):
            return rewards.score_by(named, prompts, completions, columns)

    elif named or cfg.data.get("exact"):
        accuracy = load_function(function_spec(named or cfg.data.exact))
    vote = load_function(function_spec(cfg.grpo.vote)) if cfg.grpo.vote else None
    return EvalSettings(accuracy=accuracy, vote=vote, prompts=cfg.grpo.eval_prompts)
