"""A row that is dropped is counted under its reason and named by its place, whatever it is read from."""

import json

import pytest

from rlhf_recipes import data

GOOD, EMPTY = {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": ""}
ROWS = [GOOD, EMPTY, GOOD, EMPTY]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


PLACES = {
    "rows.jsonl": (lines(ROWS), "line 2, line 4"),
    "blank_lines.jsonl": ("\n\n" + lines(ROWS), "line 4, line 6"),
    "rows.json": (json.dumps(ROWS), "item 2, item 4"),
    "lines.json": (lines(ROWS), "line 2, line 4"),
    "wrapped.json": (json.dumps({"data": ROWS}), "item 2, item 4"),
    "rows.csv": ('prompt,completion\n"a\nquestion",a\nq,\n', "line 4"),
    "rows.tsv": ("prompt\tcompletion\nq\ta\nq\t\n", "line 3"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_row_of_a_file_is_named_by_its_line_or_item(name, write, local):
    content, places = PLACES[name]
    split = data.load(local(demos={"path": write(content, name)}), "demos")
    assert split.counts["dropped_at"] == {"empty answer": places}
    assert f"empty answer ({places}))" in split.describe()


def test_a_row_of_a_table_is_named_by_its_index(tmp_path, local):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for name in ("rows.parquet", "saved"):
        split = data.load(local(demos={"path": str(tmp_path / name)}), "demos")
        assert split.counts["dropped_at"] == {"empty answer": "index 1, index 3"}, name
    table = Dataset.from_list([(GOOD if i == 6 else EMPTY) | {"prompt": f"q{i}"} for i in range(9)])
    table.save_to_disk(tmp_path / "sampled")
    split = data.load(local(demos={"path": str(tmp_path / "sampled"), "limit": 6}), "demos")
    sample = table.shuffle(seed=0).select(range(6))["prompt"]
    expected = [f"index {prompt[1:]}" for prompt in sample if prompt != "q6"][:3]
    assert split.counts["dropped_at"] == {"empty answer": ", ".join([*expected, "…"])}


def test_a_row_of_one_file_among_several_is_named_with_its_file(tmp_path, write, local):
    write([GOOD, GOOD], "set/a.jsonl")
    write([GOOD, EMPTY], "set/b.jsonl")
    split = data.load(local(demos={"path": str(tmp_path / "set")}), "demos")
    assert split.counts["dropped_at"] == {"empty answer": "b.jsonl line 2"}


def test_a_group_is_named_by_its_first_row_and_a_text_by_its_number(write, local):
    tree = {"message_tree_id": "t", "message_id": "1", "parent_id": None, "role": "prompter", "text": "Why?"}
    answer = tree | {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "So.", "rank": 0}
    alone = tree | {"message_tree_id": "u", "message_id": "3"}
    source = {"path": write([tree, alone, answer]), "format": "oasst1", "group": "message_tree_id"}
    split = data.load(local(ranked=source), "demos")
    assert split.counts["dropped_at"] == {"no answer in the tree": "line 2"}


def test_every_reason_names_its_rows_and_the_first_three_of_many(write, local, chatty):
    chatty.chat_template = "{{ raise_exception('too odd') if 'odd' in messages[0].content }}" + chatty.chat_template
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}

    def row(question: str, answer: str, role: str = "assistant") -> dict:
        return {"messages": [{"role": "user", "content": question}, {"role": role, "content": answer}]}

    rows = [good, row("q", "1", "tool"), row("q", ""), row("odd", "a"), row("long " * 40, "a"), row("", "a")]
    rows += [row("q", "")] * 3 + [{"messages": "text"}, {"messages": None}]
    node = local(template="chat", demos={"path": write(rows)})
    split = data.load(node, "demos", tokenizer=chatty, max_length=100, max_prompt_length=60)
    assert split.counts["dropped_at"] == {
        "a turn by 'tool'": "line 2",
        "empty answer": "line 3, line 7, line 8, …",
        "the chat template of this tokenizer refuses a row": "line 4: too odd",
        "prompt longer than 60 tokens": "line 5",
        "empty prompt": "line 6",
        "messages is not a list of turns": "line 10",
        "no messages": "line 11",
    }
    assert split.counts["dropped"]["empty answer"] == 4 and len(split.train) == 1


def test_a_row_of_one_source_among_several_is_named_with_its_source(write, local):
    paths = {
        name: write(rows, name) for name, rows in {"a.jsonl": [GOOD, EMPTY], "b.csv": "prompt,completion\nq,\n"}.items()
    }
    mixture = local(demos={"sources": [{"path": path} for path in paths.values()]})
    at = data.load(mixture, "demos").counts["dropped_at"]
    assert at == {"empty answer": "a.jsonl line 2, b.csv line 2"}
    held = local(demos={"path": paths["a.jsonl"], "eval_path": paths["b.csv"]})
    assert data.load(held, "demos").counts["dropped_at"] == at
