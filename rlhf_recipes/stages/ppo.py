"""Stage 3 of InstructGPT: PPO against the reward signal, with a KL penalty to the SFT model. Our PPOTrainer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="ppo",
    title="PPO",
    order=50,
    starts_from={
        "policy": ("sft", "base"),  # also the reference
        "reward_model": ("reward", "none"),  # what reward=model scores with
        "value_model": ("reward", "none"),  # where the critic starts; without it, a value head on the policy's body
    },
    rows=("prompts",),
    makes="policy",
    learns_from="reward",
    scores=True,
    figures=(Figure("score_last", "score"), Figure("kl_last", "KL", 1)),
)


def trainer(cfg: DictConfig, run: StageRun):
    """PPOTrainer on prompts, with the reward signal, a critic, and beta under a controller."""
    from rlhf_recipes import data, models
    from rlhf_recipes.ppo import PPOTrainer
    from rlhf_recipes.ppo.guards import check_launch
    from rlhf_recipes.rewards.from_config import build_rewards
    from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, peft_config
    from rlhf_recipes.training.kl import kl_controller
    from rlhf_recipes.training.kl_control import KLControl, KLRunaway
    from rlhf_recipes.training.samples import TokensFile
    from rlhf_recipes.training.updates import UpdateSummary

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
    value_model, adapter = _critic(cfg, run, tokenizer), peft_config(cfg, "CAUSAL_LM")
    copied = models.adapters.moves_base(adapter)  # the policy without its adapter is not where training starts
    return PPOTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        args=args,
        processing_class=tokenizer,
        reward_funcs=build_rewards(cfg, run, watch_gold=True, tokenizer=tokenizer),
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if copied else None,
        value_model=value_model,
        peft_config=adapter,
        value_peft_config=peft_config(cfg, "SEQ_CLS") if value_model is not None else None,
        ptx_dataset=_corpus(cfg, tokenizer) if args.ptx_coef else None,
        callbacks=[
            *callbacks(run),
            KLControl(controller),
            UpdateSummary(controller),
            TokensFile(run.dir / "tokens.jsonl"),
            *_watching(cfg),
            *([KLRunaway(cfg.ppo.max_kl)] if cfg.ppo.max_kl is not None else []),
        ],
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns score_first, score_last, kl_last, kl_coef_last, entropy_last, episodes, episodes_per_second.

    And `kept`, the step, KL and reward of the policy in model/, where the KL ran away and an earlier one was kept.
    """
    from rlhf_recipes.training.fit import fit, previewed
    from rlhf_recipes.training.kl_control import KLRunaway
    from rlhf_recipes.training.samples import ComparedSamples
    from rlhf_recipes.training.updates import UpdateSummary, callback_of

    training = trainer(cfg, run)
    if previewed(training, cfg, "prompts", f"; {training.plan.updates} updates of {training.plan.batch_size} episodes"):
        return {}
    training.add_callback(ComparedSamples(training, run.samples))
    runaway = callback_of(training, KLRunaway)
    fit(training, run, finish=runaway and partial(runaway.leave_best, training.args))
    kept = {"kept": runaway.kept} if runaway and runaway.stopped and runaway.kept else {}
    return callback_of(training, UpdateSummary).metrics() | kept


def _critic(cfg: DictConfig, run: StageRun, tokenizer):
    """The critic from the reward model; None where that reads other tokens, and the policy's body gets a value head."""
    from rlhf_recipes import models

    if "value_model" not in run.inputs:
        return None
    path = run.inputs["value_model"]["path"]
    own = models.load_tokenizer(models.plain(cfg.model), path)
    if own.get_vocab() != tokenizer.get_vocab():
        print(
            f"the critic cannot start from {path}, whose vocabulary is not the policy's; "
            "a value head on the policy's body takes its place"
        )
        return None
    return models.load_reward_model(cfg.model, path, tokenizer, seed=cfg.seed)


def _watching(cfg: DictConfig) -> list:
    """What a practitioner watches: answers on the screen and in wandb, signs of trouble."""
    from rlhf_recipes.training.samples import SamplesTable
    from rlhf_recipes.training.updates import PracticeWarnings

    return [
        PracticeWarnings(gold="reward/gold" if cfg.data.get("gold") else None),
        SamplesTable(rows=cfg.ppo.sample_rows, tokens=cfg.ppo.token_view),
    ]


def _corpus(cfg: DictConfig, tokenizer):
    from rlhf_recipes import data

    return data.load(cfg.data, "corpus", tokenizer=tokenizer, seed=cfg.seed).train
