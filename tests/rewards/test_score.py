"""A file of answers scored, summed up and shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import RewardFunctions
from rlhf_recipes.rewards.score import check, score_file, show

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    "right": {"path": "rlhf_recipes.rewards.gsm8k:correctness"},
    "whole": {"path": "rlhf_recipes.rewards.gsm8k:integer", "weight": 0.0},
}


@pytest.fixture
def answers(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text(
        '{"prompt": "6 x 12?", "completion": "#### 72", "answer": "72"}\n'
        "\n"
        '{"prompt": "6 x 12?", "completion": "It is 71.", "answer": "72"}\n'
        '{"prompt": [{"role": "user", "content": "?"}], '
        '"completion": [{"role": "assistant", "content": "7"}], "answer": null}\n',
        encoding="utf-8",
    )
    return file


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_scores_and_summary(answers, tmp_path):
    out = tmp_path / "run/scores.jsonl"
    summary = score_file(RewardFunctions(FUNCTIONS), answers, out)
    rows = lines(out)
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert [row["score"] for row in rows] == [2.0, 0.0, None]
    assert [row["reward/right"] for row in rows] == [2.0, 0.0, None]
    assert [row["reward/whole"] for row in rows] == [0.5, 0.0, 0.5]
    assert rows[2]["completion"] == [{"role": "assistant", "content": "7"}]
    assert [file.name for file in out.parent.iterdir()] == ["scores.jsonl"]

    right = summary["functions"]["right"]
    assert (right["mean"], right["std"], right["min"], right["max"], right["count"]) == (1.0, 1.0, 0.0, 2.0, 2)
    assert (right["failures"], right["first_failure"], right["weight"]) == (0, None, 1.0)
    assert right["slowest"]["lines"] == [1, 4]
    assert right["seconds_per_row"] > 0
    assert summary["rows"] == 3
    assert (summary["score"]["mean"], summary["score"]["count"]) == (1.0, 2)


def test_tokens_and_what_functions_log(answers, tmp_path):
    """TRL's interface: a column that a function logs stands in each row, its metrics in the summary."""

    def mine(prompts, completions, completion_ids, log_metric, log_extra):
        if "It is 71." in completions:
            raise RuntimeError("no")  # the rows are then scored one by one
        lengths = [float(len(ids)) for ids in completion_ids]
        log_metric("mine/tokens", sum(lengths))
        log_extra("mine_tokens", lengths)
        return lengths

    out = tmp_path / "scores.jsonl"
    summary = score_file(RewardFunctions({"mine": mine}), answers, out, token_ids=lambda text: list(range(len(text))))
    assert [row.get("mine_tokens") for row in lines(out)] == [7.0, None, 1.0] == [row["score"] for row in lines(out)]
    assert summary["logged"] == {"mine/tokens": 4.0}
    with pytest.raises(UserError, match="completion_ids"):
        check(score_file(RewardFunctions({"mine": mine}), answers, out))


def test_a_row_that_fails_stops_neither_the_others_nor_the_other_functions(answers, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def score(completions, **columns):\n"
        "    return [1.0 / ('71' not in str(c)) for c in completions]\n"
        "def never(completions): return ['x'] * len(completions)\n"
    )
    mine = {"mine": {"path": f"{tmp_path}/mine.py:score"}, "never": {"path": f"{tmp_path}/mine.py:never"}}
    summary = score_file(RewardFunctions(FUNCTIONS | mine), answers, tmp_path / "s.jsonl")
    rows = lines(tmp_path / "s.jsonl")
    assert [row["reward/mine"] for row in rows] == [1.0, None, 1.0]
    assert [row["reward/right"] for row in rows] == [2.0, 0.0, None]
    assert "ZeroDivisionError" in rows[1]["errors"]["mine"]
    assert list(rows[0]["errors"]) == ["never"]
    assert [row["score"] for row in rows] == [None] * 3
    assert summary["functions"]["mine"]["failures"] == 1
    assert "'It is 71.'" in summary["functions"]["mine"]["first_failure"]
    assert summary["functions"]["never"]["mean"] is None
    assert summary["score"]["count"] == 0


def test_more_rows_than_a_batch(tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"prompt": "?", "completion": str(i), "answer": i}) + "\n" for i in range(50)))
    summary = score_file(RewardFunctions(FUNCTIONS), file, tmp_path / "s.jsonl")
    assert summary["functions"]["right"]["count"] == 50
    assert summary["functions"]["right"]["mean"] == 2.0
    assert [row["line"] for row in lines(tmp_path / "s.jsonl")] == list(range(1, 51))


