"""What can be told about a domain in milliseconds, before torch and `datasets` are imported."""

from typing import Any

from rlhf_recipes.data import hub_datasets, mapping, sources, templates
from rlhf_recipes.data.domain import domain


def check(data: Any, kind: str, stage: str | None = None) -> None:
    """Raise on what is wrong with a kind's source as far as its first rows tell: a missing, empty or broken file,
    missing columns, an unknown key, format or template, a kind not offered, a hub that does not answer.

    Args:
        data: the `data` node, OmegaConf or dict.
        kind: corpus, demos, preferences, prompts or ranked.
        stage: named in the message where the domain lacks the kind.

    Raises:
        UserError: one line, with the fix.
    """
    node = domain(data)
    templates.check(node.template)
    chosen = node.choose(kind, stage)
    for part in [*chosen.parts(), *sources.held_out(chosen)]:
        if sources.place(part) == "hub":
            hub_datasets.probe(part)
            if part.format != "auto":
                mapping.find(part.format, part.where)
        elif peeked := sources.peek(part):
            mapping.choose(part, peeked.columns, peeked.rows, kind)
