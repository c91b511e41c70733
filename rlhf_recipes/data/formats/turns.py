"""Dialogues: to turns of user and assistant that alternate, and from turns to prompt and completion."""

import re

from rlhf_recipes.data.formats.rows import Demo, Drop, Messages

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
_HH = re.compile(r"\n\n(Human|Assistant):")


def as_text(value: object, column: str) -> str:
    """A cell as text: a number is written out, an empty cell is ""; a list or an object is no text.

    Raises:
        Drop: the cell is a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise Drop(f"{column} is not text")


def user_turn(value: object, column: str, input: object = None) -> Messages:
    """A question as one user's turn; Alpaca's input stays apart, so that each template can place it."""
    turn = {"role": "user", "content": as_text(value, column).strip()}
    given = as_text(input, "input").strip()
    return [turn | ({"input": given} if given else {})]


def turns(messages: list, column: str = "messages") -> Messages:
    """Turns under the role names that chat templates know, neighbours of one role joined by a blank line.

    Accepts {"role", "content"} and ShareGPT's {"from", "value"}; an answer before the first question is left out,
    as FastChat does. Chat templates of Llama and Mistral refuse dialogues that do not alternate.

    Raises:
        Drop: not a list of turns, or a role that no template knows.

    >>> turns([{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "a"}, {"from": "human", "value": "b"}])
    [{'role': 'user', 'content': 'a\\n\\nb'}]
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Drop(f"{column} is not a list of turns")
    result: Messages = []
    for message in messages:
        role = message.get("role", message.get("from"))
        if role not in ROLES:
            raise Drop(f"a turn by {role!r}")
        turn = {"role": ROLES[role], "content": _content(message.get("content", message.get("value")), column)}
        if not result and turn["role"] == "assistant":
            continue
        if result and result[-1]["role"] == turn["role"]:
            result[-1]["content"] += "\n\n" + turn["content"]
        else:
            result.append(turn)
    return result


def hh_turns(text: str) -> Messages:
    """Anthropic's "\\n\\nHuman: …\\n\\nAssistant: …" as turns.

    Raises:
        Drop: the text does not begin as such a dialogue does.

    >>> hh_turns("\\n\\nHuman: Hi\\n\\nAssistant: Hello")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    head, *parts = _HH.split(text)
    if head.strip() or not parts:
        raise Drop("no «\\n\\nHuman: … \\n\\nAssistant: …» dialogue")
    names = {"Human": "user", "Assistant": "assistant"}
    return turns(
        [{"role": names[who], "content": text.strip()} for who, text in zip(parts[::2], parts[1::2], strict=True)]
    )


def prompt_of(value: object, column: str = "prompt") -> str | Messages:
    """A prompt as it stands: a string stays a string, a list becomes turns."""
    return turns(value, column) if isinstance(value, list) else as_text(value, column)


def answer_of(value: object, column: str) -> str | Messages:
    """An answer: a string, or the text of one assistant's turn, or several turns as they are."""
    if not isinstance(value, list):
        return as_text(value, column)
    if not value or not all(isinstance(m, dict) and "role" in m and "content" in m for m in value):
        raise Drop(f"{column} is not a list of turns")
    if len(value) == 1 and value[0]["role"] == "assistant":
        return _content(value[0]["content"], column)
    return [{"role": m["role"], "content": _content(m["content"], column)} for m in value]


def last_answer(messages: Messages) -> Demo:
    """The dialogue split at its last answer; what stands after that answer is left out.

    Raises:
        Drop: nobody answers.
    """
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not ends or not any(m["role"] == "user" for m in messages[: ends[-1]]):
        raise Drop("no answer by the assistant")
    return {"prompt": messages[: ends[-1]], "completion": messages[ends[-1]]["content"]}


def every_answer(messages: Messages) -> list[Demo]:
    """One demonstration for each answer, with all earlier turns as its prompt."""
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return [last_answer(messages[: i + 1]) for i in ends] or [last_answer(messages)]


def _content(value: object, column: str) -> str:
    if isinstance(value, list):  # OpenAI's parts: [{"type": "text", "text": …}]
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
            raise Drop("a turn that is not text")
        return "".join(part["text"] for part in value)
    return as_text(value, column).strip()
