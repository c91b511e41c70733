"""A mapped row as the trainers take it: templated, checked, with the source's other columns where rewards want them."""

from dataclasses import dataclass

from rlhf_recipes.data import splitting, templates
from rlhf_recipes.data.formats.rows import Drop

ANSWERS = {
    "corpus": ("completion",),
    "demos": ("completion",),
    "preferences": ("chosen", "rejected"),
    "prompts": (),
    "ranked": ("completions",),
}
# Names to which TRL's trainers and reward callables give a meaning of their own: a source's column so named stays out.
RESERVED = {
    *("prompt", "completion", "chosen", "rejected", "messages", "conversations", "text", "rows", "key"),
    *("prompts", "completions", "completion_ids", "prompt_ids", "input_ids", "labels", "ranks", "margin"),
    *("images", "image", "tools", "chat_template_kwargs", "environment", "environments"),
    *("trainer_state", "log_extra", "log_metric"),
}


@dataclass(frozen=True, slots=True)
class Finished:
    """A row for the trainer and its fingerprints."""

    row: dict
    key: int  # what the split goes by
    prompt: int  # of the whole prompt
    all: int  # of prompt and answers


def finish(row: dict, raw: dict, kind: str, template: str, system: str | None = None) -> Finished:
    """A row of a kind under the template.

    Args:
        row: of one kind, as `formats.rows.as_kind` makes them.
        raw: the source's own columns, which prompts and preferences take along.
        kind: corpus, demos, preferences, prompts or ranked.
        template: one of templates.TEMPLATES.
        system: a system prompt for rows that have none; not for a corpus.

    Raises:
        Drop: a text is empty, or both answers are the same.
    """
    if kind == "corpus" and "text" in row:
        if not row["text"].strip():
            raise Drop("empty text")
        key = splitting.fingerprint(row["text"])
        return Finished({"text": row["text"]}, key, key, key)
    prompt = row["prompt"]
    names = [name for name in ANSWERS[kind] if name in row]
    answers = row["completions"] if kind == "ranked" else [row[name] for name in names]
    _usable(prompt, answers, kind)
    style = "plain" if kind == "corpus" and template == "chat" else template  # a corpus holds no mark-up
    told = prompt if kind == "corpus" else templates.with_system(prompt, system, style)
    asked, *said = templates.render(style, told, *answers)
    if kind == "corpus":
        done = {"text": asked + said[0]}
    elif kind == "ranked":
        done = {"prompt": asked, "completions": said, "ranks": row["ranks"]}
    else:
        done = {"prompt": asked} | dict(zip(names, said, strict=True))
    if kind in ("prompts", "preferences"):
        done |= _others(row, raw)
    if kind == "preferences" and "margin" in row:
        done["margin"] = row["margin"]
    if kind == "prompts" and isinstance(row.get("completion"), str):
        done["reference"] = row["completion"].strip()
    return Finished(
        done,
        splitting.fingerprint(row.get("key") or splitting.opening(prompt)),
        splitting.fingerprint(splitting.whole(prompt)),
        splitting.fingerprint(repr((asked, said))),
    )


def _others(row: dict, raw: dict) -> dict:
    """The source's further columns and those the mapper made; one that the mapper made None stays out."""
    made = {name: value for name, value in row.items() if name not in RESERVED}
    everything = {name: value for name, value in raw.items() if name not in RESERVED} | made
    return {name: value for name, value in everything.items() if not (name in made and value is None)}


def _usable(prompt, answers: list, kind: str) -> None:
    if not splitting.whole(prompt).strip():
        raise Drop("empty prompt")
    spoken = [splitting.whole(answer).strip() if not isinstance(answer, str) else answer.strip() for answer in answers]
    if not all(spoken):
        raise Drop("empty answer")
    if kind == "preferences" and spoken[0] == spoken[1]:
        raise Drop("chosen = rejected")
