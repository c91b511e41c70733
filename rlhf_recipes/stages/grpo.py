"""Group-relative policy optimisation (arXiv:2402.03300) from the SFT model. Our GRPOTrainer on TRL's."""

import time

from omegaconf import DictConfig
from transformers import TrainerCallback

from rlhf_recipes import data, models
from rlhf_recipes.grpo import GRPOTrainer
from rlhf_recipes.grpo.held_out import HeldOut
from rlhf_recipes.rewards import RewardFunctions, load_function
from rlhf_recipes.rewards.from_config import build_rewards, function_spec
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, peft_config, show
from rlhf_recipes.training.kl import kl_controller
from rlhf_recipes.training.kl_control import KLControl
from rlhf_recipes.training.samples import SamplesFile, SamplesTable


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second.

    And eval_<name>_first and eval_<name> for what was measured on held-out prompts before training and after. kl_last
    is None where beta is 0: without a reference no KL is measured.
    """
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
    control, began_at = KLControl(controller), BeganAt()
    args.beta = controller.kl_coef
    adapter = peft_config(cfg, "CAUSAL_LM")
    shown = [SamplesTable(rows=cfg.grpo.sample_rows)] if cfg.grpo.sample_rows else []
    trainer = GRPOTrainer(
        models.load_policy(cfg.model, path, tokenizer),
        functions,
        args,
        # With an adapter the reference is the policy with its adapter switched off.
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if args.beta and not adapter else None,
        held_out=measured,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[*callbacks(run), SamplesFile(run.samples), *shown, control, began_at],
    )
    control.trainer = trainer  # GRPOTrainer reads its own copy of beta
    if cfg.preview:
        return show(trainer, "prompts", cfg.preview_rows)
    print(f"grpo: {models.parameters(trainer.model)}")
    began = time.time()
    fit(trainer, run)
    seconds = time.time() - began
    if trainer.eval_dataset is not None and trainer.args.eval_strategy != "no":
        trainer.evaluate()  # nothing, where the last step was measured
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size // args.num_iterations
    history = [row | {"episode": row["step"] * batch} for row in trainer.state.log_history]
    before = began_at.step * batch
    metrics = policy_metrics(history, controller.kl_coef, seconds, score="reward", kl="kl", before=before)
    return metrics | _measured(trainer.state.log_history)


class BeganAt(TrainerCallback):
    """The step that this process began at: 0, or a checkpoint's."""

    step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step


def policy_metrics(
    history: list[dict], kl_coef: float, seconds: float, *, score: str, kl: str, before: int = 0
) -> dict:
    """The summary figures PPO and GRPO share, from Trainer's log.

    Args:
        history: Trainer's log_history. A line whose score is None (none of its answers could be scored) is passed over.
        kl_coef: beta after the last update.
        seconds: of training.
        score: logged name of the mean score.
        kl: logged name of the KL, nats a response (PPO) or a token (GRPO), as TRL has them.
        before: episodes played before the run was resumed; `seconds` does not hold their time.
    """
    logged = [row for row in history if row.get(score) is not None]
    entropy = [row[k] for row in history for k in ("policy/entropy_avg", "entropy") if row.get(k) is not None]
    divergence = [row[kl] for row in history if row.get(kl) is not None]
    episodes = next((row["episode"] for row in reversed(history) if "episode" in row), None)
    return {
        "score_first": logged[0][score] if logged else None,
        "score_last": logged[-1][score] if logged else None,
        "kl_last": divergence[-1] if divergence else None,
        "kl_coef_last": kl_coef,
        "entropy_last": entropy[-1] if entropy else None,
        "episodes": episodes,
        "episodes_per_second": (episodes - before) / seconds if episodes else None,
    }


def _held_out(cfg: DictConfig, rewards: RewardFunctions) -> HeldOut:
    """What counts as right: grpo.accuracy, a reward's name or a function's path; else the domain's `exact`."""
    named, accuracy = cfg.grpo.accuracy, None
    if isinstance(named, str) and named in rewards.parts:

        def accuracy(prompts, completions, **columns):
            return rewards.score_by(named, prompts, completions, columns)

    elif named or cfg.data.get("exact"):
        accuracy = load_function(function_spec(named or cfg.data.exact))
    vote = load_function(function_spec(cfg.grpo.vote)) if cfg.grpo.vote else None
    return HeldOut(accuracy=accuracy, vote=vote, prompts=cfg.grpo.eval_prompts)


def _measured(history: list[dict]) -> dict:
    """eval_accuracy and its like: the first measurement, before training, and the last."""
    rows = [row for row in history if "eval_reward" in row]
    if not rows:
        return {}
    names = [
        n for n in rows[-1] if n == "eval_reward" or n.startswith(("eval_accuracy", "eval_majority", "eval_mean_at"))
    ]
    return {f"{n}_first": rows[0].get(n) for n in names} | {n: rows[-1][n] for n in names}
