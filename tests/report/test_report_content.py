"""What the report says: tables, verdict, charts, provenance. Which ones follows from the metrics, not from names."""

import doctest
import json
import re
from pathlib import Path

import pytest

from rlhf_recipes import stages
from rlhf_recipes.config.stage import Figure
from rlhf_recipes.config.stage import Stage as Description
from rlhf_recipes.report import blocks, content, curves, pages, provenance, svg, tables, trust
from rlhf_recipes.report.run import Run, Stage, read


@pytest.mark.parametrize("module", [blocks, pages, provenance, svg, tables])
def test_doctests(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def policy(rows, tmp_path):
    stage = Stage("ppo", tmp_path)
    stage.__dict__["rows"] = rows
    return stage


def test_training_figures_are_carried_to_the_evaluated_steps_and_gold_is_not(tmp_path):
    rows = [{"step": s, "objective/scores": s / 10, "objective/kl": float(s)} for s in range(1, 7)]
    rows += [{"step": 10 + s, "eval_gold": 0.5 + s / 10} for s in range(3)]
    table = tables.by_step(policy(rows, tmp_path))
    assert [c.label for c in table.columns] == ["step", "score", "gold", "KL"]
    assert table.rows == [[10, 0.6, 0.5, 6.0], [11, 0.6, 0.6, 6.0], [12, 0.6, 0.7, 6.0]]


def test_a_table_by_step_has_the_held_out_figures_and_every_win_rate(run_dir):
    stage = read(run_dir).stages["ppo"]
    table = tables.by_step(stage)
    assert [c.label for c in table.columns] == ["step", "score", "gold", "KL", "beta", "win rate", "length", "entropy"]
    held_out = {row["step"]: row for row in stage.rows if "eval_win_rate" in row}
    assert (table.rows[0][0], table.rows[-1][0]) == (0, 60) and len(table.rows) == tables.STEPS_SHOWN
    for step, score, gold, kl, beta, won, length, _ in table.rows:
        row = held_out[step]
        assert (score, gold, kl) == (row["eval_score"], row["eval_gold"], row["eval_kl"])
        assert (won, length) == (row["eval_win_rate"], row["eval_length"])
        assert beta == row.get("objective/kl_coef")
    assert table.rows[-1][5] == pytest.approx(0.78)
    assert "On held-out prompts. From the last update before: beta, entropy. Win rate: of decided" in table.note


def test_what_no_evaluation_of_grpo_measures_is_the_last_updates(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "eval_reward": 0.3, "eval_completions/mean_length": 12.0}\n'
        '{"step": 9, "reward": 0.6, "kl": 0.1, "completions/mean_length": 20.0, "rewards/gold/mean": 0.2}\n'
        '{"step": 9, "eval_reward": 0.5, "eval_completions/mean_length": 11.0}\n'
    )
    table = tables.by_step(Stage("grpo", tmp_path))
    assert [c.label for c in table.columns] == ["step", "score", "gold", "KL", "length"]
    assert table.rows == [[0, 0.3, None, None, 12.0], [9, 0.5, 0.2, 2.0, 11.0]]
    assert table.note.endswith("On held-out prompts. From the last update before: gold, KL.")


def test_without_evaluations_the_steps_are_evenly_spaced(tmp_path):
    rows = [{"step": s, "objective/kl": float(s)} for s in range(1, 101)]
    steps = [row[0] for row in tables.by_step(policy(rows, tmp_path)).rows]
    assert len(steps) == tables.STEPS_SHOWN
    assert (steps[0], steps[-1]) == (1, 100)


def test_sft_without_epochs_still_has_a_row(tmp_path):
    stage = Stage("sft", tmp_path, {"metrics": {"train_loss": 1.0, "eval_loss": 1.2, "eval_ppl": 3.3}})
    assert tables.of_stage(stage).rows == [["end", 1.0, 1.2, 3.3]]


def test_the_last_epoch_is_the_end_though_the_summarys_train_loss_is_the_whole_runs_mean(tmp_path):
    epoch = {"epoch": 1.0, "train_loss": 1.41, "eval_loss": 0.76, "eval_ppl": 2.15}
    stage = Stage("sft", tmp_path, {"metrics": epoch | {"epoch": None, "train_loss": 1.4, "epochs": [epoch]}})
    assert tables.of_stage(stage).rows == [list(epoch.values())]


def test_reward_table_names_the_label_ceiling(run_dir):
    table = tables.of_stage(read(run_dir).stages["reward"])
    assert table.rows == [[155, 0.829, 0.391, 1.74]]
    assert "89.7 %" in table.note


