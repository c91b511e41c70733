"""A model of this run as a folder that loads without this package, with its card; on request on the hub as well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(name="export", title="Export", single_process=True)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns parameters, megabytes (10^6 bytes) and, for adapters, merge_difference; the folder is the result."""
    from rlhf_recipes.export import place
    from rlhf_recipes.runs import resolve

    source = resolve.find(run, cfg.export.model, "export.model")
    to = Path(cfg.export.to).expanduser() if cfg.export.to else Path(cfg.run.root) / cfg.run.name / "export"
    place.check_folder(to, source.path, cfg.run.overwrite)
    if cfg.export.push_to_hub:
        place.check_hub(cfg.export.push_to_hub)
    if cfg.preview:
        print(f"export: {source.name} ({source.path}) would go to {to}")
        return {}
    from rlhf_recipes import models, stages  # torch: only when all else is right
    from rlhf_recipes.data import chat_template
    from rlhf_recipes.export import card, weights
    from rlhf_recipes.training.fit import quiet

    quiet()
    reward = resolve.is_reward_model(source.path)
    node = resolve.model_node(cfg, source)
    tokenizer = models.load_tokenizer(node, source.path)
    merged = weights.load(node, source.path, tokenizer, reward=reward)
    parameters = merged.model.num_parameters()
    template = None if reward else chat_template.choose("auto", source, bool(tokenizer.chat_template), cfg.data)
    lineage = card.lineage(source, run.stages.values())
    defaults = {name: stages.defaults(name) for name in (lineage.stages if lineage else ())}
    with place.filled(to) as folder:
        stops = weights.write(
            folder, merged.model, tokenizer, cfg.export.dtype, template=template, trained_stops=source.stops
        )
        words = [tokenizer.convert_ids_to_tokens(token) for token in stops]
        facts = card.Facts(source, merged, cfg.export.dtype, template.name if template else None, words)
        card.write(folder, facts, cfg.export.push_to_hub or to.name, lineage, defaults)
    size = sum(file.stat().st_size for file in to.rglob("*") if file.is_file()) / 1e6
    print(f"export: {source.name} ({parameters / 1e6:.1f} M parameters, {cfg.export.dtype}) in {to}, {size:.1f} MB")
    if merged.difference is not None:
        print(
            f"export: {len(merged.adapters)} adapter(s) merged, logits moved by {merged.difference:.1e} of the largest"
        )
    if cfg.export.push_to_hub:
        print(f"export: {place.push(to, cfg.export.push_to_hub, cfg.export.private)}")
    return {"parameters": parameters, "megabytes": round(size, 1), "merge_difference": merged.difference}
