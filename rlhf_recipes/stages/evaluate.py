"""Every model at hand on the same held-out prompts: scores, gold, KL to SFT, perplexity, and who beats whom."""

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.compare import Sampling, evaluate_models
from rlhf_recipes.progress import rewrite_jsonl
from rlhf_recipes.rewards.load import load_function
from rlhf_recipes.signal import build_signal, function_spec
from rlhf_recipes.training import quiet


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns `models` and `win_rate` as evaluation.compare gives them; every answer goes to samples.jsonl."""
    quiet()
    settings = cfg.evaluate
    compared = {name: entry["path"] for name, entry in run.inputs.items() if name != "reward_model"}
    tokenizers = {name: models.load_tokenizer(cfg.model, path) for name, path in compared.items()}
    first = next(iter(tokenizers.values()))
    room = min(models.room_for_prompt(cfg, path, settings.max_new_tokens) or 10**9 for path in compared.values())
    prompts = data.load(cfg.data, "prompts", tokenizer=first, max_prompt_length=room, seed=cfg.seed).eval
    demos = _demos(cfg, first)
    summary, samples = evaluate_models(
        {
            name: lambda n=name: (models.load_policy(cfg.model, compared[n], tokenizers[n], frozen=True), tokenizers[n])
            for name in compared
        },
        [prompts[i] for i in range(min(settings.prompts, len(prompts)))],
        signal=build_signal(cfg, run, optional=True),
        gold=_function(cfg.data.get("gold")),
        exact=_function(cfg.data.get("exact")),
        ref="sft" if "sft" in compared else next(iter(compared)),
        demos=[demos[i] for i in range(min(settings.ppl_rows, len(demos)))],
        sampling=Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            batch_size=settings.batch_size,
            seed=cfg.seed,
        ),
        seed=cfg.seed,
    )
    rewrite_jsonl(run.samples, samples)
    return summary


def _demos(cfg: DictConfig, tokenizer):
    if not cfg.evaluate.ppl_rows:
        return []
    try:
        return data.load(cfg.data, "demos", tokenizer=tokenizer, seed=cfg.seed).eval
    except UserError as error:  # prompts are enough to compare models; perplexity is one figure fewer
        print(f"no perplexity: {error}")
        return []


def _function(node):
    return load_function(function_spec(node)) if node else None
