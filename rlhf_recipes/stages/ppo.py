"""Stage 3 of InstructGPT: PPO against the reward signal with a KL penalty to the SFT model. Our PPOTrainer on TRL's."""

import shutil
import time
from pathlib import Path

from datasets import Dataset
from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.ppo import PPOTrainer
from rlhf_recipes.ppo.guards import check_launch
from rlhf_recipes.rewards.from_config import build_rewards
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.checkpoints import standing
from rlhf_recipes.stages.grpo import BeganAt, policy_metrics
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, peft_config, show
from rlhf_recipes.training.kl import kl_controller
from rlhf_recipes.training.kl_control import KLControl, KLRunaway
from rlhf_recipes.training.practice import PracticeWarnings
from rlhf_recipes.training.progress import HeldOut, TokensFile
from rlhf_recipes.training.samples import SamplesTable


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second.

    And `kept`, the step, KL and reward of the policy in model/, where the KL ran away and an earlier one was kept.
    """
    args = arguments(cfg, run)
    check_launch(args)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    tokenizer.padding_side = "left"
    room = models.room_for_prompt(cfg, path, args.response_length)
    rows = data.load(cfg.data, "prompts", tokenizer=tokenizer, max_prompt_length=room, seed=cfg.seed)
    print(rows.describe())
    controller = kl_controller(cfg)
    args.kl_coef = controller.kl_coef
    adapter = peft_config(cfg, "CAUSAL_LM")
    runaway = KLRunaway(cfg.ppo.max_kl) if cfg.ppo.max_kl is not None else None
    value_model = _critic(cfg, run, tokenizer)
    trainer = PPOTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        args=args,
        processing_class=tokenizer,
        reward_funcs=build_rewards(cfg, run, watch_gold=True, tokenizer=tokenizer),
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        value_model=value_model,
        peft_config=adapter,
        value_peft_config=peft_config(cfg, "SEQ_CLS") if value_model is not None else None,
        ptx_dataset=_corpus(cfg, tokenizer) if args.ptx_coef else None,
        callbacks=[
            *callbacks(run),
            KLControl(controller),
            TokensFile(run.dir / "tokens.jsonl"),
            *_watching(cfg),
            *([runaway] if runaway else []),
        ],
    )
    if cfg.preview:
        return show(trainer, "prompts", cfg.preview_rows)
    print(
        f"ppo: {models.parameters(trainer.model)}; {trainer.plan.updates} updates of {trainer.plan.batch_size} episodes"
    )
    trainer.add_callback(HeldOut(trainer, run.samples))
    trainer.add_callback(began_at := BeganAt())
    began = time.time()
    fit(trainer, run)
    seconds = time.time() - began
    kept = _keep_best(runaway, trainer, run.model) if runaway is not None and runaway.stopped else {}
    history = trainer.state.log_history
    before = max((row["episode"] for row in history if row["step"] <= began_at.step and "episode" in row), default=0)
    metrics = policy_metrics(
        history, controller.kl_coef, seconds, score="objective/scores", kl="objective/kl", before=before
    )
    return metrics | kept


def _keep_best(runaway: KLRunaway, trainer: PPOTrainer, model: Path) -> dict:
    """The KL ran away: the policy kept before it did is what the stage leaves."""
    best = standing(Path(trainer.args.output_dir) / runaway.folder)
    if best is None:
        return {}
    if trainer.is_world_process_zero():
        shutil.copytree(best, model, dirs_exist_ok=True, ignore=shutil.ignore_patterns(runaway.FIGURES))
    return {"kept": runaway.kept}


def _critic(cfg: DictConfig, run: StageRun, tokenizer):
    """The critic from the reward model; None, a value head on the policy's body, where that reads other tokens."""
    if "value_model" not in run.inputs:
        return None
    path = run.inputs["value_model"]["path"]
    own = models.load_tokenizer(models.plain(cfg.model), path)
    if own.get_vocab() != tokenizer.get_vocab():
        print(
            f"the critic cannot start from {path}: its vocabulary is not the policy's; a value head on the policy it is"
        )
        return None
    return models.load_reward_model(cfg.model, path, tokenizer, seed=cfg.seed)


def _watching(cfg: DictConfig) -> list:
    """What a practitioner watches: answers on the screen and in wandb, signs of trouble."""
    return [
        PracticeWarnings(gold="reward/gold" if cfg.data.get("gold") else None),
        SamplesTable(rows=cfg.ppo.sample_rows, tokens=cfg.ppo.token_view),
    ]


def _corpus(cfg: DictConfig, tokenizer) -> Dataset:
    return data.load(cfg.data, "corpus", tokenizer=tokenizer, seed=cfg.seed).train
