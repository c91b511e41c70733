"""Reading a run directory: whole, cut off, partial, and none."""

import json

import pytest

from rlhf_recipes import stages
from rlhf_recipes.errors import UserError
from rlhf_recipes.report import blocks, run


def stage(tmp_path, name, **files):
    folder = tmp_path / "made" / name
    folder.mkdir(parents=True)
    for file, lines in files.items():
        (folder / f"{file}.jsonl").write_text("".join(line + "\n" for line in lines))
    return run.read(tmp_path / "made").stages[name]


def test_stages_come_in_the_order_in_which_they_run_and_unknown_ones_last(run_dir):
    described = run.read(run_dir, stages.catalogue().values())
    assert list(described.stages) == ["pretrain", "sft", "reward", "ppo", "evaluate"]
    assert described.stages["ppo"].title == "PPO"
    alone = run.read(run_dir, [stages.catalogue()["sft"]])
    assert list(alone.stages) == ["sft", "evaluate", "ppo", "pretrain", "reward"]
    assert alone.stages["ppo"].title == "ppo"


def test_training_and_evaluation_rows_of_a_step_are_one(tmp_path):
    made = stage(
        tmp_path, "ppo", metrics=['{"step": 2, "objective/kl": 1.5}', '{"step": 1}', '{"step": 2, "eval_gold": 0.7}']
    )
    assert made.rows == [{"step": 1}, {"step": 2, "objective/kl": 1.5, "eval_gold": 0.7}]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    made = stage(tmp_path, "sft", metrics=['{"step": 1, "loss": 2.0}', '{"step": 2, "lo', '{"step": 3, "loss": 1.0}'])
    assert made.series("loss") == ([1, 3], [2.0, 1.0])


def test_what_is_not_finite_is_not_drawn(tmp_path):
    made = stage(
        tmp_path, "sft", metrics=['{"step": 1, "loss": NaN}', '{"step": 2, "loss": 1.0}', '{"step": 3, "loss": "x"}']
    )
    assert made.series("loss") == ([2], [1.0])


def test_the_first_known_name_of_a_quantity_counts():
    assert run.pick({"policy/entropy_avg": 2.0, "objective/entropy": 40.0}, "entropy") == 2.0
    assert run.pick({"objective/entropy": 40.0}, "entropy") == 40.0
    assert run.pick({}, "entropy") is None


def test_accuracy_of_pairs_is_not_that_of_tokens():
    """TRL's DPOTrainer logs both."""
    row = {"mean_token_accuracy": 0.9, "rewards/accuracies": 0.6}
    assert run.pick(row, "accuracy") == 0.6
    assert run.pick(row, "mean_token_accuracy") == 0.9


def test_held_out_and_training_figures_do_not_mix_in_a_curve(tmp_path):
    rows = ['{"step": 0, "eval_score": 9.0}', '{"step": 1, "objective/scores": 1.0}', '{"step": 1, "eval_score": 8.0}']
    assert stage(tmp_path, "ppo", metrics=rows).series("score") == ([1], [1.0])


def test_a_kl_logged_a_token_is_shown_a_response():
    assert run.pick({"kl": 0.1, "completions/mean_length": 20.0}, "kl") == pytest.approx(2.0)
    assert run.pick({"objective/kl": 5.0, "kl": 0.1, "completions/mean_length": 20.0}, "kl") == 5.0
    assert run.pick({"kl": 3.0}, "kl") == 3.0  # KTO's is that of a response, and it samples no completions


def test_answers_of_every_model_are_grouped_by_prompt(run_dir):
    answers = run.read(run_dir).answers
    assert len(answers) == 24
    assert all(list(a["by"]) == ["base", "sft", "ppo"] for a in answers)


def test_without_evaluation_the_first_and_last_sampled_steps_are_compared(tmp_path):
    rows = [{"step": s, "prompt": "p", "completion": f"at {s}", "reward/gold": 0.5} for s in (0, 10, 20)]
    stage(tmp_path, "ppo", samples=[json.dumps(row) for row in rows])
    [answered] = run.read(tmp_path / "made").answers
    assert {k: row["completion"] for k, row in answered["by"].items()} == {"step 0": "at 0", "step 20": "at 20"}
    assert all(row["gold"] == 0.5 for row in answered["by"].values())


def test_messages_become_text():
    assert blocks.plain([{"role": "user", "content": "Hi"}]) == "user: Hi"
    assert blocks.plain([{"role": "assistant", "content": "Hello"}]) == "Hello"
    assert blocks.plain(None) == ""


def test_no_run_is_one_clear_line(tmp_path, report):
    with pytest.raises(UserError, match="no such run directory"):
        run.read(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no stage"):
        run.read(tmp_path)
    with pytest.raises(UserError, match="at least one run"):
        report()


def test_a_sweeps_folder_names_its_runs_in_order(tmp_path):
    for name in ("10", "2", "best", "notes"):
        folder = tmp_path / "x.sweep" / name / ("ppo" if name != "notes" else "")
        folder.mkdir(parents=True)
        (folder / ("config.yaml" if name != "notes" else "notes.txt")).write_text("a: 1")
    (tmp_path / "x.sweep" / "multirun.yaml").write_text("a: 1")
    assert [path.name for path in run.members(tmp_path / "x.sweep")] == ["2", "10", "best"]
    assert run.members(tmp_path / "x.sweep" / "2") == [tmp_path / "x.sweep" / "2"]
    with pytest.raises(UserError, match="no such run directory"):
        run.members(tmp_path / "y.sweep")
