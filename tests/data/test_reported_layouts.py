"""Layouts that people report trouble with in other kits, each with the row that a person would expect."""

import csv
import io
import json

import pytest

from rlhf_recipes import data
from rlhf_recipes.errors import UserError


def user(text) -> dict:
    return {"role": "user", "content": text}


def assistant(text, **more) -> dict:
    return {"role": "assistant", "content": text} | more


ASK, ANSWER, OTHER = user("Hi"), assistant("Hello."), assistant("No.")
DEMO, PAIR = {"prompt": [ASK], "completion": [ANSWER]}, {"prompt": [ASK], "chosen": [ANSWER], "rejected": [OTHER]}
SYSTEM = {"role": "system", "content": "Be brief."}


def loaded(path: str, kind: str, template: str = "chat") -> data.Split:
    return data.load({"eval_fraction": 0, "template": template, kind: {"path": path}}, kind)


def csv_text(row: dict) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([row.keys(), row.values()])
    return table.getvalue()


@pytest.mark.parametrize("spelled", [json.dumps, str])
@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("demos", {"prompt": [ASK], "completion": [ANSWER]}, DEMO),
        ("demos", {"messages": [ASK, ANSWER]}, DEMO),
        ("preferences", {"prompt": [ASK], "chosen": [ANSWER], "rejected": [OTHER]}, PAIR),
        ("prompts", {"prompt": [ASK]}, {"prompt": [ASK]}),
    ],
)
def test_turns_in_a_cell_of_a_csv_file(kind, row, expected, spelled, write):
    """They were trained as the text «[{"role": …»."""
    path = write(csv_text({name: spelled(cell) for name, cell in row.items()}), "rows.csv")
    [made] = loaded(path, kind).train
    assert made == expected


def test_a_turn_by_a_tool_in_a_cell_of_a_csv_file_costs_its_row(write):
    cells = [json.dumps([ASK, {"role": "tool", "content": "1"}]), json.dumps([ASK])]
    table = io.StringIO()
    csv.writer(table).writerows([("prompt", "completion"), *((cell, "Hello.") for cell in cells)])
    split = loaded(write(table.getvalue(), "rows.csv"), "demos")
    assert list(split.train) == [DEMO]
    assert split.counts["dropped_at"] == {"a turn by 'tool'": "line 2"}


@pytest.mark.parametrize(
    "text", ["[1] is a reference", "{x: 1}", "[[]]", "[]", '{"from": "Rome", "to": "Pisa"}', "[" * 5000]
)
def test_a_text_with_brackets_stays_a_text(text, write):
    path = write(csv_text({"prompt": text, "completion": "a"}), "rows.csv")
    assert loaded(path, "demos", "plain").train[0]["prompt"] == text


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]},  # UltraFeedback
        {"prompt": [ASK], "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]},
        {"chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]},
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [OTHER]},
    ],
)
def test_answers_that_repeat_their_prompt(row, write):
    assert loaded(write([row]), "preferences").train[0] == PAIR