def test_verdict_counts_decided_comparisons(tmp_path):
    metrics = {
        "models": {"sft": {}, "ppo": {"kl": 5.04}},
        "win_rate": {"ppo_vs_sft": {"win": 0.6, "tie": 0.2, "loss": 0.2, "ci95": [0.5, 0.7]}},
        "judge": "gold",
    }
    run = Run("x", tmp_path, {"evaluate": Stage("evaluate", tmp_path, {"metrics": metrics})})
    expected = (
        "ppo wins 75 % of the decided held-out comparisons with sft, judged by the gold score, at a KL of 5.0 nats."
    )
    assert tables.verdict(run) == expected
    assert tables.verdict(Run("x", tmp_path, {})) == ""
    metrics["win_rate"]["ppo_vs_sft"]["decided_ci95"] = [0.48, 0.9]
    assert "(95 % interval 48 to 90: no clear difference)" in tables.verdict(run)


def test_the_final_policy_is_the_one_trained_on_a_reward_else_the_last_that_was_trained(tmp_path):
    def final(*names):
        trained = {name: Stage(name, tmp_path) for name in names}
        if "ppo" in trained:
            trained["ppo"].__dict__["rows"] = [{"step": 1, "objective/scores": 1.0}]
        models = {name: {} for name in ("base", *names, "far")}  # far: an endpoint
        evaluation = Stage("evaluate", tmp_path, {"metrics": {"models": models}})
        return Run("x", tmp_path, trained | {"evaluate": evaluation}, list(stages.catalogue())).final

    assert final("sft", "ppo", "dpo") == "ppo"
    assert final("sft", "dpo") == "dpo"
    assert final("sft") == "sft"


def test_there_is_no_minus_nought():
    assert blocks.show(-0.0004, 2) == "0.00"
    assert blocks.show(-0.006, 2) == "\N{MINUS SIGN}0.01"


def test_only_what_matters_and_differs_is_listed(tmp_path):
    stage = Stage("ppo", tmp_path)
    stage.__dict__["config"] = {"run": {"name": "mine"}, "trainer": {"kl_coef": 0.1, "gamma": 1.0}, "new": [1]}
    defaults = {"run": {"name": "default"}, "trainer": {"kl_coef": 0.05, "gamma": 1.0}}
    assert provenance.changed(stage, defaults) == {"trainer.kl_coef": (0.05, 0.1), "new": (provenance.MISSING, [1])}
    run = Run("mine", tmp_path, {"ppo": stage})
    assert (
        provenance.command(run, stage, defaults)
        == "python -m rlhf_recipes stage=ppo run.name=mine 'new=[1]' trainer.kl_coef=0.1"
    )


def test_what_is_absent_is_told_only_where_it_stands_for_something(tmp_path):
    stage = Stage("ppo", tmp_path)
    stage.__dict__["config"] = {"peft": {"r": 8}, "data": {"x": None}, "trainer": {"max_length": None}, "kl": {}}
    defaults = {"peft": None, "kl": {"target": 6.0}, "prompt": None, "data": {"y": []}}
    absent = provenance.MISSING
    assert provenance.changed(stage, defaults) == {
        "kl": (absent, {}),
        "kl.target": (6.0, absent),
        "peft.r": (absent, 8),
        "trainer.max_length": (absent, None),
    }


def test_a_composed_command_names_the_run_and_its_parent(tmp_path):
    stage = Stage("ppo", tmp_path, {"seed": 1})
    stage.__dict__["config"] = {"run": {"name": "x.sweep/0", "root": "runs", "parent": ["x", "y"]}}
    assert (
        provenance.command(Run("0", tmp_path, {"ppo": stage}), stage, None)
        == "python -m rlhf_recipes stage=ppo run.name=x.sweep/0 'run.parent=[x,y]' seed=1"
    )


def test_a_sweep_shows_the_swept_key_once(sweep):
    assert provenance.varying([read(path) for path in sweep]) == {"seed": [0, 1, 2], "ppo: kl.target": [2.0, 4.0, 8.0]}


def test_calibration_of_pairs_that_are_right_in_three_of_four(tmp_path):
    # score differences of +-ln 3 claim 0.75; three of four agree
    stage = Stage("reward", tmp_path)
    sign = [1, 1, 1, -1] * 8
    stage.__dict__["samples"] = [{"score_chosen": s * 1.0986123, "score_rejected": 0.0} for s in sign]
    (chart,) = trust.calibration(stage)
    assert "Mean distance 0.000 over 32 pairs" in chart.how
    assert trust.calibration(Stage("reward", tmp_path)) == []


def test_frontier_pairs_gold_with_the_last_kl(tmp_path):
    rows = [{"step": 1, "objective/kl": 4.0}, {"step": 2, "objective/kl": 9.0}, {"step": 2, "eval_gold": 0.7}]
    run = Run("x", tmp_path, {"ppo": policy(rows, tmp_path)})
    assert trust.frontier(run, "gold") == [(3.0, 0.7)]


