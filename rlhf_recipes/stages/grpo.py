"""Group-relative policy optimisation (arXiv:2402.03300) from the SFT model. TRL's GRPOTrainer."""

import time

from omegaconf import DictConfig
from trl import GRPOTrainer

from rlhf_recipes import data, models
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.callbacks import KLControl
from rlhf_recipes.rewards.combine import as_grpo_functions
from rlhf_recipes.signal import build_signal, kl_controller
from rlhf_recipes.training import arguments, callbacks, fit, held_out, peft_config, show


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second."""
    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    room = models.room_for_prompt(cfg, path, args.max_completion_length)
    rows = data.load(cfg.data, "prompts", tokenizer=tokenizer, max_prompt_length=room, seed=cfg.seed)
    print(rows.describe())
    functions, args.reward_weights = as_grpo_functions(build_signal(cfg, run))
    controller = kl_controller(cfg)
    control = KLControl(controller)
    args.beta = controller.kl_coef
    trainer = GRPOTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        reward_funcs=functions,
        args=args,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=peft_config(cfg, "CAUSAL_LM"),
        callbacks=[*callbacks(run), control],
    )
    control.trainer = trainer  # GRPOTrainer reads its own copy of beta
    if cfg.preview:
        return show(trainer, "prompts", cfg.preview_rows)
    print(f"grpo: {models.parameters(trainer.model)}")
    began = time.time()
    fit(trainer, run)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    history = [row | {"episode": row["step"] * batch} for row in trainer.state.log_history]
    return policy_metrics(history, controller.kl_coef, time.time() - began, score="reward", kl="kl")


def policy_metrics(history: list[dict], kl_coef: float, seconds: float, *, score: str, kl: str) -> dict:
    """The summary figures PPO and GRPO share, from Trainer's log.

    Args:
        history: Trainer's log_history.
        kl_coef: beta after the last update.
        seconds: of training.
        score: logged name of the mean score.
        kl: logged name of the KL, nats a response (PPO) or a token (GRPO), as TRL has them.
    """
    logged = [row for row in history if score in row]
    entropy = [row[k] for row in logged for k in ("policy/entropy_avg", "entropy") if k in row]
    episodes = next((row["episode"] for row in reversed(logged) if "episode" in row), None)
    return {
        "score_first": logged[0][score] if logged else None,
        "score_last": logged[-1][score] if logged else None,
        "kl_last": logged[-1].get(kl) if logged else None,
        "kl_coef_last": kl_coef,
        "entropy_last": entropy[-1] if entropy else None,
        "episodes": episodes,
        "episodes_per_second": episodes / seconds if episodes else None,
    }