def test_dialogues_that_go_on_from_their_prompt(write):
    before = [user("a"), assistant("b")]
    rows = [
        {"prompt": before, "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]},
        {"prompt": [SYSTEM, ASK], "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]},
        {"prompt": [SYSTEM, ASK], "chosen": [SYSTEM, ASK, ANSWER], "rejected": [SYSTEM, ASK, OTHER]},
    ]
    prompts = [row["prompt"] for row in loaded(write(rows), "preferences").train]
    assert prompts == [[*before, ASK], [SYSTEM, ASK], [SYSTEM, ASK]]


def test_a_whole_hh_dialogue_beside_its_prompt(write):
    start = "\n\nHuman: Hi\n\nAssistant:"
    row = {"prompt": start, "chosen": f"{start} Hello.", "rejected": f"{start} No."}
    made = loaded(write([row]), "preferences", "hh").train[0]
    assert made == {"prompt": start, "chosen": " Hello.", "rejected": " No."}


@pytest.mark.parametrize("prompt", [[ASK], "Hi"])
@pytest.mark.parametrize("kind", ["demos", "unpaired"])
def test_an_answer_that_repeats_its_prompt_or_is_none(kind, prompt, write):
    label = {"label": True} if kind == "unpaired" else {}
    rows = [{"prompt": prompt, "completion": talk} | label for talk in ([ASK, ANSWER], [ANSWER], [ASK])]
    split = loaded(write(rows), kind)
    assert list(split.train) == [DEMO | label] * 2
    assert split.counts["dropped_at"] == {"no answer by the assistant": "line 3"}


def test_lists_in_a_cell_of_a_csv_file(write):
    ranking = {"prompt": "Hi", "completions": json.dumps(["No.", "Hello."]), "scores": "[1, 2]"}
    made = loaded(write(csv_text(ranking), "ranking.csv"), "ranked", "plain").train[0]
    assert made == {"prompt": "Hi", "completions": ["Hello.", "No."], "ranks": [-2.0, -1.0]}
    alpaca = {"instruction": "Hi", "output": "Hello.", "history": '[["a", "b"]]'}
    made = loaded(write(csv_text(alpaca), "alpaca.csv"), "demos").train[0]
    assert made["prompt"] == [user("a"), assistant("b"), ASK]
    assert loaded(write(csv_text(alpaca | {"history": "[]"}), "alpaca.csv"), "demos").train[0] == DEMO


def test_labels_of_kto(write):
    labels = [0, 1, "0", "true", "False", True, 1.0]
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in [*labels, "good", None]]
    split = loaded(write(rows), "unpaired")
    assert list(split.train["label"]) == [False, True, False, True, False, True, True]
    assert split.counts["dropped_at"] == {"label is neither true nor false": "line 8", "no label": "line 9"}


def test_questions_alone_are_prompts_and_no_demonstrations(write):
    rows = [{"messages": [SYSTEM, ASK]}, {"messages": [ASK, ANSWER]}]
    assert [row["prompt"] for row in loaded(write(rows), "prompts").train] == [[SYSTEM, ASK], [ASK]]
    split = loaded(write(rows), "demos")
    assert split.counts["dropped_at"] == {"no answer by the assistant": "line 1"}
    talk = [{"from": "human", "value": "Hi"}]
    assert loaded(write([{"conversations": talk}]), "prompts").train[0]["prompt"] == [ASK]


@pytest.mark.parametrize(
    "names", [("human", "gpt"), ("user", "assistant"), ("Human", "GPT"), ("USER", "Assistant"), ("human", "chatgpt")]
)
def test_names_of_speakers(names, write):
    for keys in (("from", "value"), ("role", "content")):
        talk = zip(names, ("Hi", "Hello."), strict=True)
        row = {"conversations": [dict(zip(keys, turn, strict=True)) for turn in talk]}
        assert loaded(write([row]), "demos").train[0] == DEMO


def test_turns_by_tools_cost_their_row(write):
    call = {"from": "function_call", "value": "{}"}
    talk = [{"from": "human", "value": "Hi"}, call, {"from": "observation", "value": "1"}]
    openai = [ASK, assistant(None, tool_calls=[{"id": "1"}]), {"role": "tool", "content": "1"}, ANSWER]
    rows = [{"conversations": [*talk, {"from": "gpt", "value": "One."}]}, {"conversations": [ASK, ANSWER]}]
    split = loaded(write(rows), "demos")
    assert split.counts["dropped_at"] == {"a turn by 'function_call'": "line 1"}
    split = loaded(write([{"messages": openai}, {"messages": [ASK, ANSWER]}]), "demos")
    assert split.counts["dropped_at"] == {"a turn with tool_calls": "line 1"}


def test_keys_that_arrow_adds_to_every_turn_are_nothing(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    nothing = {"name": None, "tool_calls": None, "weight": None, "from": None}
    turns = [ASK | nothing, ANSWER | nothing | {"weight": 1}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns, "tools": None}]), tmp_path / "rows.parquet")
    split = loaded(str(tmp_path / "rows.parquet"), "demos")
    assert list(split.train) == [DEMO] and not split.counts["notes"]
    turns = [{"role": None, "content": None, "from": "human", "value": "Hi"}, ANSWER | {"from": None, "value": None}]
    pq.write_table(pa.Table.from_pylist([{"conversations": turns}]), tmp_path / "rows.parquet")
    assert list(loaded(str(tmp_path / "rows.parquet"), "demos").train) == [DEMO]


def test_nested_columns_of_parquet_go_along_with_prompts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"prompt": [ASK], "reward_model": {"ground_truth": "4", "style": {"name": "rule"}}, "extra": [{"i": 1}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    split = data.load(
        {
            "eval_fraction": 0,
            "template": "chat",
            "prompts": {"path": str(tmp_path / "rows.parquet"), "format": "prompt"},
        },
        "prompts",
    )
    assert list(split.train) == [row]


@pytest.mark.parametrize("name", ["images", "image", "videos", "audios"])
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("demos", {"messages": [user("<image>What?"), ANSWER]}),
        ("preferences", {"prompt": "What?", "chosen": "a", "rejected": "b"}),
        ("prompts", {"prompt": "What?"}),
    ],
)
def test_a_row_with_a_picture_is_dropped_for_only_text_is_trained(name, kind, row, write):
    rows = [row | {name: ["a.png"]}, row | {name: []}]
    split = loaded(write(rows), kind)
    assert len(split.train) == 1
    assert split.counts["dropped_at"] == {f"it has {name}, and only text is trained": "line 1"}