def test_a_column_that_few_rows_have(tmp_path):
    file = tmp_path / "many.jsonl"
    rows = [{"prompt": "?", "completion": "7"} for _ in range(20)]
    rows[19]["answer"] = "7"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    right = score_file(RewardFunctions(FUNCTIONS), file, tmp_path / "s.jsonl")["functions"]["right"]
    assert (right["failures"], right["count"], right["mean"]) == (0, 1, 2.0)


@pytest.mark.parametrize(("weight", "gate"), [(1.0, False), (0.0, True), (0.0, False)])
def test_a_function_that_scores_nothing_is_an_error_unless_it_is_a_metric(answers, tmp_path, weight, gate):
    wrong = {"path": FUNCTIONS["right"]["path"], "kwargs": {"column": "anser"}, "weight": weight, "gate": gate}
    summary = score_file(RewardFunctions({"wrong": wrong, "whole": FUNCTIONS["whole"]}), answers, tmp_path / "s.jsonl")
    assert ["anser" in row["errors"]["wrong"] for row in lines(tmp_path / "s.jsonl")] == [True] * 3
    assert summary["functions"]["whole"]["failures"] == 0
    if weight or gate:
        with pytest.raises(UserError, match=r"no score by 'wrong' for 3 of 3 rows: .*no column 'anser'.*: answer"):
            check(summary)
    else:
        check(summary)


def test_a_function_that_fails_on_every_row_by_itself_is_an_error(answers, tmp_path):
    (tmp_path / "mine.py").write_text("def score(completions): return ['x'] * len(completions)")
    mine = RewardFunctions({"mine": {"path": f"{tmp_path}/mine.py:score"}})
    with pytest.raises(UserError, match=r"no score by 'mine' for 3 of 3 rows: .*'x'"):
        check(score_file(mine, answers, tmp_path / "s.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "?"}', "line 1 has no completion"),
        ('{"prompt": "?", "completion": "x"}\n{"prompt": ', "line 2 is not JSON"),
        ("[1]", "line 1 has no prompt"),
        ('{"prompt": "?", "completion": 7}', "completion is neither a text nor"),
        ("", "is empty"),
    ],
)
def test_a_file_that_cannot_be_scored(content, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        score_file(RewardFunctions(FUNCTIONS), tmp_path / "a.jsonl", tmp_path / "s.jsonl")
    assert not (tmp_path / "s.jsonl").exists()


def test_the_answers_are_not_replaced_by_their_scores(answers, tmp_path):
    was = answers.read_text(encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to(answers)
    for out in (answers, tmp_path / ".." / tmp_path.name / answers.name, tmp_path / "link.jsonl"):
        with pytest.raises(UserError, match="would replace the answers"):
            score_file(RewardFunctions(FUNCTIONS), answers, out)
    assert answers.read_text(encoding="utf-8") == was


def test_nothing_to_score_or_to_score_with(answers, tmp_path):
    with pytest.raises(UserError, match="no file"):
        score_file(RewardFunctions(FUNCTIONS), tmp_path / "none.jsonl", tmp_path / "s.jsonl")
    with pytest.raises(UserError, match="choose a reward"):
        score_file(RewardFunctions({}), answers, tmp_path / "s.jsonl")


def test_the_table(answers, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "mine.py").write_text("def score(completions): raise ValueError('[no]')")
    functions = FUNCTIONS | {"mine": {"path": f"{tmp_path}/mine.py:score"}}
    show(score_file(RewardFunctions(functions), answers, tmp_path / "s.jsonl"))
    shown = capsys.readouterr().out
    assert "right" in shown
    assert "1.000" in shown
    assert "slowest: " in shown
    assert "3 rows failed, first: reward 'mine': raised ValueError: [no]" in shown
    assert "…" not in shown  # nothing cut off on a screen of 80


def test_the_stage_scores_texts_without_torch(answers):
    code = (
        "import sys; from rlhf_recipes.__main__ import main\n"
        f"sys.argv[1:] = ['stage=score', 'reward=gsm8k', 'score.file={answers}']; main()\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["reward/correctness"] for row in lines(answers.with_name("scores.jsonl"))] == [2.0, 0.0, None]
