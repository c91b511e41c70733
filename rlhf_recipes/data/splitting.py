"""Which rows are held out, and which of a mixture's rows are taken: by hashes of the text, so that all stages agree."""

from hashlib import blake2b

from rlhf_recipes.data.formats.rows import Messages
from rlhf_recipes.data.templates import as_turns

WHOLE = 2**64


def fingerprint(text: str) -> int:
    """64 bits of a text, case and white space left out of account: the same in every process and version.

    >>> fingerprint("What is\\n2 + 2?") == fingerprint(" what is 2 + 2?")
    True
    """
    normal = " ".join(text.casefold().split())
    return int.from_bytes(blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def opening(prompt: str | Messages) -> str:
    """What the split hashes of a prompt: the user's first turn, so that no dialogue has turns on both sides.

    Neither the template nor a system prompt changes it. A prompt that is a string is hashed whole, unless it is an HH
    dialogue.
    """
    turns = as_turns(prompt)
    first = next((turn for turn in turns if turn["role"] == "user"), turns[0] if turns else {"content": ""})
    return f"{first['content']} {first.get('input', '')}"


def whole(prompt: str | Messages) -> str:
    """The prompt's every turn, for finding the same prompt again."""
    return "\n".join(f"{turn['content']} {turn.get('input', '')}" for turn in as_turns(prompt))


def held_out(key: int, fraction: float) -> bool:
    """Whether a fingerprint falls into the held-out share; independent of what else the data holds."""
    return key < fraction * WHOLE


def quotas(sizes: list[int], weights: list[float]) -> list[int]:
    """Rows to take of each source so that they stand in the ratio of the weights, as many as can be without repeats.

    Args:
        sizes: rows each source has.
        weights: relative shares, above 0.

    >>> quotas([100, 1000], [1, 3])
    [100, 300]
    >>> quotas([0, 1000], [1, 3])
    [0, 0]
    """
    total = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [min(size, round(total * weight)) for size, weight in zip(sizes, weights, strict=True)]


def mix(parts: list[int], keys: list[int], weights: list[float], seed: int) -> list[int]:
    """Positions of a mixture's rows in the ratio of the weights, chosen by a shuffle that `held_out` does not see.

    Args:
        parts: the source each row is of, 0 to len(weights) - 1.
        keys: each row's fingerprint.
        weights: relative shares, above 0.
        seed: of the shuffle.
    """
    of: list[list[int]] = [[] for _ in weights]
    for position, part in enumerate(parts):
        of[part].append(position)
    taken: list[int] = []
    for rows, quota in zip(of, quotas([len(rows) for rows in of], weights), strict=True):
        rows.sort(key=lambda i: blake2b(f"{seed} {keys[i]} {i}".encode(), digest_size=8).digest())
        taken += rows[:quota]
    return sorted(taken)


def divide(rows: list[int], keys: list[int], prompts: list[int], fraction: float) -> tuple[list[int], list[int], int]:
    """(train, held out, held-out rows left out because their prompt is trained too).

    The third is 0 where a prompt decides its side; documents cut into prompt and rest are split whole, and two of them
    may begin alike.
    """
    train = [i for i in rows if not held_out(keys[i], fraction)]
    aside = [i for i in rows if held_out(keys[i], fraction)]
    known = {prompts[i] for i in train}
    held = [i for i in aside if prompts[i] not in known]
    return train, held, len(aside) - len(held)


def apart(train: list[int], held: list[int], keys: list[int], prompts: list[int]) -> list[int]:
    """The training rows without those that a held-out source of its own holds too."""
    known, asked = {keys[i] for i in held}, {prompts[i] for i in held}
    return [i for i in train if keys[i] not in known and prompts[i] not in asked]


def cap(held: list[int], keys: list[int], most: int | None) -> list[int]:
    """The held-out rows with the smallest keys: the same prompts for every kind and every seed."""
    if most is None or len(held) <= most:
        return held
    return sorted(sorted(held, key=lambda i: (keys[i], i))[:most])
