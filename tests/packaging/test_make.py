"""The Makefile's logic, with a stand-in for python that only leaves a summary.json behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTER = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MODEL", "DATA", "RECIPE", "ARGS")  # what `make test` itself exports
STAND_IN = """#!/usr/bin/env bash
for arg in "$@"; do
  case $arg in stage=*) stage=${arg#*=};; run.name=*) run=${arg#*=};; run.root=*) root=${arg#*=};; esac
done
echo "$stage" >> "$CALLS"; echo "$@" >> "$CALLS.args"
[ "$stage" = "$BREAK" ] && exit ${CODE:-1}
[ "$stage" = report ] || { mkdir -p "$root/$run/$stage"; echo '{}' > "$root/$run/$stage/summary.json"; }
"""


@pytest.fixture
def make(tmp_path):
    binary = tmp_path / "venv" / "bin" / "python"
    binary.parent.mkdir(parents=True)
    binary.write_text(STAND_IN)
    binary.chmod(0o755)
    (tmp_path / "venv" / ".ready").touch()
    calls = tmp_path / "calls"

    def run(*args, **env):
        calls.unlink(missing_ok=True)
        command = ["make", "-C", str(ROOT), *args, f"VENV={tmp_path}/venv", f"RUNS={tmp_path}/runs"]
        clean = {k: v for k, v in os.environ.items() if k not in OUTER}
        done = subprocess.run(command, env=clean | {"CALLS": str(calls)} | env, capture_output=True, text=True)
        return calls.read_text().split() if calls.exists() else [], done

    run.root = tmp_path
    return run


ALL = ["pretrain", "sft", "reward", "ppo", "evaluate", "report"]


def test_pipeline_runs_every_stage_once_and_then_only_the_report(make):
    assert make("pipeline")[0] == ALL
    assert make("pipeline")[0] == ["report"]


def test_one_stage_runs_what_it_needs(make):
    assert make("reward", "RUN=x")[0] == ["pretrain", "sft", "reward"]
    assert make("ppo", "RUN=x")[0] == ["ppo"]


def test_a_model_of_ones_own_is_not_pretrained(make):
    calls, _ = make("pipeline", "MODEL=qwen0.5b", "DATA=hh_rlhf")
    assert calls == [s for s in ALL if s != "pretrain"]
    args = (make.root / "calls.args").read_text()
    assert "model=qwen0.5b data=hh_rlhf" in args
    assert "recipes=" not in args


def test_a_recipe_has_the_stages_that_it_has_files_for(make):
    calls, _ = make("pipeline", "RECIPE=tinystories_sentiment")
    assert calls == ["sft", "collect", "reward", "ppo", "evaluate", "report"]


def test_what_is_older_than_its_inputs_is_made_again(make):
    make("pipeline")
    summary = make.root / "runs" / "default" / "reward" / "summary.json"
    newer = summary.stat().st_mtime + 1000
    os.utime(summary, (newer, newer))
    assert make("pipeline")[0] == ["ppo", "evaluate", "report"]


def test_a_changed_setting_has_its_stages_asked_again(make):
    make("pipeline")
    assert make("pipeline", "-W", "recipes/embedded/ppo.yaml")[0] == ["ppo", "evaluate", "report"]
    assert make("pipeline", "-W", "conf/config.yaml")[0] == ALL


def test_a_changed_data_file_has_the_stages_asked_again(make):
    make("pipeline")
    mine, inputs = make.root / "mine.jsonl", make.root / "runs" / "default" / "sft" / "inputs.json"
    mine.write_text("{}")
    inputs.write_text(json.dumps({"policy": {"path": "x"}, f"data:{mine}": {"path": str(mine)}}, indent=2))
    os.utime(mine, (0, 0))
    assert make("pipeline")[0] == ["report"]
    assert make("pipeline", "-W", str(mine))[0] == ALL


def test_a_failed_stage_names_command_log_and_remedy_and_make_goes_on_from_there(make):
    calls, done = make("pipeline", BREAK="reward", CODE="137")
    assert calls == ["pretrain", "sft", "reward"]
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "stage reward failed (exit code 137)" in said
    assert "-m rlhf_recipes stage=reward recipes=embedded/reward" in said
    assert "runs/default/reward.log" in said
    assert "out of memory" in said
    assert make("pipeline")[0] == ["reward", "ppo", "evaluate", "report"]


def test_another_choice_under_the_same_name_is_refused(make):
    make("pipeline")
    calls, done = make("pipeline", "ARGS=seed=1")
    assert calls == []
    assert "RUN=<new>" in done.stdout
    assert make("pipeline", "ARGS=seed=1", "RUN=other")[0] == ALL


def test_what_a_run_was_begun_with_holds_where_nothing_else_is_named(make):
    make("sft", "RUN=x", "MODEL=qwen0.5b", "DATA=hh_rlhf", "ARGS=trainer.optim='adamw_torch' run.note=a#b")
    calls, done = make("reward", "RUN=x")
    assert calls == ["reward"], done.stdout
    assert "model=qwen0.5b data=hh_rlhf" in (make.root / "calls.args").read_text().splitlines()[-1]
    assert make("reward", "RUN=x")[0] == []
    assert "RUN=<new>" in make("ppo", "RUN=x", "MODEL=tiny")[1].stdout


def test_arguments_reach_the_stage_with_their_quotes(make):
    make("sft", "ARGS='model.pad_token=<|pad|>' seed=3")
    assert "model.pad_token=<|pad|> seed=3" in (make.root / "calls.args").read_text()


def test_arguments_may_be_for_one_stage_and_are_remembered(make):
    make("sft", "RUN=x", "ARGS=seed=1", "PPO_ARGS=trainer.vf_coef=0.2", "REWARD_ARGS='a b=<|c|>'")
    lines = (make.root / "calls.args").read_text().splitlines()
    assert all(line.endswith("seed=1") for line in lines)
    calls, done = make("ppo", "RUN=x")
    assert calls == ["reward", "ppo"], done.stdout + done.stderr
    lines = (make.root / "calls.args").read_text().splitlines()[-2:]
    assert [line.partition("seed=1 ")[2] for line in lines] == ["a b=<|c|>", "trainer.vf_coef=0.2"]
    assert "RUN=<new>" in make("evaluate", "RUN=x", "PPO_ARGS=trainer.vf_coef=0.3")[1].stdout


def test_arguments_of_no_stage_are_refused(make):
    calls, done = make("sft", "POP_ARGS=x=1")
    assert calls == [] and "POP_ARGS: no such stage" in done.stderr
    assert make("sft", DOCKER_ARGS="x")[0] == ["pretrain", "sft"]  # the environment's own are no business of this


def test_clean_run_throws_one_run_away(make):
    make("sft", "RUN=x")
    make("sft", "RUN=y")
    make("clean-run", "RUN=x")
    assert [folder.name for folder in (make.root / "runs").iterdir()] == ["y"]


@pytest.mark.parametrize("run", ["", "..", ".", "y/..", "/"])
def test_clean_run_throws_nothing_else_away(make, run):
    make("sft", "RUN=y")
    _, done = make("clean-run", f"RUN={run}")
    assert done.returncode == 2 and "expected the name of one run" in done.stdout
    assert (make.root / "runs" / "y" / "sft" / "summary.json").exists()


def test_help_lists_the_targets(make):
    _, done = make("help")
    assert all(f"make {target}" in done.stdout for target in ("setup", "pipeline", "test", "clean-run"))
