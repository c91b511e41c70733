"""Dialogues: to turns of user and assistant that alternate, and from turns to prompt and completion."""

import ast
import json
import re

from rlhf_recipes.data.formats.rows import Demo, Drop, Messages

ROLES = {  # in lower case
    "system": "system",
    "developer": "system",
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
_SPEAKER = re.compile(r"""["'](role|from)["']""")
_HH = re.compile(r"\n\n(Human|Assistant):")


def as_text(value: object, column: str) -> str:
    """A cell as text: a number is written out, an empty cell or NaN is ""; a list or an object is no text.

    Raises:
        Drop: the cell is a list or an object.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise Drop(f"{column} is not text")


def user_turn(value: object, column: str, input: object = None) -> Messages:
    """A question as one user's turn; Alpaca's input stays apart, so that each template can place it."""
    turn = {"role": "user", "content": as_text(value, column).strip()}
    given = as_text(input, "input").strip()
    return [turn | ({"input": given} if given else {})]


def turns(messages: list, column: str = "messages", *, weights: bool = False) -> Messages:
    """Turns under the role names that chat templates know, neighbours of one role joined by a blank line.

    Accepts {"role", "content"} and ShareGPT's {"from", "value"}. Chat templates of Llama and Mistral refuse dialogues
    that do not alternate, or that the assistant opens.

    Args:
        weights: keep OpenAI's `weight` of an answer, 0 or 1.

    Raises:
        Drop: not a list of turns, a role that no template knows, or a call of a tool that is not text.

    >>> turns([{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "a"}, {"from": "human", "value": "b"}])
    [{'role': 'assistant', 'content': 'Hi'}, {'role': 'user', 'content': 'a\\n\\nb'}]
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Drop(f"{column} is not a list of turns")
    result: Messages = []
    for message in messages:
        turn = _turn(message, column)
        if weights and turn["role"] == "assistant" and (weight := message.get("weight")) is not None:
            if weight not in (0, 1, "0", "1"):
                raise Drop(f"a turn of weight {weight!r}, expected 0 or 1")
            turn["weight"] = int(weight)
        if result and result[-1]["role"] == turn["role"]:
            if result[-1].get("weight", 1) != turn.get("weight", 1):
                raise Drop("two answers in a row of which one has weight 0")
            result[-1]["content"] += "\n\n" + turn["content"]
        else:
            result.append(turn)
    return result


def _turn(message: dict, column: str) -> dict:
    given = {key: value for key, value in message.items() if value is not None}  # Arrow adds None to a turn's keys
    if (role := role_of(message)) is None:
        raise Drop(f"a turn by {given.get('role', given.get('from'))!r}")
    for call in ("tool_calls", "function_call"):
        if given.get(call):
            raise Drop(f"a turn with {call}")
    return {"role": role, "content": _content(given.get("content", given.get("value")), column)}


def role_of(turn: dict) -> str | None:
    """system, user or assistant; None where a turn is by nobody that a template knows.

    >>> role_of({"role": None, "from": "GPT"}), role_of({"from": "observation"})
    ('assistant', None)
    """
    return ROLES.get(str(turn.get("role") or turn.get("from")).lower())


def decoded(cell: object) -> object:
    """A cell of a CSV file in which turns were written as JSON or as Python prints them, as those turns.

    >>> decoded("[{'role': 'user', 'content': 'Hi'}]"), decoded("[1] is a reference")
    ([{'role': 'user', 'content': 'Hi'}], '[1] is a reference')
    """
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")) or not _SPEAKER.search(cell):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if are_turns(value if isinstance(value, list) else [value]) else cell
    return cell


def are_turns(cell: object) -> bool:
    """Whether a cell is a list of turns, at least one of them by a speaker that a template knows."""
    if not isinstance(cell, list) or not all(isinstance(turn, dict) for turn in cell):
        return False
    complete = all({"role", "from"} & turn.keys() and _SPOKEN & turn.keys() for turn in cell)
    return complete and any(map(role_of, cell))


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


def prompt_of(value: object, *answers: object) -> str | Messages:
    """A prompt as it stands: a string stays a string, a list becomes turns, as does a string that turns answer."""
    if isinstance(value, list):
        return turns(value, "prompt")
    conversational = any(isinstance(answer, list | dict) for answer in answers)
    return user_turn(value, "prompt") if conversational else as_text(value, "prompt")


def answer_of(value: object, column: str) -> str | Messages:
    """An answer: a string, or the text of one assistant's turn, or several turns as they are."""
    if isinstance(value, dict) and _SPOKEN & value.keys():  # LLaMA-Factory's one turn
        value = [value]
    if not isinstance(value, list):
        return as_text(value, column)
    if not value or not all(isinstance(m, dict) and _SPOKEN & m.keys() for m in value):
        raise Drop(f"{column} is not a list of turns")
    answer = [_turn(message, column) for message in value]
    return answer[0]["content"] if len(answer) == 1 and answer[0]["role"] == "assistant" else answer


def answered(prompt: object, completion: object) -> Demo:
    """A prompt and its answer; an answer that is a whole conversation is split at its last turn by the assistant.

    Raises:
        Drop: the assistant says nothing in it.
    """
    if not is_dialogue(completion):
        return {"prompt": prompt_of(prompt, completion), "completion": answer_of(completion, "completion")}
    demo = last_answer(turns(completion, "completion"))
    return demo | {"prompt": continued(prompt, demo["prompt"])}


def is_dialogue(answer: object) -> bool:
    """Whether an answer is a whole conversation: its first turn is not the assistant's."""
    return are_turns(answer) and role_of(answer[0]) != "assistant"


def continued(before: object, prompt: Messages) -> Messages:
    """The prompt inside a conversation, after the turns of a `prompt` column that the conversation does not repeat.

    A `prompt` that is a string repeats the conversation's own question.
    """
    earlier = turns(before, "prompt") if isinstance(before, list) else []
    system = [turn for turn in earlier if turn["role"] == "system"]
    own = [turn for turn in earlier if turn["role"] != "system"]
    first = 1 if prompt[0]["role"] == "system" else 0
    if prompt[first : first + len(own)] != own:
        return turns([*earlier, *prompt], "prompt")
    return prompt if first else [*system, *prompt]


def from_json(cell: object) -> object:
    """What the JSON in a text cell says; any other cell as it is."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell


def history_turns(history: object) -> Messages:
    """LLaMA-Factory's `history`, [[question, answer], …], or a list of turns, as turns."""
    history = from_json(history)
    if history is None or history == "":
        return []
    if not isinstance(history, list):
        raise Drop("history is not a list of [question, answer]")
    if all(isinstance(turn, dict) for turn in history):
        return turns(history, "history")
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Drop("history is not a list of [question, answer]")
    pairs = [pair for pair in history if any(pair)]
    return turns([{"role": role, "content": text} for pair in pairs for role, text in zip(_PAIR, pair, strict=True)])


def last_answer(messages: Messages) -> Demo:
    """The dialogue split at its last answer; what stands after that answer is left out. Drop: nobody answers."""
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not ends or not any(m["role"] == "user" for m in messages[: ends[-1]]):
        raise Drop("no answer by the assistant")
    earlier = [{"role": m["role"], "content": m["content"]} for m in messages[: ends[-1]]]
    return {"prompt": earlier, "completion": messages[ends[-1]]["content"]}


def every_answer(messages: Messages) -> list[Demo]:
    """One demonstration for each answer to a user that is not of weight 0, with all earlier turns as its prompt."""
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), len(messages))
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i > first]
    trained = [last_answer(messages[: i + 1]) for i in ends if messages[i].get("weight", 1)]
    if ends and not trained:
        raise Drop("every answer has weight 0")
    return trained or [last_answer(messages)]


def _content(value: object, column: str) -> str:
    if isinstance(value, list):  # OpenAI's parts: [{"type": "text", "text": …}]
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
            raise Drop("a turn that is not text")
        return "".join(part["text"] for part in value)
    return as_text(value, column).strip()


_PAIR = ("user", "assistant")
_SPOKEN = {"content", "value"}
