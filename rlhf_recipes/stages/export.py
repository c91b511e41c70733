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
    from rlhf_recipes.export import place, push
    from rlhf_recipes.runs import resolve

    found = resolve.find(run, cfg.export.model, "export.model")
    to = Path(cfg.export.to).expanduser() if cfg.export.to else Path(cfg.run.root) / cfg.run.name / "export"
    place.check(to, found.path, cfg.run.overwrite)
    if cfg.export.push_to_hub:
        push.check(cfg.export.push_to_hub)
    if cfg.preview:
        print(f"export: {found.name} ({found.path}) would go to {to}")
        return {}
    from rlhf_recipes import models, stages  # torch: only when all else is right
    from rlhf_recipes.data import chat_template
    from rlhf_recipes.export import card, merge, write
    from rlhf_recipes.preflight import check
    from rlhf_recipes.training.fit import quiet

    quiet()
    estimate = check.brief(cfg, run)
    reward = resolve.is_reward_model(found.path)
    node = resolve.model_node(cfg, found)
    tokenizer = models.load_tokenizer(node, found.path)
    merged = merge.load(node, found.path, tokenizer, reward=reward)
    parameters = sum(p.numel() for p in merged.model.parameters())
    spoken = None if reward else chat_template.choose("auto", found, bool(tokenizer.chat_template), cfg.data)
    stop = found.stops.stop_token_id
    lineage = card.lineage(found, run.stages.values())
    defaults = {name: stages.defaults(name) for name in (lineage.stages if lineage else ())}
    with place.filled(to) as folder:
        stops = write.write(folder, merged.model, tokenizer, cfg.export.dtype, template=spoken, stop_token_id=stop)
        facts = card.Facts(
            found=found,
            merged=merged,
            dtype=cfg.export.dtype,
            parameters=parameters,
            template=spoken.name if spoken else None,
            stops=[tokenizer.convert_ids_to_tokens(token) for token in stops],
            labels=merged.model.config.num_labels if reward else 0,
        )
        card.write(folder, facts, cfg.export.push_to_hub or to.name, lineage, defaults)
    size = sum(file.stat().st_size for file in to.rglob("*") if file.is_file()) / 1e6
    print(f"export: {found.name} ({parameters / 1e6:.1f} M parameters, {cfg.export.dtype}) in {to}, {size:.1f} MB")
    if merged.difference is not None:
        print(
            f"export: {len(merged.adapters)} adapter(s) merged, logits moved by {merged.difference:.1e} of the largest"
        )
    print(check.afterwards(estimate))
    if cfg.export.push_to_hub:
        print(f"export: {push.push(to, cfg.export.push_to_hub, cfg.export.private)}")
    return {"parameters": parameters, "megabytes": round(size, 1), "merge_difference": merged.difference}
