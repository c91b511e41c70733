"""Answers side by side with filters, and an answer token by token, as HTML."""

from collections.abc import Sequence
from html import escape

from rlhf_recipes.report.content import show
from rlhf_recipes.report.provenance import final_model
from rlhf_recipes.report.run import Run, plain

PROMPTS = 200  # shown in the page; all of them are in samples.jsonl
LONGEST = 3000  # characters of one text
TOKEN_ROWS, TOKENS = 20, 400
QUANTITIES = ("advantage", "reward", "value", "kl")


def across(runs: Sequence[Run]) -> list[dict]:
    """The final model of every run on the same prompts, in the shape of `Run.answers`."""
    merged: dict[str, dict] = {}
    for run in runs:
        last = final_model(run)
        for answered in run.answers:
            if last in answered["by"]:
                found = merged.setdefault(answered["prompt"], {"prompt": answered["prompt"], "by": {}})
                found["by"].setdefault(run.name, answered["by"][last])
    return list(merged.values())


def measure(answers: Sequence[dict], judge: str | None, tie: float) -> tuple[str, float]:
    """Whose figures say which of two answers is better, and how far apart they have to be.

    Those that decided the pairs, where the rows have them: a judge behind an endpoint leaves none. Else gold, where all
    rows have it, else the score; without a tie band, which is in the judge's unit.
    """
    rows = [row for answered in answers for row in answered["by"].values()]
    for key in (judge, f"reward/{judge}") if judge != "judge" else ():
        if all(key in row for row in rows):
            return key, tie
    return "gold" if all("gold" in row for row in rows) else "score", 0.0


def html(answers: Sequence[dict], judge: str | None = None, tie: float = 0.0) -> str:
    """Every prompt with its answers, and the controls that filter them; empty where there are none.

    Args:
        answers: as `Run.answers` or `across` give them.
        judge: who decided the pairs; with `tie`, as `Run.judged` gives them.
        tie: half-width of the band within which figures are equal, in the judge's unit.
    """
    if not answers:
        return ""
    names = list(dict.fromkeys(name for answered in answers for name in answered["by"]))
    ours, theirs = _sides(names)
    by, tie = measure(answers, judge, tie)
    items = [_item(i, answered, ours, theirs, by, tie) for i, answered in enumerate(answers[:PROMPTS])]
    boxes = "".join(
        f'<label><input type="checkbox" class="model" value="{escape(name)}" checked>{escape(name)}</label>'
        for name in names
    )
    judged = any('data-outcome=""' not in item for item in items)
    outcome = order = ""
    if judged:
        said = by.removeprefix("reward/")
        outcomes = ((o, f"{ours} {o} {theirs} by {said}") for o in ("beats", "ties with", "loses to"))
        outcome = _select("outcome", "Outcome", [("", "All outcomes"), *outcomes])
        orders = ((end, f"largest {end} by {said} first") for end in ("gain", "loss"))
        order = _select("order", "Order", [("0", "as sampled"), *orders])
    search = '<input type="search" placeholder="Search" aria-label="Search">'
    controls = f'<div class="controls" hidden>{search}{outcome}{order}{boxes}</div>'
    note = f" The first {PROMPTS} of {len(answers)}; the rest is in samples.jsonl." if len(answers) > PROMPTS else ""
    note = f'<p class="note"><span class="count">{len(items)} prompts</span>.{note}</p>'
    more = '<button type="button" class="more" hidden>Show more</button>'
    return f'<div id="answer-list">{controls}{note}{"".join(items)}{more}</div>'


def _sides(names: list[str]) -> tuple[str | None, str | None]:
    """Which two models the outcome filter speaks of: the last trained against SFT, or against the first."""
    ours = next((name for name in ("ppo", "grpo", "dpo") if name in names), names[-1])
    theirs = "sft" if "sft" in names and ours != "sft" else names[0]
    return (ours, theirs) if ours != theirs else (None, None)


def _item(index: int, answered: dict, ours: str | None, theirs: str | None, by: str, tie: float) -> str:
    scores = [answered["by"].get(name, {}).get(by) for name in (ours, theirs)]
    gain = scores[0] - scores[1] if None not in scores else None
    outcome = "" if gain is None else "beats" if gain > tie else "loses to" if gain < -tie else "ties with"
    said = "".join(_said(name, row) for name, row in answered["by"].items())
    data = f'data-index="{index}" data-outcome="{outcome}" data-gain="{0 if gain is None else round(gain, 6)}"'
    prompt = f'<p class="prompt">{_text(answered["prompt"])}</p>'
    return f'<article class="answer" {data}>{prompt}<div class="said">{said}</div></article>'


def figures(row: dict) -> str:
    """What was measured of one answer."""
    found = [f"{key} {show(row[key])}" for key in ("score", "gold", "kl") if isinstance(row.get(key), int | float)]
    if isinstance(row.get("tokens"), int):
        found.append(f"{row['tokens']} tokens" + ("" if row.get("finished", True) else ", cut off"))
    return " · ".join(found)


def _said(name: str, row: dict) -> str:
    text = _text(plain(row.get("completion")).strip()) or "<i>(empty)</i>"
    small = f'<div class="soft">{escape(figures(row))}</div>'
    return f'<div data-model="{escape(name)}"><b>{escape(name)}</b><pre>{text}</pre>{small}</div>'


def by_token(rows: Sequence[dict]) -> list[dict]:
    """The last answers of tokens.jsonl, of those that have tokens."""
    return [row for row in rows if isinstance(row.get("tokens"), list) and row["tokens"]][-TOKEN_ROWS:]


def token_text(token: dict) -> str:
    """A token so that it can be seen, a line's end too."""
    return str(token.get("token", "")).replace("\n", "\u21b5") or "(end)"


def tokens_html(rows: Sequence[dict]) -> str:
    """Answers token by token: the value, KL, reward or advantage of each, as colour and as a number."""
    drawn = []
    for row in by_token(rows):
        tokens = row["tokens"][:TOKENS]
        most = max((abs(t.get("advantage") or 0) for t in tokens), default=0) or 1.0
        spans = "".join(_token(token, most) for token in tokens)
        title = f"Step {escape(str(row.get('step')))}"
        title += f": {_text(plain(row['prompt']))}" if row.get("prompt") else ""
        drawn.append(f'<h3>{title}</h3><div class="tokens">{spans}</div>')
    if not drawn:
        return ""
    options = "".join(f'<option value="{name}">{name}</option>' for name in QUANTITIES)
    select = f'<div class="controls" hidden><label>Show <select id="quantity">{options}</select></label></div>'
    note = '<p class="note">Blue is above zero, orange below; the number is the advantage unless chosen otherwise.</p>'
    return select + note + "".join(drawn)


def _token(token: dict, most: float) -> str:
    data = "".join(f' data-{name}="{_figure(token.get(name))}"' for name in QUANTITIES)
    value = token.get("advantage") or 0.0
    colour = f"rgb({'0 114 178' if value >= 0 else '213 94 0'} / {0.55 * abs(value) / most:.2f})"
    hover = ", ".join(f"{name} {show(token.get(name), 3)}" for name in QUANTITIES)
    inner = f"{escape(token_text(token))}<small>{show(value)}</small>"
    return f'<span style="background:{colour}" title="{escape(hover)}"{data}>{inner}</span>'


def _figure(value) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _select(css: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    inner = "".join(f'<option value="{escape(value)}">{escape(name)}</option>' for value, name in options)
    return f'<select class="{css}" aria-label="{label}">{inner}</select>'


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026")
