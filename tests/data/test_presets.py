"""Every conf/data preset on a few rows in its set's own schema, from a file in the hub's place."""

import pytest

from rlhf_recipes import data
from rlhf_recipes.config.paths import CONF, options
from rlhf_recipes.data.domain import domain

TALK = [{"from": "human", "value": "Hi {i}"}, {"from": "gpt", "value": "Hello"}]
MATHS = "Solve {i}x = 1. The answer is in the form k, find k."


def message(i: int, **fields) -> dict:
    return {
        "user_id": "u",
        "created_date": "2023-02-05",
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": None,
        "synthetic": False,
        "model_name": None,
        "message_tree_id": f"tree{i}",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [1]},
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]},
    } | fields


def tree(i: int) -> list[dict]:
    return [
        message(i, message_id=f"{i}a", parent_id=None, text=f"Why {i}?", role="prompter"),
        message(i, message_id=f"{i}b", parent_id=f"{i}a", text="Because.", role="assistant", rank=1),
        message(i, message_id=f"{i}c", parent_id=f"{i}a", text="For a reason.", role="assistant", rank=0),
    ]


def chat(*turns: str) -> list[dict]:
    return [{"content": t, "role": "user" if i % 2 == 0 else "assistant"} for i, t in enumerate(turns)]


# preset: (kind whose source is replaced, row i of the set, {kind: (rows made of 40, one row of it)})
PRESETS = {
    "alpaca": (
        "demos",
        lambda i: {"instruction": f"Give {i} tips.", "input": "", "output": "1. Eat.", "text": "Below is …"},
        {"demos": (40, "completion"), "prompts": (40, "prompt"), "corpus": (40, "text")},
    ),
    "dolly": (
        "demos",
        lambda i: {
            "instruction": f"Who is {i}?",
            "context": f"{i} is Ann.",
            "response": "Ann",
            "category": "closed_qa",
        },
        {"demos": (40, "completion"), "prompts": (40, "category"), "corpus": (40, "text")},
    ),
    "sharegpt": (
        "demos",
        lambda i: {"id": f"x_{i}", "conversations": [{**t, "value": t["value"].format(i=i)} for t in TALK * 2]},
        {"demos": (80, "completion"), "prompts": (80, "id"), "corpus": (80, "text")},
    ),
    "oasst1": (
        "ranked",
        tree,
        {
            "demos": (40, "completion"),
            "preferences": (40, "rejected"),
            "prompts": (40, "prompt"),
            "ranked": (40, "ranks"),
        },
    ),
    "flan": (
        "demos",
        lambda i: {"inputs": f"Is {i} even?\nAnswer:", "targets": "yes", "task": "bool_q_10templates"},
        {"demos": (40, "completion"), "prompts": (40, "task"), "corpus": (40, "text")},
    ),
    "hh_rlhf": (
        "preferences",
        lambda i: {
            "chosen": f"\n\nHuman: Hi {i}\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Take care!",
            "rejected": f"\n\nHuman: Hi {i}\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Whatever",
        },
        {"preferences": (40, "chosen"), "demos": (40, "completion"), "prompts": (40, "prompt"), "corpus": (40, "text")},
    ),
    "ultrafeedback": (
        "preferences",
        lambda i: {
            "prompt": f"Write {i}.",
            "prompt_id": f"{i:064x}",
            "chosen": chat(f"Write {i}.", "Good."),
            "rejected": chat(f"Write {i}.", "Bad."),
            "messages": chat(f"Write {i}.", "Good."),
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        },
        {"preferences": (40, "score_chosen"), "demos": (40, "completion"), "prompts": (40, "prompt_id")},
    ),
    "shp": (
        "preferences",
        lambda i: {
            "post_id": f"p{i}",
            "domain": "askbaking_train",
            "upvote_ratio": 0.98,
            "history": f"How to bake {i}?",
            "c_root_id_A": "a",
            "c_root_id_B": "b",
            "score_A": 22 if i % 4 else 6,
            "score_B": 5,
            "human_ref_A": "With flour.",
            "human_ref_B": "No idea.",
            "labels": 1,
            "seconds_difference": 3906.0,
            "score_ratio": 4.4 if i % 4 else 1.2,
        },
        {"preferences": (30, "score_ratio"), "demos": (30, "completion"), "prompts": (30, "post_id")},
    ),
    "imdb": (
        "demos",
        lambda i: {"text": f"{i} " + "What is the answer to this ? " * 5, "label": 1},
        {"demos": (40, "completion"), "prompts": (40, "label")},
    ),
    "tinystories": (
        "demos",
        lambda i: {"text": f"{i} " + "What is the answer to this ? " * 9},
        {"demos": (40, "completion"), "prompts": (40, "prompt")},
    ),
    "text": ("corpus", lambda i: {"text": f"Document {i}."}, {"corpus": (40, "text")}),
    "gsm8k": (
        "demos",
        lambda i: {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"},
        {"demos": (40, "completion"), "prompts": (40, "final_answer"), "corpus": (40, "text")},
    ),
    "dapo_math_17k": (
        "prompts",
        lambda i: {
            "prompt": MATHS.format(i=i),
            "solution": f"{i}",
            "data_source": "math_dapo",
            "source_prompt": chat("Solve the following …"),
            "ability": "MATH",
            "reward_model": {"ground_truth": f"{i}", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"{i}"},
        },
        {"prompts": (40, "final_answer")},
    ),
    "sql_create_context": (
        "demos",
        lambda i: {
            "answer": f"SELECT COUNT(*) FROM head WHERE age > {i}",
            "question": f"How many heads are older than {i}?",
            "context": "CREATE TABLE head (age INTEGER)",
        },
        {"demos": (40, "completion"), "prompts": (40, "sql"), "corpus": (40, "text")},
    ),
    "wikisql": (
        "demos",
        lambda i: {
            "phase": 1,
            "question": f"Tell me the notes for {i}",
            "table": {
                "header": ["State", "Notes"],
                "page_title": "",
                "page_id": "",
                "types": ["text", "text"],
                "id": "1-1000181-1",
                "section_title": "",
                "caption": "",
                "rows": [["SOUTH AUSTRALIA", "No slogan"]],
                "name": "table_1000181_1",
            },
            "sql": {
                "human_readable": "SELECT Notes FROM table WHERE State = SOUTH AUSTRALIA",
                "sel": 1,
                "agg": 0,
                "conds": {"column_index": [0], "operator_index": [0], "condition": ["SOUTH AUSTRALIA"]},
            },
        },
        {"demos": (40, "completion"), "prompts": (40, "context"), "corpus": (40, "text")},
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_reads_its_own_schema(name, preset, write, chatty):
    kind, row, wanted = PRESETS[name]
    rows = [r for i in range(40) for r in (row(i) if isinstance(row(i), list) else [row(i)])]
    node = preset(name, f"data.{kind}.path={write(rows)}", "data.eval_fraction=0.25")
    for want, (total, column) in wanted.items():
        data.check(node, want)
        split = data.load(node, want, tokenizer=chatty)
        assert (split.counts["train"] + split.counts["eval"], len(split.eval) > 0) == (total, True), want
        assert split.train[0][column], want
        assert split.counts["rows"] == total + sum(split.counts["dropped"].values())


def first(preset, write, name: str, kind: str, chatty) -> dict:
    source, row, _ = PRESETS[name]
    rows = row(7) if isinstance(row(7), list) else [row(7)]
    node = preset(name, f"data.{source}.path={write(rows)}", "data.eval_fraction=0")
    made = data.load(node, kind, tokenizer=chatty).train[0]
    return {name: value for name, value in made.items() if not name.endswith(("_ids", "_mask"))}


def test_presets_choose_the_right_words(preset, write, chatty):
    def one(name, kind):
        return first(preset, write, name, kind, chatty)

    dolly = one("dolly", "demos")
    assert dolly["prompt"].endswith("### Instruction:\nWho is 7?\n\n### Input:\n7 is Ann.\n\n### Response:\n")
    assert dolly["completion"] == "Ann"
    assert one("flan", "demos") == {"prompt": "Is 7 even?\nAnswer:\n", "completion": "yes"}
    assert one("hh_rlhf", "preferences") == {
        "prompt": "\n\nHuman: Hi 7\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:",
        "chosen": " Take care!",
        "rejected": " Whatever",
    }
    assert one("ultrafeedback", "demos")["completion"] == [{"role": "assistant", "content": "Good."}]
    assert one("oasst1", "demos")["completion"] == [{"role": "assistant", "content": "For a reason."}]
    assert one("shp", "preferences")["chosen"] == "With flour."
    assert len(chatty(one("imdb", "prompts")["prompt"]).input_ids) == 10
    assert len(chatty(one("tinystories", "prompts")["prompt"]).input_ids) == 32
    assert one("gsm8k", "prompts")["answer"].endswith("#### 8")
    assert one("wikisql", "demos")["completion"] == (" SELECT notes FROM t_1_1000181_1 WHERE state = 'SOUTH AUSTRALIA'")
    assert "table" not in one("wikisql", "prompts")


def test_every_preset_has_its_name_and_is_tried_above(preset):
    for name in options(CONF / "data"):
        assert domain(preset(name)).name == name
        assert name in PRESETS or name in ("embedded", "local"), name


def test_local_lists_every_setting_with_its_default(preset):
    """conf/data/local.yaml is the reference of what a domain and a source can have."""
    from dataclasses import fields

    from rlhf_recipes.data.domain import Domain
    from rlhf_recipes.data.sources import Source

    node = preset("local")
    for schema, values in ((Domain, node), (Source, node.demos)):
        names = [f.name for f in fields(schema) if f.name not in ("where", "key", "name", "ranked")]
        for name in names:
            assert name in values, name
            default = getattr(schema(), name)
            if name not in ("corpus", "demos", "preferences", "prompts", "unpaired"):
                assert values[name] == default, name
