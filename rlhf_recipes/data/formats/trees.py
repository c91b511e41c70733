"""OpenAssistant's message trees."""

from rlhf_recipes.data.formats.rows import Drop, Messages, Ranking
from rlhf_recipes.data.formats.turns import ROLES


def oasst1(rows, *, lang: list[str] | None = None) -> list[Ranking]:
    """One tree's messages (`group: message_tree_id`) as one ranking for each question that was answered.

    Rank 0 is the answer people liked best, so that demos take it, and preferences every pair ranked apart.

    Args:
        rows: messages with message_id, parent_id, text, role ("prompter" | "assistant"), rank, deleted, review_result.
        lang: languages to keep, e.g. [en]; None keeps all 35.
    """
    if lang and rows[0].get("lang") not in lang:
        raise Drop(f"language not in {', '.join(lang)}")
    replies: dict[str | None, list[dict]] = {}
    for row in rows:
        if not row.get("deleted") and row.get("review_result") is not False:
            replies.setdefault(row["parent_id"], []).append(row)
    result: list[Ranking] = []
    for root in replies.get(None, []):
        _walk(root, [], replies, result)
    if not result:
        raise Drop("no answer in the tree")
    return result


def _walk(node: dict, before: Messages, replies: dict, result: list[Ranking]) -> None:
    path = [*before, {"role": ROLES[node["role"]], "content": node["text"].strip()}]
    below = replies.get(node["message_id"], [])
    if node["role"] == "prompter" and below:
        judged = [m for m in below if m.get("rank") is not None] or below[:1]
        ranks = [float(m.get("rank") or 0) for m in judged]
        result.append({"prompt": path, "completions": [m["text"].strip() for m in judged], "ranks": ranks})
    for child in below:
        _walk(child, path, replies, result)
