"""Real sweeps over tiny models: Optuna, and an objective whose stage runs after the job's own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf_recipes.report.run import read

ROOT = Path(__file__).parents[2]


def shell(*args):
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_recipes", *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_optuna_moves_a_rate_and_evaluate_judges_each_job(made, small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'rlhf-recipes[sweep]'")
    (tmp_path / "x").symlink_to(made[0] / "default")
    said = shell(
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.sampler.seed=0",
        "stage=sft",
        f"run.root={tmp_path}",
        "run.name=x",
        "trainer.learning_rate=interval(0.0001,0.01)",
        "objective=evaluate.win_rate",
        *small("sft", "evaluate"),
    )
    folder = tmp_path / "x.sweep"
    jobs = [read(folder / str(k)) for k in range(2)]
    decided = [job.evaluation["win_rate"]["sft_vs_base"]["decided"] for job in jobs]
    found = [0.5 if share is None else share for share in decided]  # of the pair that tells most of a job of sft
    rates = [job.stages["sft"].config["trainer"]["learning_rate"] for job in jobs]
    results = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert results["best_value"] == pytest.approx(max(found))
    best = found.index(max(found))
    assert results["best_params"] == {"++trainer.learning_rate": pytest.approx(rates[best])}
    assert rates[0] != rates[1]
    assert f"best: trainer.learning_rate={rates[best]}"[:40] in said
    # Only what the job changed is judged: the parent's ppo, dpo and grpo are not.
    assert set(jobs[0].evaluation["models"]) == {"base", "sft"}
    assert "evaluate" in jobs[0].stages and jobs[0].stages["evaluate"].config["evaluate"]["prompts"] == 8
    for stage in ("sft", "evaluate"):
        again = jobs[1].stages[stage].summary["command"]
        assert f"stage={stage}" in again and "run.name=x.sweep/1" in again and "objective" not in again
        before = (folder / "1" / stage / "summary.json").read_text()
        shell(*shlex.split(again)[3:])  # the same config on the same inputs: there is nothing to do
        assert (folder / "1" / stage / "summary.json").read_text() == before

    shell("stage=report", f"run.root={tmp_path}", "run.name=x.sweep")
    page = (folder / "report.html").read_text()
    assert "2 runs compared" in page and "sft: trainer.learning_rate" in page