def test_frontier_prefers_held_out_answers_where_score_and_kl_are_of_the_same(tmp_path):
    rows = [{"step": 1, "objective/kl": 9.0, "objective/scores": 5.0, "eval_kl": 4.0, "eval_score": 2.0}]
    rows.append({"step": 0, "eval_kl": -1e-7, "eval_score": 1.0})
    run = Run("x", tmp_path, {"ppo": policy(rows, tmp_path)})
    assert trust.frontier(run, "score") == [(0.0, 1.0), (2.0, 2.0)]


def evaluated(path, **metrics):
    policy_stage = Stage("ppo", path)
    policy_stage.__dict__["rows"] = [{"step": 1, "eval_kl": 1.0, "eval_gold": 9.0}, {"step": 2, "eval_kl": 4.0}]
    return Run(path.name, path, {"ppo": policy_stage, "evaluate": Stage("evaluate", path, {"metrics": metrics})})


WAY = {
    "sft": {"gold": 0.0, "kl": 0.0},
    "ppo": {"gold": 2.0, "kl": 9.0},
    "ppo@20": {"gold": 3.0, "kl": 4.0},
    "ppo@10": {"gold": 1.0, "kl": 1.0},
}


def test_checkpoints_stand_below_the_models_and_draw_the_frontier(tmp_path):
    won = {"ppo@10_vs_sft": {"win": 0.6, "loss": 0.2, "decided": 0.75}, "ppo_vs_sft": {"win": 0.5, "loss": 0.5}}
    run = evaluated(tmp_path, models=WAY, ref="sft", win_rate=won)
    assert [row[0] for row in tables.wins(run).rows] == ["ppo over sft"]
    rows = [(row[0], row[-1]) for row in tables.models(run).rows]
    assert rows == [("sft", None), ("ppo", None), ("ppo@20", None), ("ppo@10", 0.75)]
    assert trust.frontier(run, "gold") == [(0.0, 0.0), (1.0, 1.0), (2.0, 3.0), (3.0, 2.0)]


def test_one_checkpoint_is_no_way_so_the_logged_answers_are_drawn(tmp_path):
    run = evaluated(tmp_path, models={k: v for k, v in WAY.items() if k != "ppo@10"}, ref="sft")
    assert trust.frontier(run, "gold") == [(1.0, 9.0)]


def test_where_several_runs_ended_is_a_point_a_run(tmp_path):
    runs = [evaluated(tmp_path, models={"ppo": {"kl": k, "gold": g}}) for k, g in ((4.0, 0.5), (1.0, 0.7))]
    (chart,) = [chart for chart in trust.of_runs(runs) if chart.key == "gold_ends"]
    assert chart.drawing.limits[:2] == (1.0, 2.0)
    assert "gold_ends" not in [chart.key for chart in trust.of_runs(runs[:1])]


def test_benchmarks_are_a_row_a_task_and_metric_with_the_error_of_each(tmp_path):
    figures = {"acc": 0.5, "acc_stderr": 0.125, "f1/strict": 0.25, "f1_stderr/strict": 0.0625}
    models = {"sft": {"benchmarks": {"mine": figures}}, "ppo": {"benchmarks": {"mine": {"acc": 0.75}}}, "far": {}}
    table = tables.benchmarks(evaluated(tmp_path, models=models))
    assert [c.label for c in table.columns] == ["task", "metric", "sft", "ppo"]
    assert table.rows == [
        ["mine", "acc", "0.500 \N{PLUS-MINUS SIGN} 0.125", "0.750"],
        ["mine", "f1/strict", "0.250 \N{PLUS-MINUS SIGN} 0.062", None],
    ]


def test_who_judged_and_why_a_figure_is_missing_are_said(tmp_path):
    models = {"sft": {"score": 1.0, "kl": None, "majority_at_8": 0.5}}
    run = evaluated(tmp_path, models=models, notes=["far is an endpoint"], judge="learned")
    table = tables.models(run)
    assert [c.label for c in table.columns] == ["model", "score", "majority@8"]
    assert table.note.endswith("far is an endpoint.")
    assert tables.judge_name(run) == "the reward learned"


def stage_of(tmp_path, name, *rows, **summary):
    stage = Stage(name, tmp_path, {"status": "done", "metrics": summary}, title=name)
    stage.__dict__["rows"] = list(rows)
    return stage


def drawn(stage):
    return {chart.title: chart for chart in curves.of_stage([(stage.name, stage)])}


