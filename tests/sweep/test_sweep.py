"""`-m`: what a job hands the sweeper, where its data comes from, and what is left of a sweep that never began."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.config import sweeps
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import artifacts, provenance
from rlhf_recipes.stages import _objective, catalogue

ROOT = Path(__file__).parents[2]
PAIR = {"win": 0.4, "tie": 0.2, "loss": 0.4, "decided": 0.5}
METRICS = {
    "models": {"ppo": {"gold": 1.5, "ppl": None}, "qwen2.5": {"gold": 0.5}},
    "win_rate": {"ppo_vs_base": PAIR, "ppo_vs_sft": PAIR | {"decided": 0.75}, "dpo_vs_sft": PAIR | {"decided": None}},
    "prompts": 8,
}


def at(path, stage="ppo"):
    return _objective.metric_at(METRICS, path, f"evaluate.{path}", stage)


def shell(*args, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "rlhf_recipes", *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("path", "stage", "value"),
    [
        ("prompts", "ppo", 8.0),
        ("models.ppo.gold", "ppo", 1.5),
        ("models.qwen2.5.gold", "ppo", 0.5),  # a name with a dot in it
        ("win_rate.ppo_vs_sft.win", "ppo", 0.4),
        ("win_rate.ppo_vs_base", "ppo", 0.5),
        ("win_rate", "ppo", 0.75),
        ("win_rate", "dpo", 0.5),  # the job's own policy; every answer a tie
        ("win_rate", "reward", 0.75),
    ],
)
def test_a_dotted_path_is_one_number(path, stage, value):
    assert at(path, stage) == value


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("win_rat", "there is no win_rat; there is models, win_rate, prompts"),
        ("models.sft.gold", "there is no sft.gold; there is ppo, qwen2.5"),
        ("prompts.more", "there is no prompts.more"),
        ("models.ppo", "names several numbers; go on with one of gold, ppl"),
        ("models.ppo.ppl", "is None; expected a number"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_there_is(path, said):
    with pytest.raises(UserError, match=said):
        at(path)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("evalute.win_rate", "expected <stage>.<metric>"),
        ("evaluate", "expected <stage>.<metric>"),
        ("sft.eval_loss", "sft comes before stage=ppo"),
        (["evaluate.win_rate", "sft.eval_loss"], "sft comes before stage=ppo"),
    ],
)
def test_an_objective_no_job_can_have_is_refused_before_the_first(objective, said):
    with pytest.raises(UserError, match=said):
        sweeps.check(OmegaConf.create({"stage": "ppo", "objective": objective}), catalogue())


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["recipes=kl_sweep/ppo", "kl.target=16", "evaluate.tie=0.1", "seed=1"], "evaluate"),
        (["stage=reward", "model=qwen0.5b", "data=hh_rlhf", "peft=lora", "data.prompts.limit=9"], "evaluate"),
    ],
)
def test_the_stage_an_objective_adds_is_made_again_by_its_command(words, added, monkeypatch):
    register_recipes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = rewrite([*words, "objective=evaluate.win_rate"])
        job = compose("config", asked, return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", job)
        run, composed = _objective._following(job, added)
        run.run = job.run = {"name": "x.sweep/0", "root": "runs", "parent": ["x"], "overwrite": False}
        said = shlex.split(provenance.command(run, composed))
        assert said[:3] == ["python", "-m", "rlhf_recipes"] and "run.parent=[x]" in said
        again = compose("config", rewrite(said[3:]))
    assert provenance.differences(run, again) == []
    assert (again.run.name, again.run.parent) == ("x.sweep/0", ["x"])
    assert again.inputs.get("dpo") == ["none"]  # the parent's policies are not this job's


def finished(root, run, stage):
    folder = root / run / stage
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"stage": stage}))
    return folder


def placed(root, path, name="x.sweep/0", parent="x"):
    data = {"preferences": {"path": path, "sources": [{"eval_path": path}, {"path": "???"}]}}
    cfg = OmegaConf.create({"run": {"root": str(root), "name": name, "parent": parent}, "data": data})
    artifacts.from_parents(cfg)
    assert cfg.data.preferences.sources[0].eval_path == cfg.data.preferences.path
    return cfg.data.preferences.path


def test_what_the_parent_run_made_is_found_there(tmp_path):
    folder = finished(tmp_path, "x", "collect")
    named = "${run.root}/${run.name}/collect/*.jsonl"
    assert placed(tmp_path, named) == f"{folder}/*.jsonl"
    assert placed(tmp_path, named, parent=["other", "x"]) == f"{folder}/*.jsonl"
    own = finished(tmp_path, "x.sweep/0", "collect")
    assert placed(tmp_path, named) == f"{own}/*.jsonl"  # its own, where it has one
    assert placed(tmp_path, "elsewhere/collect/a.jsonl") == "elsewhere/collect/a.jsonl"


def test_another_runs_stage_is_an_input(tmp_path):
    finished(tmp_path, "other", "sft")
    base = {
        "stage": "evaluate",
        "preview": False,
        "model": {"path": None},
        "run": {"name": "r", "root": str(tmp_path), "parent": None},
    }

    def resolved(place):
        run = artifacts.StageRun(OmegaConf.create(base | {"inputs": {"mine": place}, "data": {}}), catalogue())
        run.resolve()
        return run.inputs["mine"]

    assert resolved("other:sft") | {"hash": ""} == {
        "path": str(tmp_path / "other" / "sft" / "model"),
        "hash": "",
        "stage": "sft",
    }
    with pytest.raises(UserError, match=r"run other has no finished ppo .*finished there: sft"):
        resolved("other:ppo")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"best_params": {"++kl.target": 4.5, "seed": 1}, "best_value": 0.75}, "best: kl.target=4.5, seed=1 (0.75)\n"),
        ({"solutions": [{"params": {"++kl.target": 2}, "values": [0.5, 3.0]}]}, "best: kl.target=2 (0.5, 3)\n"),
    ],
)
def test_the_end_of_a_judged_sweep_says_which_job_was_best(results, said, tmp_path, capsys):
    OmegaConf.save(results, tmp_path / "optimization_results.yaml")
    sweeps.Sweep().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_that_never_began_leaves_nothing(launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher") if launcher != "basic" else None
    done = shell("-m", "stage=ppo", "kl.target=1,2", f"hydra/launcher={launcher}", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")][-1:]
    assert "run default has no finished sft" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_run_in_processes_of_their_own(launcher, tmp_path):
    """Real jobs, of a stage without a model. submitit_local starts them as submitit_slurm would, without a queue."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher", reason="rlhf-recipes[sweep]")
    (tmp_path / "answers.jsonl").write_text(json.dumps({"prompt": "a", "completion": " b c"}) + "\n")
    words = ["stage=score", "reward=length", "score.file=answers.jsonl", "score.out=x.jsonl,y.jsonl"]
    done = shell("-m", f"hydra/launcher={launcher}", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [json.loads((tmp_path / f"{name}.jsonl").read_text())["score"] for name in "xy"]
    assert scores[0] == scores[1] > 0


def test_a_job_of_a_recipe_takes_what_the_parents_collect_left(tmp_path):
    folder = finished(tmp_path / "runs", "default", "collect")
    rows = [{"prompt": f"p{i}", "chosen": " a", "rejected": " b"} for i in range(20)]
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = shell("-m", "recipes=tinystories_sentiment/reward", "model.path=./none", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.path=./none: no such folder"), done.stderr  # the data were found
    assert not (tmp_path / "runs" / "default.sweep").exists()


def test_a_sweeper_that_judges_needs_an_objective(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'rlhf-recipes[sweep]'")
    done = shell("-m", "hydra/sweeper=optuna", "stage=ppo", "kl.target=interval(1,8)", cwd=tmp_path)
    assert done.returncode == 2
    assert "give objective=evaluate.win_rate" in done.stderr
    assert not list(tmp_path.iterdir())
