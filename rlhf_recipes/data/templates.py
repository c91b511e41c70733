"""How turns become the text a model sees: `data.template`, one function a template, found by its name here.

A template's function takes the turns before the answer and returns the prompt and what stands between it and the
answer. `chat` has no function: rows stay turns, and TRL applies the tokenizer's own chat template to them.
"""

from rlhf_recipes.data.formats.rows import Drop, Messages
from rlhf_recipes.data.formats.turns import hh_turns
from rlhf_recipes.errors import UserError

TEMPLATES = ("chat", "alpaca", "plain", "hh")

# tatsu-lab/stanford_alpaca train.py, PROMPT_DICT, to the letter
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA_NO_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def alpaca(turns: Messages) -> tuple[str, str]:
    """Stanford Alpaca. A later question repeats the instruction block without the opening sentence."""
    text, first = "", True
    for turn in turns:
        if turn["role"] != "user":
            text += turn["content"] + "\n\n"
            continue
        block = ALPACA_WITH_INPUT if "input" in turn else ALPACA_NO_INPUT
        if not first:
            block = block[block.index("### Instruction:") :]
        text += block.format(instruction=turn["content"], input=turn.get("input"))
        first = False
    return text, ""


def plain(turns: Messages) -> tuple[str, str]:
    """The words alone, a blank line between turns. A row whose prompt is a string is not touched at all."""
    return "".join(_joined(turn) + "\n\n" for turn in turns), ""


def hh(turns: Messages) -> tuple[str, str]:
    """Anthropic HH-RLHF: "\\n\\nHuman: …\\n\\nAssistant:", the answer after one space."""
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\n"}
    return "".join(names[turn["role"]] + _joined(turn) for turn in turns) + "\n\nAssistant:", " "


def render(template: str, prompt: str | Messages, *answers: str | Messages) -> list[str | Messages]:
    """A prompt and its answers under a template.

    Args:
        template: one of TEMPLATES.
        prompt: a string, or turns of which a user's may carry Alpaca's "input".
        answers: one for a demonstration, two for a preference, none for a prompt.

    Returns:
        [prompt, *answers]: strings, or for `chat` lists of {"role", "content"}.

    Raises:
        Drop: the prompt does not end with a question.

    >>> render("plain", [{"role": "user", "content": "2 + 2?"}], "4")
    ['2 + 2?\\n\\n', '4']
    >>> render("plain", "2 + 2 =", " 4")
    ['2 + 2 =', ' 4']
    >>> render("hh", "2 + 2?", "4")
    ['\\n\\nHuman: 2 + 2?\\n\\nAssistant:', ' 4']
    """
    if template == "plain" and isinstance(prompt, str):
        return [prompt, *(_said(answer) for answer in answers)]
    turns = as_turns(prompt)
    if not turns or turns[-1]["role"] != "user":
        raise Drop("the prompt does not end with a question")
    if template == "chat":
        asked = [{"role": turn["role"], "content": _joined(turn)} for turn in turns]
        return [asked, *(_spoken(answer) for answer in answers)]
    text, lead = globals()[template](turns)
    return [text, *(lead + _said(answer).strip() for answer in answers)]


def with_system(prompt: str | Messages, system: str | None, template: str) -> str | Messages:
    """The prompt under a system prompt, unless it has one of its own."""
    if not system:
        return prompt
    if template == "plain" and isinstance(prompt, str):
        return f"{system}\n\n{prompt}"
    turns = as_turns(prompt)
    return turns if turns and turns[0]["role"] == "system" else [{"role": "system", "content": system}, *turns]


def as_turns(prompt: str | Messages) -> Messages:
    """A prompt as turns: a string is one user's turn, unless it is an HH dialogue."""
    if not isinstance(prompt, str):
        return prompt
    if prompt.lstrip("\n").startswith("Human:"):
        dialogue = hh_turns("\n\n" + prompt.lstrip("\n"))
        return dialogue[:-1] if dialogue[-1] == {"role": "assistant", "content": ""} else dialogue
    return [{"role": "user", "content": prompt.strip()}]


def check(template: str, tokenizer=None) -> None:
    """Raise unless the template is known and, for `chat`, the tokenizer has one.

    Raises:
        UserError: with the templates that would do.
    """
    if template not in TEMPLATES:
        raise UserError(f"data.template={template}: no such template; known: {', '.join(TEMPLATES)}")
    if template == "chat" and tokenizer is not None and not tokenizer.chat_template:
        raise UserError(
            f"data.template=chat needs a tokenizer with a chat template and {tokenizer.name_or_path or 'this one'} has "
            "none; give data.template=alpaca (or plain, hh), or model.chat_template=<file.jinja>"
        )


def _joined(turn: dict) -> str:
    return turn["content"] + (f"\n\n{turn['input']}" if "input" in turn else "")


def _said(answer: str | Messages) -> str:
    return answer if isinstance(answer, str) else "\n\n".join(turn["content"] for turn in answer)


def _spoken(answer: str | Messages) -> Messages:
    return [{"role": "assistant", "content": answer.strip()}] if isinstance(answer, str) else answer
