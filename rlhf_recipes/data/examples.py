"""A mapped row as the trainers take it: templated, checked, tokenised, with the source's other columns for rewards."""

from dataclasses import dataclass, field

from rlhf_recipes.data import splitting, templates
from rlhf_recipes.data.formats.rows import KINDS, Drop, Messages
from rlhf_recipes.engine.prompts import TemplateRefusal, completion_ids, document_ids, prompt_ids

# TRL's trainers and reward callables give these names a meaning of their own: such columns of a source are left out.
RESERVED = {
    *("prompt", "completion", "chosen", "rejected", "messages", "conversations", "text", "rows", "key"),
    *("prompts", "completions", "ranks", "margin", "labels", "completion_mask", "assistant_masks", "input_ids"),
    *("prompt_ids", "completion_ids", "chosen_ids", "rejected_ids"),
    *("images", "image", "tools", "chat_template_kwargs", "environment", "environments"),
    *("trainer_state", "log_extra", "log_metric"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A row for the trainer and its fingerprints."""

    row: dict
    key: int  # what the split goes by
    prompt: int  # of the whole prompt
    all: int  # of prompt and answers
    place: str = ""  # where the raw row stands in its source


def example(row: dict, raw: dict, kind: str, template: str, system: str | None = None, place: str = "") -> Example:
    """A row of a kind under the template.

    Args:
        raw: the source's own columns, which prompts and preferences take along.
        system: a system prompt for rows that have none; not for a corpus.

    Raises:
        Drop: a text is empty, or both answers are the same.
    """
    if kind == "corpus" and "text" in row:
        if not row["text"].strip():
            raise Drop("empty text")
        key = splitting.fingerprint(row["text"])
        return Example({"text": row["text"]}, key, key, key, place)
    names = [name for name in KINDS[kind].answers if name in row]
    answers = row["completions"] if kind == "ranked" else [row[name] for name in names]
    _check_texts(row["prompt"], answers, kind)
    if kind == "corpus":  # which holds no mark-up
        template = "plain" if template == "chat" else template
        before = templates.with_system(row["prompt"], row.get("system"), template)
        prompt, *answers = templates.render(template, before, *answers)
        made = {"text": prompt + answers[0]}
    else:
        before = templates.with_system(row["prompt"], row.get("system") or system, template)
        prompt, *answers = templates.render(template, before, *answers)
        if tools := row.get("tools"):
            if template != "chat":
                raise Drop(f"tools, which only data.template=chat shows, not {template}")
            prompt = [prompt[0] | {"tools": tools}, *prompt[1:]]
        values = [answers] if kind == "ranked" else answers
        made = {"prompt": prompt, **dict(zip(names, values, strict=True))}
        if tools and names:
            made["tools"] = tools  # TRL's column, for the trainers that tokenise a dialogue themselves
    if KINDS[kind].extra:
        made |= _extra_columns(row, raw)
    made |= {name: row[name] for name in KINDS[kind].judged if name in row}
    if kind == "prompts" and isinstance(row.get("completion"), str):
        made["reference"] = row["completion"].strip()
    return Example(
        made,
        splitting.fingerprint(row.get("key") or splitting.opening(row["prompt"])),
        splitting.fingerprint(splitting.whole(row["prompt"])),
        splitting.fingerprint(repr((prompt, answers))),
        place,
    )


def _extra_columns(row: dict, raw: dict) -> dict:
    """The source's further columns and those the mapper made; one that the mapper made None stays out."""
    made = {name: value for name, value in row.items() if name not in RESERVED}
    every = {name: value for name, value in raw.items() if name not in RESERVED} | made
    return {name: value for name, value in every.items() if not (name in made and value is None)}


def _check_texts(prompt: str | Messages, answers: list, kind: str) -> None:
    if not splitting.whole(prompt).strip():
        raise Drop("empty prompt")
    texts = [(answer if isinstance(answer, str) else splitting.whole(answer)).strip() for answer in answers]
    if not all(texts):
        raise Drop("empty answer")
    if kind == "preferences" and texts[0] == texts[1]:
        raise Drop("chosen = rejected")


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens; None: no limit."""

    row: int | None = None  # prompt and answer together, EOS included: TRL's max_length
    prompt: int | None = None
    keep_end: bool = False  # TRL's truncation_mode: a row that is too long loses its start, not its answer


@dataclass(slots=True)
class Tokens:
    """What the tokenizer makes of a row.

    Args:
        columns: token ids by the names that TRL's trainers give them. `chosen_ids` and `rejected_ids` go on from
            `prompt_ids`, as DPOTrainer's do.
        reason: why the row cannot be used, or None.
        detail: what is wrong with this row, where the reason does not say it.
        cut: whether the trainer would cut it.
    """

    columns: dict[str, list[int]] = field(default_factory=dict)
    reason: str | None = None
    detail: str = ""
    cut: bool = False


def tokenise(rows: list[dict], kind: str, tokenizer, limits: Limits) -> list[Tokens]:
    """Token ids of rendered rows of one kind, and which of them cannot be used; nothing without a tokenizer."""
    if tokenizer is None or not rows:
        return [Tokens() for _ in rows]
    if kind == "corpus":
        documents = document_ids([row["text"] for row in rows], tokenizer)
        return [Tokens({"input_ids": ids}, cut=bool(limits.row) and len(ids) > limits.row) for ids in documents]
    answers = [row["completions"] if kind == "ranked" else [row[n] for n in KINDS[kind].answers] for row in rows]
    pairs = [(row["prompt"], answer) for row, several in zip(rows, answers, strict=True) for answer in several]
    try:
        prompts = prompt_ids([row["prompt"] for row in rows], tokenizer)
        completions = iter(completion_ids(*map(list, zip(*pairs, strict=True)), tokenizer) if pairs else [])
    except TemplateRefusal as refusal:
        if len(rows) == 1:
            return [Tokens(reason=refusal.reason, detail=refusal.detail)]
        return [tokens for row in rows for tokens in tokenise([row], kind, tokenizer, limits)]
    result = []
    for prompt, several in zip(prompts, answers, strict=True):
        ids = [next(completions) for _ in several]
        whole = len(prompt) + max(map(len, ids), default=0)
        reason = _too_long(len(prompt), whole, kind, limits)
        is_cut = reason is None and limits.row is not None and whole > limits.row
        result.append(Tokens(_columns(kind, prompt, ids), reason, cut=is_cut))
    return result


def _columns(kind: str, prompt: list[int], answers: list[list[int]]) -> dict[str, list[int]]:
    if kind == "demos":
        return {"input_ids": prompt + answers[0], "completion_mask": [0] * len(prompt) + [1] * len(answers[0])}
    if kind in ("preferences", "unpaired"):
        names = [f"{name}_ids" for name in KINDS[kind].answers]
        return {"prompt_ids": prompt, **dict(zip(names, answers, strict=True))}
    return {}


def _too_long(prompt: int, whole: int, kind: str, limits: Limits) -> str | None:
    """Why a row of so many tokens cannot be used. A long demonstration is cut. A long comparison would have nothing
    left to compare, unless the trainer keeps its end."""
    most_prompt = limits.row if kind == "prompts" and limits.prompt is None else limits.prompt
    if most_prompt is not None and prompt > most_prompt:
        return f"prompt longer than {most_prompt} tokens"
    if limits.row is None or limits.keep_end or kind == "prompts":
        return None
    if kind == "demos":
        return f"no answer token within {limits.row}" if prompt >= limits.row else None
    return f"longer than {limits.row} tokens" if whole > limits.row else None


def length(row: dict) -> int:
    """Tokens of a tokenised row, with its longer answer."""
    answers = [len(row[name]) for name in ("completion_ids", "chosen_ids", "rejected_ids") if name in row]
    return len(row.get("input_ids") or row["prompt_ids"]) + max(answers, default=0)
