"""The five rewards usually trained with on GSM8K: is it right, is it an integer, and three marks for the XML form.

    <reasoning>
    48 / 2 = 24, 48 + 24 = 72
    </reasoning>
    <answer>
    72
    </answer>

Each function takes the names of the tags that it reads, and its `reward`.
Source: the five functions of W. Brown's GRPO demo (2025). We depart from it on purpose: patterns match over several
lines, an answer counts by its value and wherever it is marked, and text after `</answer>` is charged once.
Full marks for a gold answer in this form: 2.0 + 0.5 + 0.5 + 0.5 + 0.5 = 4.0.
"""

from typing import Any

from rlhf_recipes.rewards.answers import marked_answer, same_answer, whole_number
from rlhf_recipes.rewards.messages import Text, column_of, dialogue_of, text_of


def correctness(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "final_answer|answer",
    tag: str = "answer",
    reward: float = 2.0,
    **columns: Any,
) -> list[float | None]:
    r"""Is the answer right?

    Args:
        column: the dataset column with the gold answer, bare or in GSM8K's own form ending `#### 72`; of several
            names parted by `|` the first that the rows have.
        tag: the XML tag that may hold the answer; `\boxed{}`, `####` and "the answer is" are read as well.

    Returns:
        `reward` or 0.0 a row; None where the gold is None.

    >>> correctness(["?", "?"], ["<answer>\n72\n</answer>", "It is 71."], answer=["48 + 24 = 72\n#### 72"] * 2)
    [2.0, 0.0]
    """
    golds = column_of(columns, column)
    return [
        None if gold is None else reward * same_answer(text, gold, tag)
        for text, gold in zip(_whole(prompts, completions, "think"), golds, strict=True)
    ]


def integer(
    prompts: list[Text], completions: list[Text], *, tag: str = "answer", reward: float = 0.5, **columns: Any
) -> list[float]:
    """Is the answer an integer and nothing else, right or wrong? Currency, sign and thousands separators are allowed.

    >>> integer(["?"] * 3, ["<answer>1,234</answer>", "<answer>72 clips</answer>", "I do not know."])
    [0.5, 0.0, 0.0]
    """
    texts = _whole(prompts, completions, "think")
    answers = [text if (marked := marked_answer(text, tag)) is None else marked for text in texts]
    return [reward * (whole_number(answer) is not None) for answer in answers]


def strict_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_tag: str = "reasoning",
    tag: str = "answer",
    reward: float = 0.5,
    **columns: Any,
) -> list[float]:
    r"""Is the whole text the form above, each tag once and on a line of its own? The last line break may be missing.

    >>> good = "<reasoning>\n48 + 24\n</reasoning>\n<answer>\n72\n</answer>\n"
    >>> strict_format(["?"] * 2, [good, "Sure! " + good])
    [0.5, 0.0]
    """
    first, between, last = f"<{reasoning_tag}>\n", f"\n</{reasoning_tag}>\n<{tag}>\n", f"\n</{tag}>"
    tags = (f"<{reasoning_tag}>", f"</{reasoning_tag}>", f"<{tag}>", f"</{tag}>")
    scores = []
    for text in _whole(prompts, completions, reasoning_tag):
        text = text.removesuffix("\n")
        formed = text.startswith(first) and text.endswith(last) and between in text
        scores.append(reward * (formed and all(text.count(mark) == 1 for mark in tags)))
    return scores


def soft_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_tag: str = "reasoning",
    tag: str = "answer",
    reward: float = 0.5,
    **columns: Any,
) -> list[float]:
    """Do the two tagged parts follow each other, with only white space between them, anywhere in the text?

    >>> soft_format(["?"] * 2, ["<reasoning>6 x 12</reasoning> <answer>72</answer> Done.", "<answer>72</answer>"])
    [0.5, 0.0]
    """
    scores = []
    for text in _whole(prompts, completions, reasoning_tag):
        _, _, thought = text.partition(f"<{reasoning_tag}>")
        rest = thought.partition(f"</{reasoning_tag}>")[2].lstrip()
        scores.append(reward * (rest.startswith(f"<{tag}>") and f"</{tag}>" in rest))
    return scores


def xml_count(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_tag: str = "reasoning",
    tag: str = "answer",
    reward: float = 0.5,
    **columns: Any,
) -> list[float]:
    r"""A quarter of `reward` for each tag that occurs once and on its own line, less 0.001 a character after the end.

    The score is at least 0, so a long tail costs at most what the tags earned.

    >>> xml_count(["?"] * 2, ["<reasoning>\n48 + 24\n</reasoning>\n<answer>\n72\n</answer>\n", "<reasoning>\nHm"])
    [0.5, 0.125]
    """
    marks = (f"<{reasoning_tag}>\n", f"\n</{reasoning_tag}>\n", f"\n<{tag}>\n", f"\n</{tag}>")
    scores = []
    for text in _whole(prompts, completions, reasoning_tag):
        _, closed, tail = text.rpartition(marks[3])
        cost = 0.001 * len(tail.strip()) if closed else 0.0
        scores.append(max(0.0, reward / 4 * sum(text.count(mark) == 1 for mark in marks) - cost))
    return scores


def _whole(prompts: list[Text], completions: list[Text], tag: str) -> list[str]:
    """The completions' texts, each with the opening tag where the prompt ends with it, as some templates prefill it."""
    opened = [dialogue_of(prompt).rstrip().endswith(f"<{tag}>") for prompt in prompts]
    texts = map(text_of, completions)
    return [f"<{tag}>\n{text.lstrip()}" if o else text for o, text in zip(opened, texts, strict=True)]