def test_instructions_of_a_developer_are_the_system_prompt(write):
    row = {"messages": [SYSTEM | {"role": "developer"}, ASK, ANSWER]}
    assert loaded(write([row]), "demos").train[0]["prompt"] == [SYSTEM, ASK]


def test_weights_and_histories_as_they_are_written(write):
    weighted = [user("a"), assistant("b", weight="0"), ASK, assistant("Hello.", weight=1.0)]
    assert loaded(write([{"messages": weighted}]), "demos").train[0]["prompt"] == [user("a"), assistant("b"), ASK]
    alpaca = {"instruction": "Hi", "input": None, "output": "Hello.", "system": None}
    assert loaded(write([alpaca | {"history": [["", ""]]}]), "demos").train[0] == DEMO
    history = loaded(write([alpaca | {"history": [["a", "b"]], "system": "Be brief."}]), "demos").train[0]["prompt"]
    assert history == [SYSTEM, user("a"), assistant("b"), ASK]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_word(name, write):
    texts = {"rows.csv": csv_text({"text": "Hi"}), "rows.txt": "Hi"}
    path = write("\ufeff" + texts.get(name, json.dumps({"text": "Hi"})), name)
    assert list(loaded(path, "corpus").train["text"]) == ["Hi"]


def test_a_conversation_under_another_name_is_told_by_the_rename_that_reads_it(write):
    path = write([{"id": 1, "dialogue": [ASK, ANSWER]}])
    with pytest.raises(UserError, match=r"Rename: data\.demos\.columns='\{messages: dialogue\}'"):
        data.check({"demos": {"path": path}}, "demos")
    source = {"path": path, "columns": {"messages": "dialogue"}}
    assert data.load({"eval_fraction": 0, "template": "chat", "demos": source}, "demos").train[0] == DEMO


TALK = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "Hi"}]
BEFORE = [user("a"), assistant("b"), ASK]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("demos", {"conversations": [*TALK, {"from": "gpt", "value": "Hello."}], "system": "S", "tools": TOOLS}),
        ("demos", {"messages": [SYSTEM | {"content": "S"}, *BEFORE, ANSWER], "tools": json.dumps(TOOLS)}),
        ("demos", {"instruction": "Hi", "output": "Hello.", "history": [["a", "b"]], "system": "S", "tools": TOOLS}),
        ("demos", {"prompt": BEFORE, "completion": [ANSWER], "system": "S", "tools": TOOLS}),
        ("preferences", {"conversations": TALK, "chosen": ANSWER, "rejected": OTHER, "system": "S", "tools": TOOLS}),
        ("preferences", {"chosen": [*BEFORE, ANSWER], "rejected": [*BEFORE, OTHER], "system": "S", "tools": TOOLS}),
        ("demos", {"messages": [*BEFORE, ANSWER], "system": "S", "tools": [json.dumps(tool) for tool in TOOLS]}),
        ("unpaired", {"messages": [*BEFORE, ANSWER], "label": 1, "system": "S", "tools": TOOLS}),
        ("unpaired", {"conversations": [*TALK, {"from": "gpt", "value": "Hello."}], "kto_tag": True, "system": "S"}),
    ],
)
def test_one_dialogue_has_the_same_ids_in_every_layout(kind, row, write, chatty):
    chatty.chat_template = "{% if tools %}{{ tools[0].function.name }}:{% endif %}" + chatty.chat_template
    path = write([row])
    split = data.load({"eval_fraction": 0, "template": "chat", kind: {"path": path}}, kind, tokenizer=chatty)
    tools = "f:" if "tools" in row else ""
    asked = chatty(f"{tools}<system>S<user>a<assistant>b<|eos|><user>Hi<assistant>", add_special_tokens=False)[
        "input_ids"
    ]
    answer = chatty("Hello.", add_special_tokens=False)["input_ids"] + [chatty.eos_token_id]
    made = split.train[0]
    if kind == "demos":
        assert made["input_ids"] == asked + answer
        assert made["completion_mask"] == [0] * len(asked) + [1] * len(answer)
    else:
        assert made["prompt_ids"] == asked
        assert made["chosen_ids" if kind == "preferences" else "completion_ids"] == answer
