"""Each row mapper against rows worked out by hand."""

import json
import re
from pathlib import Path

import pytest

from rlhf_recipes import data
from rlhf_recipes.data import mapping
from rlhf_recipes.data.formats import FORMATS
from rlhf_recipes.data.formats.rows import Drop, as_kind
from rlhf_recipes.data.sources import Source


def user(text: str, **more) -> dict:
    return {"role": "user", "content": text} | more


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_alpaca_keeps_the_input_apart():
    row = FORMATS["alpaca"]("Translate.", "Oui.", "Yes.")
    assert row == {"prompt": [user("Translate.", input="Yes.")], "completion": "Oui."}
    assert FORMATS["alpaca"]("Say hi.", "Hi.", "  ")["prompt"] == [user("Say hi.")]


def test_self_instruct_makes_one_row_an_instance():
    made = FORMATS["self_instruct"]("Double it.", [{"input": "2", "output": "4"}, {"input": "", "output": "?"}])
    assert [row["completion"] for row in made] == ["4", "?"]
    assert made[0]["prompt"] == [user("Double it.", input="2")]


def test_sharegpt_last_answer_or_all():
    said = [
        {"from": "system", "value": "Be kind."},
        {"from": "gpt", "value": "An answer to nothing"},
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "b"},
        {"from": "human", "value": "c"},
        {"from": "gpt", "value": "d"},
        {"from": "human", "value": "thanks"},
    ]
    system = {"role": "system", "content": "Be kind."}
    assert FORMATS["sharegpt"](said[2:]) == [{"prompt": [user("a"), assistant("b"), user("c")], "completion": "d"}]
    first, second = FORMATS["sharegpt"]([said[0], *said[2:]], turns_trained="all")
    assert first == {"prompt": [system, user("a")], "completion": "b"}
    assert second["completion"] == "d"
    opening = [assistant("An answer to nothing"), user("a")]  # read, not trained: a template may refuse it
    for trained in ("last", "all"):
        assert FORMATS["sharegpt"](said[1:4], turns_trained=trained) == [{"prompt": opening, "completion": "b"}]


def test_a_dialogue_without_an_answer_is_dropped():
    with pytest.raises(Drop, match="no answer by the assistant"):
        as_kind(FORMATS["messages"]([user("anybody there?")])[0], "demos")
    with pytest.raises(Drop, match="a turn by 'tool'"):
        FORMATS["messages"]([user("a"), {"role": "tool", "content": "1"}])


def test_hh_splits_at_the_last_answer_and_keeps_the_turns_before():
    before = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    pair = FORMATS["hh"](f"{before}\n\nAssistant: good\n\nlines", f"{before}\n\nAssistant: bad")
    assert pair["prompt"] == [user("a"), assistant("b"), user("c")]
    assert (pair["chosen"], pair["rejected"]) == ("good\n\nlines", "bad")