def test_a_made_up_stage_shows_itself(tmp_path):
    """Its description gives title, place and key figure; its metrics choose its table and charts."""
    for name in ("sft", "wish", "aim"):
        (tmp_path / "made" / name).mkdir(parents=True)
    rows = [
        {"step": s, "loss": 1.0, "objective/kl": s / 2, "objective/scores": s / 10, "eval_gold": 0.5} for s in range(9)
    ]
    (tmp_path / "made" / "wish" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"status": "done", "wall_seconds": 5.0, "metrics": {"wishes": 7, "luck": 0.25}}
    (tmp_path / "made" / "wish" / "summary.json").write_text(json.dumps(summary))
    for name in ("sft", "aim"):
        (tmp_path / "made" / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    figures = (Figure("wishes", "wishes", 0), Figure("luck", "luck", "%"), Figure("absent", "absent"))
    known = [Description("wish", "Wishing", 5, figures=figures), Description("sft", "Tuning", 20)]
    run = read(tmp_path / "made", known)
    assert tables.flow(run) == [
        ("Wishing", "5.0 s", "7 wishes, luck 25.0 %"),
        ("Tuning", "-", "not finished"),
        ("aim", "-", "not finished"),
    ]
    assert run.policy.name == "wish"
    assert tables.of_stage(run.stages["wish"]).title == "Wishing by step"
    (shown, *_) = curves.of_runs([run])
    titles = [chart.title for chart in shown.charts]
    assert (shown.title, titles) == ("Wishing", ["Score", "Gold score", "Loss", "KL to the reference"])
    page = pages.write_html(content.build([tmp_path / "made"], known), tmp_path / "r.html").read_text()
    assert "<b>Wishing</b>" in page and "Wishing by step" in page


def test_ktos_and_rloos_metrics_choose_their_charts(tmp_path):
    """The names that TRL 1.12's KTOTrainer and RLOOTrainer log."""
    kto = {"loss": 0.5, "kl": 2.0, "rewards/chosen": 0.2, "rewards/rejected": -0.1, "rewards/margins": 0.3}
    stage = stage_of(tmp_path, "kto", *({"step": s} | kto for s in (1, 2)), {"step": 2, "eval_loss": 0.4})
    assert list(drawn(stage)) == ["Loss", "Margin", "KL to the reference"]
    assert drawn(stage)["Loss"].drawing.y_label == "objective"
    assert tables.of_stage(stage).title == "kto on held-out rows"
    stage.__dict__["config"] = {"kl": {"target": 6.0}}  # KTO has no controller that would read it
    assert not drawn(stage)["KL to the reference"].drawing.references
    rloo = {"loss": 0.0, "reward": 1.0, "reward_std": 0.1, "kl": 0.1, "entropy": 2.0, "clip_ratio/region_mean": 0.1}
    stage = stage_of(tmp_path, "rloo", *({"step": s, "completions/mean_length": 5.0} | rloo for s in (1, 2)))
    charts = drawn(stage)
    assert list(charts) == ["Score", "Loss", "KL to the reference", "Length", "Entropy", "Clip fraction"]
    assert stage.series("kl")[1] == [0.5, 0.5]
    assert tables.of_stage(stage).title == "rloo by step"


def test_held_out_answers_that_are_right_have_a_chart_and_a_column(tmp_path):
    rows = [{"step": s, "reward": 0.5, "eval_reward": 0.5, "eval_accuracy": 0.6 + s / 10} for s in (0, 1)]
    stage = stage_of(tmp_path, "grpo", *rows)
    assert drawn(stage)["Accuracy"].drawing.y_label == "share of prompts"
    assert tables.by_step(stage).rows == [[0, 0.5, 0.6], [1, 0.5, 0.7]]


def test_no_stages_name_stands_in_the_room():
    room = Path(content.__file__).parent
    names = set(stages.catalogue()) - {"report"}
    known = {"reward", "score"}  # also metrics of TRL's
    for file in (file for file in room.iterdir() if file.suffix in (".py", ".html", ".md", ".svg", ".js")):
        words = set(re.findall(r"""["'](\w+)["']""", file.read_text(encoding="utf-8")))
        assert words & (names - known) == set(), file


def test_exact_accuracy_votes_and_logged_metrics_have_columns(tmp_path):
    stage = Stage("evaluate", tmp_path)
    of = {"score": 1.0, "accuracy": 0.5, "accuracy_se": 0.1, "accuracy_ci95": [0.3, 0.7]}
    of |= {"majority_at_8": 0.6, "majority_at_8_std": 0.2, "majority_at_8_ci95": [0.4, 0.8], "tags": 0.25}
    stage.summary = {"metrics": {"models": {"sft": of}, "win_rate": {}, "logged": ["tags"]}}
    table = tables.models(Run("r", tmp_path, {"evaluate": stage}))
    labels = ["model", "score", "accuracy", "95 % of accuracy", "majority@8", "95 % of majority@8", "tags"]
    assert [column.label for column in table.columns] == labels
    assert table.cells() == [["sft", "1.000", "50.0 %", "30 to 70", "60.0 %", "40 to 80", "0.250"]]
