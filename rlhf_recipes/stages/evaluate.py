"""Every model at hand on the same held-out prompts: scores, gold, KL to SFT, perplexity, and who beats whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun
    from rlhf_recipes.runs.resolve import Stops

STAGE = Stage(
    name="evaluate",
    title="Evaluation",
    order=90,
    starts_from={"base": ("pretrain", "base", "none"), "reward_model": ("reward", "none")},
    compares=True,
    rows=("prompts",),
    scores=True,
    single_process=True,
    figures=(Figure("models", "models", 0), Figure("prompts", "prompts", 0)),
)


def check(cfg: DictConfig, run: StageRun) -> None:
    """Who competes, who judges and which pairs, before anything is loaded."""
    from rlhf_recipes.evaluation import plan

    plan.read(cfg, run.inputs, run.stages)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns `models` and `win_rate` as evaluation.compare gives them; every answer goes to samples.jsonl."""
    from dataclasses import replace

    from omegaconf import OmegaConf

    from rlhf_recipes import data, models
    from rlhf_recipes.data.preview import show_prompts
    from rlhf_recipes.evaluation import benchmarks, plan
    from rlhf_recipes.evaluation.answers import Draw
    from rlhf_recipes.evaluation.compare import evaluate_models
    from rlhf_recipes.evaluation.measure import Contestant, Questions
    from rlhf_recipes.rewards.from_config import build_rewards
    from rlhf_recipes.rewards.judge_client import ask_all
    from rlhf_recipes.runs import resolve
    from rlhf_recipes.runs.jsonl import rewrite_jsonl
    from rlhf_recipes.training.fit import quiet

    quiet()
    settings, lineup = cfg.evaluate, plan.read(cfg, run.inputs, run.stages)
    harness = OmegaConf.to_container(settings.harness)
    harness = benchmarks.prepare(settings.benchmarks, **harness, seed=cfg.seed) if settings.benchmarks else None
    paths = lineup.paths | lineup.checkpoints
    # the `model` node is meant for the run's stages and its base; a model from elsewhere has a plain one
    own = {name: plan.own(cfg, run.inputs[name.partition("@")[0]]) for name in paths}
    nodes = {name: cfg.model if own[name] else models.plain(cfg.model) for name in paths}
    tokenizers = {name: models.load_tokenizer(nodes[name], path) for name, path in paths.items()}
    first = next(iter(tokenizers.values()), None)
    limits = [models.room_for_prompt(cfg, path, settings.max_new_tokens) for path in lineup.paths.values()]
    room = min((limit for limit in limits if limit is not None), default=cfg.data.get("max_prompt_length"))
    prompts = data.load(cfg.data, "prompts", tokenizer=first, max_prompt_length=room, seed=cfg.seed).eval
    rows = [prompts[i] for i in range(min(settings.prompts, len(prompts)))]
    if cfg.preview:
        return show_prompts(rows, first, cfg.preview_rows)

    def contestant(name: str) -> Contestant:
        def load() -> tuple:
            return models.load_policy(nodes[name], paths[name], tokenizers[name], frozen=True), tokenizers[name]

        return Contestant(load, resolve.at(paths[name]).stops, checkpoint=name in lineup.checkpoints)

    demos, no_demos = _held_out(cfg, "demos", first, settings.ppl_rows)
    corpus, no_corpus = _held_out(cfg, "corpus", first, settings.corpus_rows)
    contestants = {name: contestant(name) for name in lineup.paths}
    for name, endpoint in lineup.endpoints.items():
        contestants[name] = Contestant(texts=ask_all([row["prompt"] for row in rows], endpoint))
    contestants |= {name: contestant(name) for name in lineup.checkpoints}
    summary, samples = evaluate_models(
        contestants,
        Questions(rows, demos, [row["text"] for row in corpus], settings.majority, harness),
        Draw.of(settings, cfg.seed),
        replace(
            lineup.judging,
            rewards=build_rewards(cfg, run, optional=True),
            gold=_function(cfg.data.get("gold")),
            exact=_function(cfg.data.get("exact")),
        ),
    )
    stops = {name: resolve.at(path).stops for name, path in lineup.paths.items()}
    summary["notes"] = [*no_demos, *no_corpus, *_stopped_elsewhere(stops), *summary["notes"]]
    for note in summary["notes"]:
        print(f"evaluate: {note}")
    rewrite_jsonl(run.samples, samples)
    return summary


def _stopped_elsewhere(stops: dict[str, Stops]) -> list[str]:
    """The models whose answers end as their training's did, not as the others': length and scores are of such texts."""
    from rlhf_recipes.runs.resolve import Stops

    usual = vars(Stops())
    changed = {name: [f"trainer.{k}={v!r}" for k, v in vars(of).items() if v != usual[k]] for name, of in stops.items()}
    return [f"{name} ends its answers as in its training: {', '.join(of)}" for name, of in changed.items() if of]


def _held_out(cfg: DictConfig, kind: str, tokenizer, most: int) -> tuple[list[dict], list[str]]:
    """At most so many held-out rows of a kind, and a note where the domain gives none: one figure fewer."""
    from rlhf_recipes import data
    from rlhf_recipes.data.domain import domain, source
    from rlhf_recipes.errors import UserError

    if not most:
        return [], []
    figure = {"demos": "perplexity", "corpus": "corpus perplexity"}[kind]
    if kind == "corpus" and not source(domain(cfg.data).corpus, "data.corpus").given:
        return [], [f"data={cfg.data.name} has no corpus of its own: no {figure}; data.corpus.path=<file> gives one"]
    try:
        rows = data.load(cfg.data, kind, tokenizer=tokenizer, seed=cfg.seed).eval
    except UserError as error:  # prompts are enough to compare models
        return [], [f"no {figure}: {error}"]
    return [rows[i] for i in range(min(most, len(rows)))], []


def _function(node):
    from rlhf_recipes.rewards.from_config import function_spec
    from rlhf_recipes.rewards.load import load_function

    return load_function(function_spec(node)) if node else None