def test_hh_joins_an_assistant_who_speaks_twice():
    """Five of the 2312 harmless test rows differ by such a second turn; none is lost."""
    pair = FORMATS["hh"]("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "\n\nHuman: a\n\nAssistant: d")
    assert pair == {"prompt": [user("a")], "chosen": "b\n\nc", "rejected": "d"}


def test_hh_drops_what_shares_no_prompt():
    with pytest.raises(Drop, match="do not answer the same question"):
        FORMATS["hh"]("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: other\n\nAssistant: b")
    with pytest.raises(Drop, match="dialogue"):
        FORMATS["hh"]("a text", "another")


def test_preferences_of_trl_in_its_four_forms():
    pair = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert FORMATS["preference"](" blue.", " green.", "The sky is") == pair
    assert FORMATS["preference"]("The sky is blue.", "The sky is green.") == pair
    asked, good, bad = [user("Colour?")], [assistant("Blue.")], [assistant("Green.")]
    talk = {"prompt": asked, "chosen": "Blue.", "rejected": "Green."}
    assert FORMATS["preference"](good, bad, asked) == talk
    assert FORMATS["preference"](asked + good, asked + bad) == talk
    assert FORMATS["preference"](asked + good, asked + bad, "Colour?") == talk  # UltraFeedback repeats the prompt


def test_an_implicit_prompt_leaves_the_whole_word_to_the_shorter_answer():
    pair = FORMATS["preference"]("I say yes", "I say yes indeed")
    assert pair == {"prompt": "I say", "chosen": " yes", "rejected": " yes indeed"}


def test_a_margin_is_only_kept_on_request():
    assert "margin" not in FORMATS["preference"]("a", "b", "q", score_chosen=8, score_rejected=5.5)
    assert FORMATS["preference"]("a", "b", "q", 8, 5.5, use_margin=True)["margin"] == 2.5
    assert FORMATS["preference"]("a", "b", "q", margin=1, use_margin=True)["margin"] == 1.0


def test_shp_takes_the_comment_with_more_votes():
    assert FORMATS["shp"]("post", "A", "B", 1)["chosen"] == "A"
    assert FORMATS["shp"]("post", "A", "B", 0)["chosen"] == "B"
    with pytest.raises(Drop, match="score_ratio below 2"):
        FORMATS["shp"]("post", "A", "B", 1, score_ratio=1.9, min_ratio=2.0)


def test_ranked_by_ranks_scores_or_order():
    def best(**how):
        return as_kind(FORMATS["ranked"]("q", ["a", "b", "c"], **how), "demos")[0]["completion"]

    assert best() == "a"
    assert best(ranks=[2, 0, 1]) == "b"
    assert best(scores=[0.1, 0.2, 0.9]) == "c"
    pairs = as_kind(FORMATS["ranked"]("q", ["a", "b", "c"]), "preferences")
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert as_kind(FORMATS["ranked"]("q", ["a", "b"], ranks=[1, 0]), "ranked") == [
        {"prompt": "q", "completions": ["b", "a"], "ranks": [0, 1]}
    ]


def test_equal_ranks_make_no_pair():
    with pytest.raises(Drop, match="no two answers ranked apart"):
        as_kind(FORMATS["ranked"]("q", ["a", "b"], scores=[1, 1]), "preferences")


TREE = [
    {"message_id": "1", "parent_id": None, "text": "Why?", "role": "prompter", "rank": None, "lang": "en"},
    {"message_id": "2", "parent_id": "1", "text": "Because.", "role": "assistant", "rank": 1, "lang": "en"},
    {"message_id": "3", "parent_id": "1", "text": "For a reason.", "role": "assistant", "rank": 0, "lang": "en"},
    {"message_id": "4", "parent_id": "3", "text": "Which?", "role": "prompter", "rank": None, "lang": "en"},
    {"message_id": "5", "parent_id": "4", "text": "This one.", "role": "assistant", "rank": None, "lang": "en"},
    {"message_id": "6", "parent_id": "1", "text": "spam", "role": "assistant", "rank": 2, "deleted": True},
]


def test_oasst_trees_to_conversations_and_rankings():
    first, second = FORMATS["oasst1"](TREE)
    assert first == {"prompt": [user("Why?")], "completions": ["Because.", "For a reason."], "ranks": [1, 0]}
    assert second["prompt"] == [user("Why?"), assistant("For a reason."), user("Which?")]
    assert as_kind(first, "demos")[0]["completion"] == "For a reason."
    assert [(p["chosen"], p["rejected"]) for p in as_kind(first, "preferences")] == [("For a reason.", "Because.")]
    with pytest.raises(Drop, match="no two answers ranked apart"):
        as_kind(second, "preferences")
    with pytest.raises(Drop, match="language"):
        FORMATS["oasst1"](TREE, lang=["de"])


def test_gsm8k_keeps_the_answer_whole_and_its_number_apart():
    row = FORMATS["gsm8k"]("How many?", "48/2 = <<48/2=24>>24\n#### -1,024")
    assert row["completion"] == "48/2 = <<48/2=24>>24\n#### -1,024"
    assert row["final_answer"] == "-1024"
    with pytest.raises(Drop, match="####"):
        FORMATS["gsm8k"]("How many?", "24")


def test_dapo_as_published_and_as_processed():
    truth = {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}
    published = FORMATS["dapo"]([user("Solve x.")], truth)
    processed = FORMATS["dapo"]("Solve x.", truth, "34")
    assert published == processed == {"prompt": [user("Solve x.")], "final_answer": "34"}


def test_nl2sql_as_the_issue_writes_it():
    row = FORMATS["nl2sql"]("CREATE TABLE head (age INTEGER)", "How old?", "SELECT age FROM head")
    assert row["prompt"] == "context: CREATE TABLE head (age INTEGER) question: How old? answer:"
    assert row["completion"] == " SELECT age FROM head"


def test_wikisql_makes_sql_that_sqlite_runs():
    import sqlite3

    table = {
        "id": "1-1000181-1",
        "header": ["State/territory", "Order", "Order", "2004 sales"],
        "types": ["text", "text", "real", "real"],
        "rows": [["SOUTH AUSTRALIA", "a", "3", "7"]],
    }
    sql = {"sel": 2, "agg": 1, "conds": {"column_index": [0, 3], "operator_index": [0, 1], "condition": ["O'x", "6"]}}
    row = FORMATS["wikisql"]("Highest order?", table, sql)
    with sqlite3.connect(":memory:") as base:
        base.execute(row["context"])
        base.execute("INSERT INTO t_1_1000181_1 VALUES ('O''x', 'a', 3, 7), ('O''x', 'b', 9, 5)")
        assert base.execute(row["sql"]).fetchall() == [(3.0,)]


def test_continuation_cuts_at_a_token_and_loses_no_letter(tokenizer):
    text = "What is the capital of France? It is Paris."
    row = FORMATS["continuation"](text, tokens=3, tokenizer=tokenizer)
    assert row["prompt"] == "What is the"
    assert row["prompt"] + row["completion"] == text
    with pytest.raises(Drop, match="no more than 50 tokens"):
        FORMATS["continuation"](text, tokens=50, tokenizer=tokenizer)


COLUMNS = {
    "hh": ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "preferences"),
    "preference": ({"chosen": "a b", "rejected": "a c"}, "preferences"),
    "question_pair": ({"question": "q", "chosen": "a", "rejected": "b"}, "preferences"),
    "alpaca_pair": ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b", "agree": 3}, "preferences"),
    "ranked": ({"prompt": "q", "completions": ["a", "b"], "scores": [1, 2]}, "preferences"),
    "alpaca": ({"instruction": "q", "input": "", "output": "a", "text": "q a"}, "demos"),
    "gsm8k": ({"question": "q", "answer": "a\n#### 1"}, "demos"),
    "question_answer": ({"question": "q", "answer": "a"}, "demos"),
    "nl2sql": ({"question": "q", "context": "c", "sql": "s"}, "demos"),
    "sharegpt": (
        {"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "demos",
    ),
    "messages": ({"messages": [user("a"), assistant("b")]}, "demos"),
    "prompt_completion": ({"prompt": "q", "completion": "a"}, "demos"),
    "prompt": ({"prompt": "q", "answer": "a"}, "prompts"),
    "text": ({"text": "t", "label": 1}, "corpus"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_auto_finds_the_format_by_the_columns(name):
    row, kind = COLUMNS[name]
    source = Source(where=f"data.{kind}", path="x.jsonl")
    assert mapping.choose(source, list(row), [row], kind) is mapping.mapper(name, "")


def test_a_function_of_ones_own_file(tmp_path):
    (tmp_path / "mine.py").write_text("def swap(row):\n    return {'prompt': row['b'], 'completion': row['a']}\n")
    source = Source(where="data.demos", path="x.jsonl", format=f"{tmp_path}/mine.py:swap")
    mapper = mapping.choose(source, ["a", "b"], [], "demos")
    assert mapper.apply({"a": "1", "b": "2"}, source) == [{"prompt": "2", "completion": "1"}]


def mapped(row: dict, kind: str, **source) -> list[dict]:
    """A row through the format that `auto` finds for it."""
    source = Source(where=f"data.{kind}", path="rows.jsonl", **source)
    mapper = mapping.choose(source, list(row), [row], kind)
    return [made for one in mapper.apply(row, source) for made in as_kind(one, kind)]


ASKED, TURN = [{"from": "human", "value": "Name a colour."}], {"from": "gpt", "value": "Red."}
RED = {"prompt": [user("Name a colour.")], "completion": "Red."}
PAIR = {"prompt": [user("Name a colour.")], "chosen": "Red.", "rejected": "Table."}
OTHER = {"from": "gpt", "value": "Table."}
OPENAI = [user("Name a colour."), assistant("Red.")]
LAYOUTS = [  # of LLaMA-Factory's data/README.md, OpenAI's fine-tuning guide, Orca, Dolly and TRL's dataset formats
    ("demos", {"instruction": "Name a colour.", "input": "", "output": "Red.", "system": "", "history": []}, RED),
    ("demos", {"conversations": [*ASKED, TURN], "system": "Be brief.", "tools": "[]"}, RED | {"system": "Be brief."}),
    ("demos", {"messages": OPENAI, "tools": [{"name": "f"}]}, RED | {"tools": '[{"name": "f"}]'}),
    ("demos", {"system_prompt": "S.", "question": "Name a colour.", "response": "Red."}, RED | {"system": "S."}),
    ("demos", {"instruction": "Name a colour.", "context": "", "response": "Red.", "category": "open_qa"}, RED),
    ("demos", {"prompt": "Name a colour.", "response": "Red."}, RED),
    ("demos", {"prompt": "Name a colour.", "completion": [assistant("Red.")]}, RED),
    ("preferences", {"conversations": ASKED, "chosen": TURN, "rejected": OTHER}, PAIR),
    ("preferences", {"messages": OPENAI[:1], "chosen": assistant("Red."), "rejected": assistant("Table.")}, PAIR),
    ("preferences", {"instruction": "Name a colour.", "input": "", "chosen": "Red.", "rejected": "Table."}, PAIR),
    ("preferences", {"prompt": "Name a colour.", "chosen": [assistant("Red.")], "rejected": [OTHER]}, PAIR),
    (
        "preferences",
        {"system": "S.", "question": "Name a colour.", "chosen": "Red.", "rejected": "Table."},
        PAIR | {"system": "S."},
    ),
    ("unpaired", {"conversations": [*ASKED, TURN], "kto_tag": True}, RED | {"label": True}),
    ("unpaired", {"instruction": "Name a colour.", "output": "Red.", "kto_tag": False}, RED | {"label": False}),
]


@pytest.mark.parametrize(("kind", "row", "made"), LAYOUTS)
def test_the_layouts_that_people_bring_load_without_a_mapping(kind, row, made):
    assert mapped(row, kind) == [made]


def test_a_history_comes_before_the_question_and_after_the_prompts_own_system_turn():
    row = {"instruction": "And of Italy?", "output": "Rome.", "history": [["Of France?", "Paris."]]}
    before = [user("Of France?"), assistant("Paris.")]
    assert mapped(row, "demos") == [{"prompt": [*before, user("And of Italy?")], "completion": "Rome."}]
    system = {"role": "system", "content": "S."}
    row = {"messages": [system, *OPENAI], "system": "S.", "history": before}
    assert mapped(row, "demos")[0]["prompt"] == [system, *before, user("Name a colour.")]
    for wrong in ("Of France? Paris.", [["Of France?"]]):
        with pytest.raises(Drop, match=r"history is not a list of \[question, answer\]"):
            mapping.mapper("alpaca", "").apply(
                {"instruction": "a", "output": "b", "history": wrong}, Source(where="data.demos", path="x")
            )


def test_what_cannot_be_shown_to_the_model_drops_the_row():
    source, messages = Source(where="data.demos", path="x"), mapping.mapper("messages", "")
    system = {"role": "system", "content": "Other."}
    call = [user("a"), assistant("") | {"tool_calls": [{"id": "1"}]}, user("b"), assistant("c")]
    for row, reason in (
        ({"messages": [system, *OPENAI], "system": "S."}, "two system prompts"),
        ({"messages": OPENAI, "tools": "weather"}, "tools are not JSON"),
        ({"messages": call}, "a turn with tool_calls"),
        ({"messages": [user("a"), assistant("b") | {"weight": 0.5}]}, "a turn of weight 0.5, expected 0 or 1"),
        ({"messages": [user("a"), assistant("b") | {"weight": 0}]}, "every answer has weight 0"),
    ):
        with pytest.raises(Drop, match=reason):
            messages.apply(row, source)


def test_weights_say_which_answers_are_trained():
    talk = [user("a"), assistant("b"), user("c"), assistant("d") | {"weight": 0}, user("e"), assistant("f")]
    made = mapped({"messages": talk}, "demos")
    assert [row["completion"] for row in made] == ["b", "f"]
    assert made[1]["prompt"] == [user("a"), assistant("b"), user("c"), assistant("d"), user("e")]
    assert [row["completion"] for row in mapped({"messages": [talk[0], talk[1]]}, "demos")] == ["b"]


def test_what_a_format_does_not_read_is_named():
    source, messages = Source(where="data.demos", path="x"), mapping.mapper("messages", "")
    row = {
        "messages": [user("a") | {"name": "Tom"}, assistant("b") | {"weight": 1}],
        "id": 3,
        "system": None,
        "x": None,
    }
    assert messages.unread(row, source, extra=False) == {"id", "messages[].name"}
    assert messages.unread(row, source, extra=True) == {"messages[].name"}
    assert mapping.mapper("preference", "").unread({"prompt": row["messages"]}, source, extra=True) == {
        "prompt[].name",
        "prompt[].weight",
    }


def test_the_formats_that_were_tried_are_told():
    from rlhf_recipes.errors import UserError

    with pytest.raises(UserError, match=r"Tried: hh \(no «.*»\), preference \(chosen is not text\)|Tried: preference"):
        mapped({"prompt": "a", "chosen": {"x": 1}, "rejected": {"x": 2}}, "preferences")


def test_every_layout_of_the_how_to_loads_as_it_stands_there(write):
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "own-data.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ([^|]+) \| (`\{.*\}`) \| (\w+) \|$", text, re.MULTILINE)
    assert len(table) == 20
    for layout, cell, name in table:
        row = json.loads(cell.strip("`").replace("`<br>`", " "))
        kind = {"pairs": "preferences", "ranking": "ranked", "unpaired": "unpaired", "text": "corpus"}
        kind = kind.get(layout.partition(":")[0], "demos")
        source = Source(where=f"data.{kind}", path="rows.jsonl")
        assert mapping.choose(source, list(row), [row], kind).function.__name__ == name, layout
        split = data.load({"eval_fraction": 0, kind: {"path": write([row])}}, kind)
        assert len(split.train) and not split.counts["dropped"] and not split.counts["notes"], layout
        assert split.train.column_names[0] == ("text" if kind == "corpus" else "prompt")
