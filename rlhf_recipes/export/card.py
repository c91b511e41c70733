"""README.md of an export: what the model is, how to ask it, what it learned from, and how well, with pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from rlhf_recipes import __version__
from rlhf_recipes.config.stage import Stage
from rlhf_recipes.export.weights import Merged
from rlhf_recipes.report import content, curves, pages, tables, trust
from rlhf_recipes.report.blocks import Block, Charts, Code
from rlhf_recipes.report.run import Run, read
from rlhf_recipes.runs.resolve import ModelSource

PICTURES = "pictures"
SCORE = """\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}")
text = prompt + completion + tokenizer.eos_token  # as it was trained
score = model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item()
```

The score is the head's output at the last token; higher is better, and only differences mean something."""
CHAT = """\
```python
from transformers import pipeline

ask = pipeline("text-generation", "{name}")
print(ask([{{"role": "user", "content": "…"}}])[0]["generated_text"][-1]["content"])
```

The chat template in the tokenizer is the one it was trained with (`{template}`). An answer ends with {stops}."""
KINDS = ("corpus", "demos", "preferences", "prompts", "ranked")


@dataclass(frozen=True)
class Facts:
    """What is known of an export.

    Args:
        source: where the model lies, and its stage's config.
        merged: its weights; which adapters went into them.
        dtype: of the weights.
        template: the name of the template it was trained with; None for a reward model.
        stops: the tokens that end an answer, as text.
    """

    source: ModelSource
    merged: Merged
    dtype: str
    template: str | None
    stops: list[str]


def write(folder: Path, facts: Facts, name: str, run: Run | None, defaults: Mapping[str, Mapping]) -> Path:
    """Writes README.md, and the pictures it shows to `pictures/`.

    Args:
        name: what from_pretrained will be given: a hub id or a folder's name.
        run: what `lineage` returned.
        defaults: {stage: composed default config} of its stages, with which the card compares the settings.
    """
    title = name.rpartition("/")[2] if "/" in name or run is None else f"{run.name}-{facts.source.stage}"
    parts = [front_matter(facts), f"# {title}", opening(facts, run), "## Use", usage(facts, name)]
    parts += ["## Data", data(facts.source.config)] if facts.source.config.get("data") else []
    if run is not None:
        for heading, blocks in of_run(run, defaults).items():
            parts += [f"## {heading}", pages.markdown(blocks, folder / PICTURES)] if blocks else []
        parts.append(f"Exported by rlhf_recipes {__version__}.")
    out = folder / "README.md"
    out.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return out


def lineage(source: ModelSource, known: Iterable[Stage]) -> Run | None:
    """The run with only the stages that this model comes from, and the evaluation where it was compared."""
    if source.run is None:
        return None
    run = read(source.run, known)
    wanted, todo = set(), [source.stage]
    while todo:
        stage = todo.pop()
        if stage not in run.stages or stage in wanted:
            continue
        wanted.add(stage)
        inputs = run.stages[stage].summary.get("inputs") or {}
        todo += [of["stage"] if of.get("stage") else Path(str(of.get("path"))).parent.name for of in inputs.values()]
    if source.stage in run.contestants:
        wanted.add(run.judging.name)
    return replace(run, stages={name: stage for name, stage in run.stages.items() if name in wanted})


def front_matter(facts: Facts) -> str:
    """The hub's metadata. A base model or dataset is named where it is one of the hub's."""
    stage = facts.source.stage
    tags = ["rlhf", "rlhf_recipes", "trl", *([stage] if stage else [])]
    meta: dict[str, object] = {"library_name": "transformers", "tags": tags}
    meta["pipeline_tag"] = "text-generation" if facts.template else "text-classification"
    began = [facts.merged.base, (facts.source.config.get("model") or {}).get("path")]
    if base := next((place for place in began if place and on_hub(place)), None):
        meta["base_model"] = base
    if sets := [place for _, place in sources(facts.source.config) if on_hub(place)]:
        meta["datasets"] = sorted(set(sets))
    return f"---\n{yaml.safe_dump(meta, sort_keys=False)}---"


def opening(facts: Facts, run: Run | None) -> str:
    """Which method, how large, and the verdict where it was compared with what it was made from."""
    size = f"{facts.merged.model.num_parameters() / 1e6:.1f} M parameters in {facts.dtype}"
    made = run is not None and facts.source.stage in run.stages
    text = f"Made by {run.stages[facts.source.stage].title}; {size}." if made else f"{size}."
    if facts.merged.adapters:
        text += f" {len(facts.merged.adapters)} LoRA adapter(s) are merged in: the logits moved by "
        text += f"{facts.merged.difference:.0e} of the largest, in float32."
        if (facts.source.config.get("model") or {}).get("quantization"):
            text += " The adapter was trained on a base in 4 bits and is merged into the base in full precision."
    if run is not None and facts.source.stage == run.final:
        text += f" {tables.verdict(run)}"
    return text.strip()


def usage(facts: Facts, name: str) -> str:
    """A snippet that runs as it stands, and what a prompt has to look like."""
    if facts.template is None:
        return SCORE.format(name=name)
    template = facts.template.replace("\n", "\\n")
    return CHAT.format(name=name, template=template, stops=", ".join(f"`{token}`" for token in facts.stops))


def data(config: dict) -> str:
    """Where the rows came from, by kind."""
    node = config["data"]
    domain = f"Domain `{node.get('name', 'data')}`, template `{node.get('template', 'plain')}`.\n"
    return "\n".join([domain, *(f"- {kind}: `{place}`" for kind, place in sources(config))])


def sources(config: dict) -> list[tuple[str, str]]:
    """(kind, file or hub id) of every source that the data node names."""
    places = []
    for kind in KINDS:
        node = (config.get("data") or {}).get(kind)
        node = {"path": node} if isinstance(node, str) else node if isinstance(node, dict) else {}
        parts = [node] if node.get("path") else node.get("sources") or []
        places += [(kind, str(part["path"])) for part in parts if isinstance(part, dict) and part.get("path")]
    return places


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
