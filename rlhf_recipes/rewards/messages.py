"""What a reward function receives: plain text or a conversation, and the columns of the dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_recipes.errors import UserError

Text = str | list[dict[str, Any]]  # TRL's two types: text, or messages [{"role": ..., "content": ...}]


def text_of(completion: Text) -> str:
    """The text of a completion: the string itself, or the assistant's messages of a conversation.

    Args:
        completion: a string, or messages whose content is a string, None (a bare tool call) or a list of blocks.

    Returns:
        The text; several assistant messages are joined by a newline.

    >>> text_of("72"), text_of([{"role": "assistant", "content": "72"}])
    ('72', '72')
    """
    if isinstance(completion, str):
        return completion
    own = [message for message in completion if message.get("role", "assistant") == "assistant"]
    return "\n".join(_content(message) for message in own)


def dialogue_of(prompt: Text) -> str:
    """A prompt as a reader sees it: the string itself, or one line `role: content` a message.

    >>> dialogue_of([{"role": "user", "content": "Hi"}])
    'user: Hi'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.get('role', 'user')}: {_content(message)}" for message in prompt)


def column_of(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The dataset column that a reward reads.

    Args:
        name: the column, or several names separated by `|`, of which the rows' first counts.

    Raises:
        UserError: the rows have no such column; the message lists those they have.

    >>> column_of({"answer": ["72"]}, "final_answer|answer")
    ['72']
    """
    for one in name.split("|"):
        if one in columns:
            return columns[one]
    have = ", ".join(sorted(key for key, value in columns.items() if isinstance(value, list))) or "none"
    raise UserError(
        f"the rows have no column '{name}' (columns beside prompt and completion: {have}). "
        "Name the one that holds it in this function's kwargs, for example kwargs.column=<name>."
    )


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)  # [{"type": "text", "text": ...}, ...]
