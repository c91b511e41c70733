"""A mapped row as the trainers take it: templated, checked, measured, with the source's other columns for rewards."""

from dataclasses import dataclass

from rlhf_recipes.data import splitting, templates
from rlhf_recipes.data.formats.rows import KINDS, Drop, Messages
from rlhf_recipes.engine.prompts import prompt_ids, through_template

# Names to which TRL's trainers and reward callables give a meaning of their own: a source's column so named stays out.
RESERVED = {
    *("prompt", "completion", "chosen", "rejected", "messages", "conversations", "text", "rows", "key"),
    *("prompts", "completions", "completion_ids", "prompt_ids", "input_ids", "labels", "ranks", "margin"),
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


def example(row: dict, raw: dict, kind: str, template: str, system: str | None = None) -> Example:
    """A row of a kind under the template.

    Args:
        row: of one kind, as `formats.rows.as_kind` makes them.
        raw: the source's own columns, which prompts and preferences take along.
        kind: one of formats.rows.KINDS.
        template: one of templates.TEMPLATES.
        system: a system prompt for rows that have none; not for a corpus.

    Raises:
        Drop: a text is empty, or both answers are the same.
    """
    if kind == "corpus" and "text" in row:
        if not row["text"].strip():
            raise Drop("empty text")
        key = splitting.fingerprint(row["text"])
        return Example({"text": row["text"]}, key, key, key)
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


def check_lengths(rows: list[dict], kind: str, tokenizer, limits: Limits) -> list[tuple[str | None, bool]]:
    """(why the row cannot be used or None, whether the trainer would cut it) of each row.

    Args:
        rows: rendered rows of one kind.
        kind: one of formats.rows.KINDS.
        tokenizer: the policy's; None measures nothing.
        limits: in tokens.
    """
    most, most_prompt = limits.row, limits.prompt
    if kind == "prompts" and most_prompt is None:
        most_prompt = most
    prompts = wholes = [0] * len(rows)
    if tokenizer is not None and kind != "corpus" and (most_prompt is not None or kind == "demos"):
        prompts = [len(ids) for ids in prompt_ids([row["prompt"] for row in rows], tokenizer)]
    if tokenizer is not None and kind != "prompts" and most is not None:
        wholes = longest(rows, kind, tokenizer)
    verdicts: list[tuple[str | None, bool]] = []
    for prompt, whole in zip(prompts, wholes, strict=True):
        reason = None
        if most_prompt is not None and prompt > most_prompt:
            reason = f"prompt longer than {most_prompt} tokens"
        elif kind == "demos" and whole and (prompt >= most or whole <= prompt):
            reason = f"no answer token within {most}"
        elif kind not in ("demos", "corpus") and whole and whole > most:
            reason = f"longer than {most} tokens"
        verdicts.append((reason, reason is None and most is not None and whole > most))
    return verdicts


def longest(rows: list[dict], kind: str, tokenizer) -> list[int]:
    """Tokens of each row's document, or of its prompt with its longest answer, as TRL tokenises them, EOS included.

    Raises:
        UserError: the chat template refuses a row.
    """
    if kind == "corpus":
        return count([row["text"] for row in rows], tokenizer)
    answers = [row["completions"] if kind == "ranked" else [row[n] for n in KINDS[kind].answers] for row in rows]
    joined = [row["prompt"] + answer for row, several in zip(rows, answers, strict=True) for answer in several]
    tokens = iter(count(joined, tokenizer))
    return [max(next(tokens) for _ in several) for several in answers]


def count(texts: list[str | Messages], tokenizer) -> list[int]:
    """Tokens of each text with the EOS that TRL's trainers add to strings, or of each dialogue."""
    if texts and not isinstance(texts[0], str):
        return [len(ids) for ids in through_template(texts, tokenizer)]
    eos = tokenizer.eos_token or ""
    ended = [text if text.endswith(eos) else text + eos for text in texts]
    return [len(ids) for ids in tokenizer(ended, verbose=False)["input_ids"]] if texts else []
