"""README.md of an export: what the model is, how to ask it, what it learned from, and how well, with pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from rlhf_recipes import __version__
from rlhf_recipes.config.stage import Stage
from rlhf_recipes.export.merge import Merged
from rlhf_recipes.report import content, curves, pages, tables, trust
from rlhf_recipes.report.blocks import Block, Charts, Code
from rlhf_recipes.report.run import Run, read
from rlhf_recipes.runs.resolve import Found

PICTURES = "pictures"
KINDS = ("corpus", "demos", "preferences", "prompts", "ranked")


@dataclass(frozen=True)
class Facts:
    """What is known of an export.

    Args:
        found: the model and its stage's config.
        merged: its weights; which adapters went into them.
        dtype: of the weights.
        parameters: their number.
        template: the name of the template it was trained with; None for a reward model.
        stops: the tokens that end an answer, as text.
        labels: outputs of a reward model's head, 0 for a language model.
    """

    found: Found
    merged: Merged
    dtype: str
    parameters: int
    template: str | None
    stops: list[str]
    labels: int


def write(folder: Path, facts: Facts, name: str, run: Run | None, defaults: Mapping[str, Mapping]) -> Path:
    """Writes README.md, and the pictures it shows to `pictures/`.

    Args:
        folder: the export's.
        facts: of the model.
        name: what from_pretrained will be given: a hub id or a folder's name.
        run: what `lineage` found.
        defaults: {stage: composed default config} of its stages, against which the settings are told.
    """
    title = name.rpartition("/")[2] if "/" in name or run is None else f"{run.name}-{facts.found.stage}"
    parts = [front_matter(facts), f"# {title}", opening(facts, run), "## Use", usage(facts, name)]
    parts += ["## Data", data(facts.found.config)] if facts.found.config.get("data") else []
    if run is not None:
        for heading, blocks in of_run(run, defaults).items():
            parts += [f"## {heading}", pages.markdown(blocks, folder / PICTURES)] if blocks else []
        parts.append(f"Exported by rlhf_recipes {__version__}.")
    out = folder / "README.md"
    out.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return out


def lineage(found: Found, known: Iterable[Stage]) -> Run | None:
    """The run with only the stages that this model comes from, and the evaluation where it was compared."""
    if found.run is None:
        return None
    run = read(found.run, known)
    wanted, todo = set(), [found.stage]
    while todo:
        stage = todo.pop()
        if stage not in run.stages or stage in wanted:
            continue
        wanted.add(stage)
        inputs = run.stages[stage].summary.get("inputs") or {}
        todo += [of["stage"] if of.get("stage") else Path(str(of.get("path"))).parent.name for of in inputs.values()]
    if found.stage in run.contestants:
        wanted.add(run.judging.name)
    return replace(run, stages={name: stage for name, stage in run.stages.items() if name in wanted})


def front_matter(facts: Facts) -> str:
    """The hub's metadata. A base model or dataset is named where it is one of the hub's."""
    stage = facts.found.stage
    tags = ["rlhf", "rlhf_recipes", "trl", *([stage] if stage else [])]
    meta: dict[str, object] = {"library_name": "transformers", "tags": tags}
    meta["pipeline_tag"] = "text-classification" if facts.labels else "text-generation"
    began = [facts.merged.base, (facts.found.config.get("model") or {}).get("path")]
    if base := next((place for place in began if place and on_hub(place)), None):
        meta["base_model"] = base
    if sets := [place for _, place in sources(facts.found.config) if on_hub(place)]:
        meta["datasets"] = sorted(set(sets))
    return f"---\n{yaml.safe_dump(meta, sort_keys=False)}---"


def opening(facts: Facts, run: Run | None) -> str:
    """Which method, how large, and the verdict where it was compared with what it was made from."""
    size = f"{facts.parameters / 1e6:.1f} M parameters in {facts.dtype}"
    made = run is not None and facts.found.stage in run.stages
    text = f"Made by {run.stages[facts.found.stage].title}; {size}." if made else f"{size}."
    if facts.merged.adapters:
        text += f" {len(facts.merged.adapters)} LoRA adapter(s) are merged in: the logits moved by "
        text += f"{facts.merged.difference:.0e} of the largest, in float32."
        if (facts.found.config.get("model") or {}).get("quantization"):
            text += " The adapter was trained on a base in 4 bits and is merged into the base in full precision."
    if run is not None and facts.found.stage == run.final:
        text += f" {tables.verdict(run)}"
    return text.strip()


def usage(facts: Facts, name: str) -> str:
    """A snippet that runs as it stands, and what a prompt has to look like."""
    if facts.labels:
        return (
            "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
            f'model = AutoModelForSequenceClassification.from_pretrained("{name}")\n'
            "text = prompt + completion + tokenizer.eos_token  # as it was trained\n"
            'score = model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item()\n```\n\n'
            "The score is the head's output at the last token; higher is better, and only differences mean something."
        )
    stops = ", ".join(f"`{token}`" for token in facts.stops)
    return (
        "```python\nfrom transformers import pipeline\n\n"
        f'ask = pipeline("text-generation", "{name}")\n'
        'print(ask([{"role": "user", "content": "…"}])[0]["generated_text"][-1]["content"])\n```\n\n'
        f"The chat template in the tokenizer is the one it was trained with ({_inline(facts.template)}). "
        f"An answer ends with {stops}."
    )


def data(config: dict) -> str:
    """Where the rows came from, by kind."""
    node = config["data"]
    lines = [f"Domain `{node.get('name', 'data')}`, template `{node.get('template', 'plain')}`."]
    lines += [f"- {kind}: `{place}`" for kind, place in sources(config)]
    return "\n".join([lines[0], "", *lines[1:]])


def sources(config: dict) -> list[tuple[str, str]]:
    """(kind, file or hub id) of every source that the data node names."""
    found = []
    for kind in KINDS:
        node = (config.get("data") or {}).get(kind)
        node = {"path": node} if isinstance(node, str) else node
        if not isinstance(node, dict):
            continue
        parts = [node] if node.get("path") else node.get("sources") or []
        found += [(kind, str(part["path"])) for part in parts if isinstance(part, dict) and part.get("path")]
    return found


def of_run(run: Run, defaults: Mapping[str, Mapping]) -> dict[str, list[Block]]:
    """The report's sections that speak of this model: title -> blocks."""
    shown = [*map(tables.of_stage, run.stages.values()), tables.models(run), tables.wins(run)]
    charts = [chart for stage in run.stages.values() for chart in curves.of_stage([(stage.name, stage)])]
    charts += trust.of_runs([run])
    settings = content.settings(run, defaults)
    return {
        "Metrics": [table for table in shown if table.rows],
        "Curves": [Charts("", charts)] if charts else [],
        "Settings": [block for block in settings if not (isinstance(block, Code) and block.folded)],
        "Make it again": content.again(run, defaults),
    }


def on_hub(place: str) -> bool:
    """Whether a place can only be a hub id: `owner/name`, and nothing of that name here.

    >>> on_hub("Qwen/Qwen2.5-0.5B"), on_hub("runs/default/sft/model"), on_hub("./mine"), on_hub("embedded")
    (True, False, False, False)
    """
    return place.count("/") == 1 and not place.startswith((".", "/", "~")) and not Path(place).exists()


def _inline(text: str) -> str:
    return "`" + text.replace("\n", "\\n") + "`"
