"""Reading a run directory: whole, torn, partial, and none."""

import json
import subprocess
import sys

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import charts, run


def stage(tmp_path, name, **files):
    folder = tmp_path / "made" / name
    folder.mkdir(parents=True)
    for file, lines in files.items():
        (folder / f"{file}.jsonl").write_text("".join(line + "\n" for line in lines))
    return tmp_path / "made"


def test_stages_come_in_the_order_they_are_made(run_dir):
    assert list(run.read(run_dir).stages) == ["pretrain", "sft", "reward", "ppo", "evaluate"]


def test_training_and_evaluation_rows_of_a_step_are_one(tmp_path):
    path = stage(
        tmp_path, "ppo", metrics=['{"step": 2, "objective/kl": 1.5}', '{"step": 1}', '{"step": 2, "eval_gold": 0.7}']
    )
    rows = run.read(path).stages["ppo"].rows
    assert rows == [{"step": 1}, {"step": 2, "objective/kl": 1.5, "eval_gold": 0.7}]


def test_a_torn_line_is_passed_over(tmp_path):
    path = stage(tmp_path, "sft", metrics=['{"step": 1, "loss": 2.0}', '{"step": 2, "lo'])
    assert run.read(path).stages["sft"].series("loss") == ([1], [2.0])


def test_what_is_not_finite_is_not_drawn(tmp_path):
    path = stage(
        tmp_path, "sft", metrics=['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 1.0}', '{"step": 3, "loss": "x"}']
    )
    assert run.read(path).stages["sft"].series("loss") == ([2], [1.0])


def test_the_first_known_name_of_a_quantity_counts():
    assert run.pick({"policy/entropy_avg": 2.0, "objective/entropy": 40.0}, "entropy") == 2.0
    assert run.pick({"objective/entropy": 40.0}, "entropy") == 40.0
    assert run.pick({}, "entropy") is None


def test_held_out_and_training_figures_do_not_mix_in_a_curve(tmp_path):
    rows = ['{"step": 0, "eval_score": 9.0}', '{"step": 1, "objective/scores": 1.0}', '{"step": 1, "eval_score": 8.0}']
    assert run.read(stage(tmp_path, "ppo", metrics=rows)).stages["ppo"].series("score") == ([1], [1.0])


def test_grpo_logs_kl_a_token_and_is_shown_a_response():
    assert run.pick({"kl": 0.1, "completions/mean_length": 20.0}, "kl") == pytest.approx(2.0)
    assert run.pick({"objective/kl": 5.0, "kl": 0.1, "completions/mean_length": 20.0}, "kl") == 5.0


def test_answers_of_every_model_are_grouped_by_prompt(run_dir):
    answers = run.read(run_dir).answers
    assert len(answers) == 24
    assert all(list(a["by"]) == ["base", "sft", "ppo"] for a in answers)


def test_without_evaluation_the_first_and_last_sampled_steps_are_compared(tmp_path):
    rows = [{"step": s, "prompt": "p", "completion": f"at {s}", "reward/gold": 0.5} for s in (0, 10, 20)]
    path = stage(tmp_path, "ppo", samples=[json.dumps(row) for row in rows])
    [answered] = run.read(path).answers
    assert {k: row["completion"] for k, row in answered["by"].items()} == {"step 0": "at 0", "step 20": "at 20"}
    assert all(row["gold"] == 0.5 for row in answered["by"].values())


def test_messages_become_text():
    assert run.plain([{"role": "user", "content": "Hi"}]) == "user: Hi"
    assert run.plain([{"role": "assistant", "content": "Hello"}]) == "Hello"
    assert run.plain(None) == ""


def test_no_run_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        run.read(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no stage"):
        run.read(tmp_path)


def test_the_report_does_without_torch(run_dir, tmp_path):
    code = (
        "import sys; from pathlib import Path; from rlhf_recipes.report import html, markdown, tables;"
        f"html.write([Path({str(run_dir)!r})], Path({str(tmp_path / 'r.html')!r}));"
        "bad = {'torch', 'trl', 'transformers', 'hydra', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_sweeps_folder_names_its_runs_in_order(tmp_path):
    for name in ("10", "2", "best", "notes"):
        (tmp_path / "x.sweep" / name / ("ppo" if name != "notes" else "")).mkdir(parents=True)
    (tmp_path / "x.sweep" / "multirun.yaml").write_text("a: 1")
    assert [path.name for path in run.members(tmp_path / "x.sweep")] == ["2", "10", "best"]
    assert run.members(tmp_path / "x.sweep" / "2") == [tmp_path / "x.sweep" / "2"]
    with pytest.raises(UserError, match="no such run directory"):
        run.members(tmp_path / "y.sweep")


def test_grpos_loss_is_drawn(tmp_path):
    rows = [{"step": s, "loss": 0.01 * s, "reward": 1.0, "completions/mean_length": 5.0} for s in range(3)]
    made = run.read(stage(tmp_path, "grpo", metrics=[json.dumps(row) for row in rows]))
    titles = [chart.title for chart in charts.of_stage(made.stages["grpo"])]
    assert "Loss" in titles and "Score" in titles and "Policy loss" not in titles
