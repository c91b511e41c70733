"""Local sources: every kind of file, folders and globs, and what is said of broken ones."""

import gzip
import json
import re

import pytest

from rlhf_recipes import data
from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.errors import UserError

ROWS = [{"prompt": "What is 2 + 2?", "completion": " 4"}, {"prompt": "A “quoted”,\nquestion", "completion": " é"}]


def demos(local, path, **more) -> list[dict]:
    return list(data.load(local(demos={"path": str(path)} | more), "demos").train)


def test_one_content_in_every_kind_of_file(tmp_path, write, local):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, DatasetDict

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    write(ROWS, "a.jsonl")
    write("\n" + lines.replace("\n", "\n\n"), "blank_lines.jsonl")
    write(ROWS, "b.json")
    write({"data": ROWS}, "wrapped.json")
    write(lines, "really_lines.json")
    write('\ufeffprompt,completion\nWhat is 2 + 2?, 4\n"A “quoted”,\nquestion", é\n', "c.csv")
    write('prompt\tcompletion\nWhat is 2 + 2?\t 4\n"A “quoted”,\nquestion"\t é\n', "d.tsv")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "f.parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
    for path in sorted(tmp_path.iterdir()):
        assert demos(local, path) == ROWS, path.name


def test_a_folder_and_a_glob_are_their_files_in_order(tmp_path, write, local):
    write(ROWS[1:], "set/b.jsonl")
    write(ROWS[:1], "set/a.jsonl")
    write("no rows here", "set/README.rst")
    assert demos(local, tmp_path / "set") == ROWS
    assert demos(local, tmp_path / "set" / "*.jsonl") == ROWS


def test_text_is_split_where_the_separator_says(write, local):
    path = write("One.\nStill one.\n\n\n\nTwo.\n", "book.txt")

    def texts(**more):
        return data.load(local(corpus={"path": path, "format": "text"} | more), "corpus").train["text"]

    assert list(texts()) == ["One.\nStill one.", "Two."]
    assert list(texts(separator=None)) == ["One.\nStill one.\n\n\n\nTwo."]
    assert list(texts(separator="\n")) == ["One.", "Still one.", "Two."]


def test_a_split_of_a_saved_folder(tmp_path, local):
    from datasets import Dataset, DatasetDict

    DatasetDict(fit=Dataset.from_list(ROWS[:1]), check=Dataset.from_list(ROWS[1:])).save_to_disk(tmp_path / "saved")
    node = local(demos={"path": str(tmp_path / "saved"), "split": "fit", "eval_split": "check"})
    split = data.load(node, "demos")
    assert [list(split.train), list(split.eval)] == [ROWS[:1], ROWS[1:]]
    with pytest.raises(UserError, match=r"data\.demos\.split=train: .* has the splits fit, check"):
        data.check(local(demos={"path": str(tmp_path / "saved")}), "demos")


def test_limit_takes_the_first_rows(write, local):
    assert demos(local, write(ROWS), limit=1) == ROWS[:1]


def test_columns_of_another_name(write, local):
    path = write([{"q": "What is 2 + 2?", "a": " 4"}])
    assert demos(local, path, columns={"prompt": "q", "completion": "a"}) == ROWS[:1]


