"""What a trainer would cut or could not use, told by token counts as TRL tokenises: EOS added to strings, turns
through the tokenizer's chat template."""

from dataclasses import dataclass

from rlhf_recipes.data.formats.rows import Messages
from rlhf_recipes.engine.prompts import prompt_ids, through_template

ANSWERS = {"demos": ("completion",), "preferences": ("chosen", "rejected")}


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens; None: no limit."""

    row: int | None = None  # prompt and answer together, EOS included: TRL's max_length
    prompt: int | None = None


@dataclass(frozen=True)
class Verdict:
    dropped: str | None = None  # the reason
    cut: bool = False


def judge(rows: list[dict], kind: str, tokenizer, limits: Limits) -> list[Verdict]:
    """A verdict on each row.

    Args:
        rows: rendered rows of one kind.
        kind: corpus, demos, preferences, prompts or ranked.
        tokenizer: the policy's.
        limits: in tokens.
    """
    if kind == "corpus":
        if limits.row is None:
            return [Verdict()] * len(rows)
        return [Verdict(cut=n > limits.row) for n in count([r["text"] for r in rows], tokenizer, ends=True)]
    verdicts, asked = [Verdict()] * len(rows), [0] * len(rows)
    limit = limits.row if kind == "prompts" and limits.prompt is None else limits.prompt
    if limit is not None or kind == "demos":
        asked = [len(ids) for ids in prompt_ids([row["prompt"] for row in rows], tokenizer)]
        verdicts = [_prompt(n, limit) for n in asked]
    if limits.row is None or kind == "prompts":
        return verdicts
    longest = _longest(rows, kind, tokenizer)
    if kind == "demos":
        return [v if v.dropped else _demo(a, n, limits.row) for v, a, n in zip(verdicts, asked, longest, strict=True)]
    long = Verdict(f"longer than {limits.row} tokens")
    return [v if v.dropped or n <= limits.row else long for v, n in zip(verdicts, longest, strict=True)]


def count(texts: list[str | Messages], tokenizer, *, ends: bool = False) -> list[int]:
    """Tokens of each text.

    Args:
        texts: strings, or turns.
        tokenizer: the policy's.
        ends: strings end with EOS, as TRL's trainers end them.

    Raises:
        UserError: the chat template refuses a row.
    """
    if not texts:
        return []
    if isinstance(texts[0], str):
        eos = tokenizer.eos_token if ends else None
        texts = [text if not eos or text.endswith(eos) else text + eos for text in texts]
        ids = tokenizer(texts, verbose=False)["input_ids"]
    else:
        ids = through_template(texts, tokenizer)
    return [len(row) for row in ids]


def _longest(rows: list[dict], kind: str, tokenizer) -> list[int]:
    """Tokens of each row's prompt with its longest answer."""
    answers = [[row[name] for name in ANSWERS[kind]] if kind in ANSWERS else row["completions"] for row in rows]
    pairs = [row["prompt"] + answer for row, several in zip(rows, answers, strict=True) for answer in several]
    tokens = iter(count(pairs, tokenizer, ends=True))
    return [max(next(tokens) for _ in several) for several in answers]


def _prompt(tokens: int, limit: int | None) -> Verdict:
    if limit is not None and tokens > limit:
        return Verdict(f"prompt longer than {limit} tokens")
    return Verdict()


def _demo(prompt: int, whole: int, limit: int) -> Verdict:
    if prompt >= limit or whole <= prompt:
        return Verdict(f"no answer token within {limit}")
    return Verdict(cut=whole > limit)
