"""How turns become the text that a model sees: `data.template`, one table row a template.

Rows of training, chat and the Jinja chat template of an export are all written from this table, so they cannot differ.
`chat` is not in it: such rows stay turns, and TRL applies the tokenizer's own chat template to them.
"""

import json
from dataclasses import dataclass

from rlhf_recipes.data.formats.rows import Drop, Messages
from rlhf_recipes.data.formats.turns import hh_turns
from rlhf_recipes.errors import UserError


@dataclass(frozen=True)
class Template:
    """The text around the content of each turn.

    Args:
        user, assistant, system: what stands before and after the content of such a turn.
        generation: what follows the last turn, so that the model answers.
        lead: the first characters of every answer, between what `generation` or `user` wrote and its words.
        opening: what stands before the first user turn.
        opening_with_input: the same where that turn has an "input" (Alpaca).
        input: what stands between a turn's content and its "input".
    """

    user: tuple[str, str]
    assistant: tuple[str, str] = ("", "\n\n")
    system: tuple[str, str] = ("", "\n\n")
    generation: str = ""
    lead: str = ""
    opening: str = ""
    opening_with_input: str = ""
    input: str = "\n\n"

    def prompt(self, turns: Messages) -> str:
        """The turns before an answer as text."""
        around = {"user": self.user, "assistant": self.assistant, "system": self.system}
        text, opened = "", False
        for turn in turns:
            before, after = around[turn["role"]]
            content, has_input = turn["content"], "input" in turn
            if turn["role"] == "user" and not opened:
                text, opened = text + (self.opening_with_input if has_input else self.opening), True
            text += before + content + (self.input + turn["input"] if has_input else "") + after
        return text + self.generation

    def jinja(self) -> str:
        """The same as a Jinja chat template, for turns without an "input".

        Earlier answers lose their outer space where `lead` writes it, since a model's own words begin with the lead.
        """

        def words(text: str) -> str:
            return "{{ " + json.dumps(text) + " }}" if text else ""  # a Jinja literal knows JSON's escapes

        def turn(around: tuple[str, str], content: str = "message['content']") -> str:
            return words(around[0]) + "{{ " + content + " }}" + words(around[1])

        return (
            "{% set seen = namespace(user=0) %}{% for message in messages %}"
            "{% if message['role'] == 'user' %}{% set seen.user = seen.user + 1 %}"
            + ("{% if seen.user == 1 %}" + words(self.opening) + "{% endif %}" if self.opening else "")
            + turn(self.user)
            + "{% elif message['role'] == 'assistant' %}"
            + turn(self.assistant, "message['content'] | trim" if self.lead else "message['content']")
            + "{% else %}"
            + turn(self.system)
            + "{% endif %}{% endfor %}"
            + ("{% if add_generation_prompt %}" + words(self.generation) + "{% endif %}" if self.generation else "")
        )


TABLE = {
    # tatsu-lab/stanford_alpaca train.py, PROMPT_DICT, with the line break that its `text` column has before the answer;
    # a later question leaves the opening sentence out
    "alpaca": Template(
        user=("### Instruction:\n", "\n\n### Response:\n"),
        opening="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
        opening_with_input="Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n",
        input="\n\n### Input:\n",
    ),
    # the words alone, a blank line between turns; a row whose prompt is a string is not touched at all
    "plain": Template(user=("", "\n\n")),
    # Anthropic HH-RLHF
    "hh": Template(
        user=("\n\nHuman: ", ""),
        assistant=("\n\nAssistant: ", ""),
        system=("\n\n", ""),
        generation="\n\nAssistant:",
        lead=" ",
    ),
}
TEMPLATES = ("chat", *TABLE)


def render(template: str, prompt: str | Messages, *answers: str | Messages) -> list[str | Messages]:
    """A prompt and its answers under one of TEMPLATES: strings, or for `chat` lists of {"role", "content"}.

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
        return [prompt, *(_as_text(answer) for answer in answers)]
    turns = as_turns(prompt)
    if not turns or turns[-1]["role"] != "user":
        raise Drop("the prompt does not end with a question")
    if template == "chat":
        messages = [{"role": turn["role"], "content": _joined(turn)} for turn in turns]
        return [messages, *(_as_messages(answer) for answer in answers)]
    rules = TABLE[template]
    return [rules.prompt(turns), *(rules.lead + _as_text(answer).strip() for answer in answers)]


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


def _as_text(answer: str | Messages) -> str:
    return answer if isinstance(answer, str) else "\n\n".join(turn["content"] for turn in answer)


def _as_messages(answer: str | Messages) -> Messages:
    return [{"role": "assistant", "content": answer.strip()}] if isinstance(answer, str) else answer