BROKEN = {
    "missing": (None, r"data\.demos\.path=.*missing: no such file or folder; expected \.jsonl"),
    "missing.jsonl": (None, r"no such file or folder"),
    "empty.jsonl": ("", r"empty\.jsonl: the file is empty; expected rows"),
    "blank.jsonl": ("\n \n", r"no rows in it"),
    "torn.jsonl": (
        '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp\n',
        r"torn\.jsonl, line 2: not JSON \(.* at column \d+\)",
    ),
    "number.jsonl": ("12\n", r"number\.jsonl, line 1: found int, expected an object"),
    "torn.json": ('[{"prompt": "a",\n "completion": }]', r"torn\.json, line 2: not JSON"),
    "two.json": ('{"a": [], "b": []}', r"an object that holds one list"),
    "torn.csv": ("prompt,completion\na,b\na\n", r"torn\.csv, line 3: not as many fields as the header's 2"),
    "fake.parquet": ("not parquet at all", r"fake\.parquet: not a Parquet file"),
    "sheet.xlsx": ("x", r"no reader for «\.xlsx»; expected"),
    "wrong.jsonl": (
        '{"question": "a", "reply": "b"}\n',
        r"has the columns question, reply, and no format makes demos of them\. "
        r"Rename: data\.demos\.columns='\{prompt: <yours>, completion: <yours>\}'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_in_one_line(name, tmp_path, write, local):
    content, message = BROKEN[name]
    path = tmp_path / name if content is None else write(content, name)
    with pytest.raises(UserError, match=message) as caught:
        data.check(local(demos={"path": str(path)}), "demos")
    assert "\n" not in str(caught.value)


def test_a_line_broken_further_down_is_found_on_loading(write, local):
    path = write('{"prompt": "a", "completion": "b"}\n' * 30 + "{\n")
    data.check(local(demos={"path": path}), "demos")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 31: not JSON"):
        data.load(local(demos={"path": path}), "demos")


def test_not_utf8(tmp_path, local):
    (tmp_path / "latin.csv").write_bytes("prompt,completion\nWie?,Schön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: not UTF-8 at byte \d+"):
        data.check(local(demos={"path": str(tmp_path / "latin.csv")}), "demos")


def test_a_folder_without_rows(tmp_path, write, local):
    write("x", "set/notes.rst")
    with pytest.raises(UserError, match=r"the folder holds notes\.rst; expected \.jsonl"):
        data.check(local(demos={"path": str(tmp_path / "set")}), "demos")
    with pytest.raises(UserError, match="no file matches"):
        data.check(local(demos={"path": str(tmp_path / "set" / "*.csv")}), "demos")


def test_check_imports_nothing_heavy(write):
    """It runs before torch is imported; a subprocess, since this one has everything loaded."""
    import subprocess
    import sys

    code = (
        "import sys; from rlhf_recipes import data; "
        f"data.check({{'demos': {{'path': {write(ROWS)!r}}}}}, 'demos'); "
        "print([m for m in ('torch', 'datasets', 'transformers', 'pyarrow', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not re.search("Traceback", done.stderr)


def tables(folder, **splits: list[dict]) -> str:
    """A folder as the hub has it: a card, and a Parquet file for each split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    for name, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{name}-00000-of-00001.parquet")
    return str(folder)


def test_a_folder_of_the_hub_trains_its_train_split_and_holds_out_its_test_split(tmp_path, local):
    path = tables(tmp_path / "set", train=ROWS[:1], test=ROWS[1:])
    split = data.load(local(demos={"path": path}), "demos")
    assert [list(split.train), list(split.eval)] == [ROWS[:1], ROWS[1:]]
    said = f"data.demos.path={path}: test held out; train trained; README.md left out"
    assert split.describe().splitlines()[1].strip() == said
    assert list(data.load(local(demos={"path": path, "split": "test"}), "demos").train) == ROWS[1:]
    with pytest.raises(UserError, match=r"data\.demos\.split=dev: .* has the splits test, train"):
        data.check(local(demos={"path": path, "split": "dev"}), "demos")
    texts = [[{"text": f"{name} {i}"} for i in range(2)] for name in ("train", "test", "validation")]
    path = tables(tmp_path / "texts", train=texts[0], test=texts[1], validation=texts[2])
    split = data.load(local(corpus={"path": path}), "corpus")
    assert [list(split.train["text"]), list(split.eval["text"])] == [
        ["train 0", "train 1"],
        [*map("validation {}".format, (0, 1))],
    ]
    assert "test left out" in split.describe()


def test_a_folder_of_markdown_is_text_without_its_card(tmp_path, write, local):
    write("# A card", "set/README.md")
    write("A text.", "set/a.md")
    assert list(data.load(local(corpus={"path": str(tmp_path / "set")}), "corpus").train["text"]) == ["A text."]


def test_an_object_in_a_json_file_is_one_row_or_holds_the_rows(write, local):
    talk = {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi."}]}
    assert demos(local, write(talk, "one.json")) == [{"prompt": "Say hi.\n\n", "completion": "Hi."}]
    assert demos(local, write(ROWS[0], "flat.json")) == ROWS[:1]
    tools = talk | {"tools": []}
    assert len(demos(local, write(tools, "tools.json"))) == 1
    task = {"instruction": "Double.", "instances": [{"input": "2", "output": "4"}, {"input": "3", "output": "6"}]}
    assert len(demos(local, write(task, "task.json"))) == 2
    assert demos(local, write({"version": "1", "data": ROWS}, "wrapped.json")) == ROWS


def test_a_quote_that_never_closes_is_told_by_the_line_where_it_opens(write, local):
    head, tail = 'question\tanswer\nWho?\t"Yes" she said.\nHow tall?\t72"\n', "Who was it?\tTom.\nSay hi.\tHi.\n"
    path = write(head + tail, "demos.tsv")
    assert [row["completion"] for row in demos(local, path)] == ['"Yes" she said.', '72"', "Tom.", "Hi."]
    with pytest.raises(UserError, match=r"line 4: not as many fields as the header's 2 \(a quote opens"):
        data.check(local(demos={"path": write(head + '"Who goes there\tNobody.\n' + tail, "demos.tsv")}), "demos")
    quoted = 'question,answer\n"a ""word"", and\nmore","b"\n'
    assert demos(local, write(quoted, "quoted.csv")) == [{"prompt": 'a "word", and\nmore\n\n', "completion": "b"}]


def test_nan_is_an_empty_cell(write, local):
    rows = '[{"instruction": "Say hi.", "input": NaN, "output": "Hi."}, {"instruction": "Name a dog.", "output": NaN}]'
    split = data.load(local(demos={"path": write(rows, "nan.json")}), "demos")
    assert list(split.train) == [{"prompt": "Say hi.\n\n", "completion": "Hi."}]
    assert split.counts["dropped"] == {"no output": 1}


def test_columns_that_nobody_reads_are_named_once(write, local):
    rows = [
        {"messages": [{"role": "user", "content": "a", "name": "T"}, {"role": "assistant", "content": "b"}], "id": 1}
    ]
    split = data.load(local(demos={"path": write(rows * 3)}), "demos")
    assert split.describe().count("not read") == 1
    assert split.describe().endswith("not read: id, messages[].name")


def test_a_rows_system_prompt_wins_over_the_runs_and_tools_need_a_chat_template(write, local, chatty):
    talk = [{"role": "user", "content": "Rome?"}, {"role": "assistant", "content": "Sun."}]
    rows = [{"messages": talk, "system": "Be Ahab.", "tools": "[]"}, {"messages": talk, "tools": '[{"name": "f"}]'}]
    node = local(demos={"path": write(rows)}, system="Be kind.")
    split = data.load(node, "demos")
    assert list(split.train) == [{"prompt": "Be Ahab.\n\nRome?\n\n", "completion": "Sun."}]
    assert split.counts["dropped"] == {"tools, which only data.template=chat shows, not plain": 1}
    assert data.load(node, "corpus").train["text"][0] == "Be Ahab.\n\nRome?\n\nSun."
    chatty.chat_template = "{% if tools %}{{ tools[0].name }}:{% endif %}" + chatty.chat_template
    row = data.load(node | {"template": "chat"}, "demos", tokenizer=chatty).train[1]
    assert chatty.decode(row.get("input_ids") or prompt_ids([row["prompt"]], chatty)[0]).startswith(
        "f:<system>Be kind."
    )
