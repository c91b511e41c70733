"""The stage as a person or a script meets it: lines in, answers on stdout, everything else on stderr."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_recipes import stages
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun

GREEDY = ("chat.temperature=0", "chat.max_new_tokens=12")
ROOT = Path(__file__).parents[2]


def lines(out):
    """What stands between line feeds: a random model also writes what str.splitlines takes for the end of a line."""
    return out.removesuffix("\n").split("\n")


def test_one_question_prints_the_answer_and_nothing_else(chat, load, composed):
    out, err = chat("", *GREEDY, "prompt=What is 3 plus 4?")
    reply = load("ppo").answer("What is 3 plus 4?", composed(*GREEDY))
    assert out == reply.text.lstrip() + "\n"
    assert "/help" not in err


def test_the_default_is_the_latest_policy_and_any_other_can_be_named(chat):
    question = "prompt=Say it"
    latest = chat("", *GREEDY, question).out
    assert chat("", *GREEDY, question, "chat.models=ppo").out == latest
    assert chat("", *GREEDY, question, "chat.models=[sft]").out != latest


def test_piped_lines_are_turns_of_one_talk(chat):
    out, _ = chat("Hello there\nHello there\n/reset\nHello there\n", *GREEDY, "chat.history=5")
    first, second, third = lines(out)
    assert first == third
    assert first != second  # the model saw the first exchange


def test_settings_change_on_the_fly(chat):
    out, err = chat("Hi\n/reset\n/set max_new_tokens 1\nHi\n/reset\n/set max_new_tokens=12\nHi\n/set\n", *GREEDY)
    one, two, three = lines(out)
    assert len(two) < len(one)
    assert three == one
    assert "max_new_tokens 1\n" in err
    shown = dict(line.split(" ", 1) for line in err.splitlines()[-8:])
    assert shown["temperature"] == "0.0" and shown["history"] == shown["system"] == "own"


def test_set_takes_words_and_gives_a_setting_back(chat):
    changes = ["system Be brief, ${please}.", "system own", "system none", "history all", "history own", "seed 3"]
    _, err = chat("".join(f"/set {change}\n" for change in changes))
    assert err.splitlines()[-6:] == changes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/sett x", r"no command /sett; did you mean /set"),
        ("/set temprature 1", "no setting temprature; did you mean temperature"),
        ("/set models ppo", "no setting models"),
        ("/set seed", "no value given"),
        ("/save", "expected a file that is not there already"),
        ("/set temperature -0.1", "chat.temperature=-0.1: expected at least 0"),
        ("/set temperature hot", "chat.temperature=hot: expected a number"),
        ("/set temperature nan", "chat.temperature=nan: expected"),
        ("/set top_p 7", "chat.top_p=7.0: expected a number above 0, at most 1"),
        ("/set top_k 2.5", "chat.top_k=2.5: expected a whole number"),
        ("/set repetition_penalty 0", "chat.repetition_penalty=0.0: expected a number above 0"),
        ("/set max_new_tokens 0", "chat.max_new_tokens=0: expected at least 1"),
        ("/set seed -1", "seed=-1: expected at least 0"),
        ("/set history some", "chat.history=some: expected a whole number, 0 or more, or all"),
    ],
)
def test_a_wrong_command_or_value_ends_a_pipe_with_one_line(talk, line, words):
    with pytest.raises(UserError, match=words) as error:
        talk.command(line)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def talk(load, composed):
    from rlhf_recipes.chat.terminal import Talk

    return Talk([load("sft")], composed())


def test_an_error_ends_a_pipe(chat):
    with pytest.raises(UserError, match="no command /sett"):
        chat("/sett x\nHi\n", *GREEDY)


def test_quit_ends_and_two_slashes_are_words(chat):
    out, err = chat("//help\n/prompt\n/quit\nnever asked\n", *GREEDY)
    assert len(lines(out)) == 1
    assert "User: /help" in err


def test_two_models_answer_under_their_names_each_with_its_own_talk(chat):
    out, _ = chat("Hi\nHi\n", *GREEDY, "chat.models=[sft,ppo]")
    alone = lines(chat("Hi\nHi\n", *GREEDY, "chat.models=[sft]").out)
    said = lines(out)
    assert [line.partition(": ")[0] for line in said] == ["sft", "ppo", "sft", "ppo"]
    assert [line.partition(": ")[2] for line in said[::2]] == alone


def test_at_a_terminal_two_models_stand_side_by_side(chat, monkeypatch):
    alone = {name: chat("Hi\n", *GREEDY, f"chat.models={name}").out.strip() for name in ("sft", "ppo")}
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    shown = lines(re.sub(r"\x1b\[[\d?;]*\w|\r", "", chat("Hi\n", *GREEDY, "chat.models=[sft,ppo]").out))
    assert ["sft", "ppo"] in [line.split() for line in shown]
    assert any(alone["sft"] in line and alone["ppo"] in line for line in shown)


def test_ctrl_c_ends_a_pipe_and_a_single_question_with_what_was_said(chat, monkeypatch, capsys):
    from rlhf_recipes.chat.speaker import Reply, Speaker

    stopped = Reply("half an", 2, 0.1, finished=False, stopped=True)
    monkeypatch.setattr(Speaker, "answer", lambda self, text, cfg, emit: emit("half an") or stopped)
    for lines_in, overrides in (("Hi\nnever asked\n", []), ("", ["prompt=Hi"])):
        with pytest.raises(KeyboardInterrupt):
            chat(lines_in, *GREEDY, *overrides)
        assert capsys.readouterr().out == "half an\n"


def test_a_saved_talk_is_demonstrations(chat, tmp_path):
    from rlhf_recipes import data

    file = tmp_path / "talk.jsonl"
    chat(f"Hello\nAnd you?\n/save {file}\n/save {file}\n", *GREEDY)
    row = json.loads(file.read_text())
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * 2
    assert row["settings"]["max_new_tokens"] == 12
    node = {"name": "local", "template": "chat", "eval_fraction": 0, "demos": {"path": str(file)}}
    demo = data.load(node, "demos").train[0]
    assert demo["prompt"][0]["content"] == "Hello"
    with pytest.raises(UserError, match="not there already"):
        chat(f"/save {file}\n", *GREEDY)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["chat.models=[reward]"], "reward model: it scores"),
        (["chat.models=[grpo]"], "no finished grpo"),
        (["chat.models=[/nowhere/at/all]"], "no such folder"),
        (["chat.models=[other:sft]"], "run other"),
        (["chat.models=[ppoo]"], "no such stage or folder; did you mean ppo?"),
        (["chat.temperature=-1"], "chat.temperature"),
        (["chat.template=nonsense"], "chat.template=nonsense"),
        (["chat.template=chat"], "has no chat template; give another"),
        (["prompt=''"], "prompt= is empty"),
        (["run.name=empty"], "sft or pretrain; make one"),
    ],
)
def test_what_cannot_be_talked_with_is_refused_in_one_line(chat, overrides, words):
    with pytest.raises(UserError, match=words) as error:
        chat("Hi\n", *overrides)
    assert "\n" not in str(error.value)


def test_places(composed, made, tmp_path):
    run = StageRun(composed(), stages.catalogue())
    by_name = resolve.find(run, "sft", "chat.models")
    assert (by_name.stage, by_name.run) == ("sft", made)
    for place in ("made:sft", str(made / "sft"), str(made / "sft" / "model")):
        found = resolve.find(run, place, "chat.models")
        assert (found.path, found.config["data"]["name"]) == (by_name.path, "embedded")
    assert resolve.find(run, "some/model", "chat.models").folder is None
    (tmp_path / "hollow").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        resolve.find(run, str(tmp_path / "hollow"), "chat.models")
    (tmp_path / "hollow" / "adapter_config.json").write_text('{"base_model_name_or_path": "gone/runs/sft"}')
    with pytest.raises(UserError, match="gone/runs/sft, which is not here"):
        resolve.find(run, str(tmp_path / "hollow"), "chat.models")


def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_the_program(made):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rlhf_recipes", "stage=chat", f"run.root={made.parent}", "run.name=made"]
    child = subprocess.Popen(
        [*command, "chat.temperature=0", "chat.max_new_tokens=2000"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "100"},
        preexec_fn=lambda: (os.setsid(), __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0)),
    )
    os.close(theirs)
    seen = Screen(ours)
    try:
        seen.until("> ")
        os.write(ours, b"Tell me all\n")
        seen.until("Tell me all\r\n")
        seen.until("\n", more=20)  # it has begun to answer
        os.write(ours, b"\x03")
        assert "stopped" in seen.until("> ")
        os.write(ours, b"/set max_new_tokens 2\n")
        seen.until("max_new_tokens 2\r\n")
        os.write(ours, b"/nonsense\n")
        assert "no command /nonsense" in seen.until("as words)")
        os.write(ours, b"Hi\n")
        assert "2 tokens" in seen.until("a second")
        seen.until("> ")
        os.write(ours, b"\x04")
        assert child.wait(60) == 0
    finally:
        child.kill()
        os.close(ours)


class Screen:
    """What a program wrote to its terminal."""

    def __init__(self, descriptor):
        self.descriptor, self.text = descriptor, ""

    def until(self, mark, more=0):
        """Read on until `mark` was written, or `more` characters; returns what was read and forgets it."""
        while mark not in self.text and not (more and len(self.text) >= more):
            assert select.select([self.descriptor], [], [], 120)[0], f"waited for {mark!r}, saw {self.text!r}"
            self.text += os.read(self.descriptor, 4096).decode(errors="replace")
        end = self.text.index(mark) + len(mark) if mark in self.text else len(self.text)
        read, self.text = self.text[:end], self.text[end:]
        return read
