"""Which rows are held out, and which of a mixture's rows are taken: by hashes of the text, so that all stages agree."""

from hashlib import blake2b

from rlhf_recipes.data.formats.rows import Messages
from rlhf_recipes.data.templates import as_turns


def fingerprint(text: str) -> int:
    """64 bits of a text without regard to case and white space: the same in every process and version.

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
    """All turns of a prompt as one text, to recognise the same prompt elsewhere."""
    return "\n".join(f"{turn['content']} {turn.get('input', '')}" for turn in as_turns(prompt))


def mix(parts: list[int], keys: list[int], weights: list[float], seed: int) -> list[int]:
    """Positions of a mixture's rows in the ratio of the weights, as many as there are without repeats.

    Args:
        parts: the source each row is of, 0 to len(weights) - 1.
        keys: each row's fingerprint.
        seed: of the shuffle that chooses them; the split into train and held-out rows does not depend on it.

    >>> [i < 4 for i in mix([0] * 4 + [1] * 100, list(range(104)), [1, 3], seed=0)].count(False)
    12
    """
    rows = [[i for i, part in enumerate(parts) if part == number] for number in range(len(weights))]
    total = min(len(own) / weight for own, weight in zip(rows, weights, strict=True))
    taken: list[int] = []
    for own, weight in zip(rows, weights, strict=True):
        own.sort(key=lambda i: blake2b(f"{seed} {keys[i]} {i}".encode(), digest_size=8).digest())
        taken += own[: round(total * weight)]
    return sorted(taken)


def divide(rows: list[int], keys: list[int], prompts: list[int], fraction: float) -> tuple[list[int], list[int], int]:
    """(train, held out, held-out rows left out because their prompt is trained too).

    A row is held out where its key falls into the lowest `fraction` of all 64-bit numbers, whatever else the data hold.
    The third is above 0 only for documents that are cut into prompt and rest: they are split by their whole text, and
    two of them may begin alike.
    """
    border = fraction * 2**64
    train = [i for i in rows if keys[i] >= border]
    held_out = [i for i in rows if keys[i] < border]
    trained = {prompts[i] for i in train}
    unseen = [i for i in held_out if prompts[i] not in trained]
    return train, unseen, len(held_out) - len(unseen)


def without(train: list[int], held_out: list[int], keys: list[int], prompts: list[int]) -> list[int]:
    """The training rows without those that a held-out source of its own holds too."""
    held_keys, held_prompts = {keys[i] for i in held_out}, {prompts[i] for i in held_out}
    return [i for i in train if keys[i] not in held_keys and prompts[i] not in held_prompts]


def cap(held_out: list[int], keys: list[int], most: int | None) -> list[int]:
    """The held-out rows with the smallest keys: the same prompts for every kind and every seed."""
    return sorted(sorted(held_out, key=lambda i: (keys[i], i))[:most])
