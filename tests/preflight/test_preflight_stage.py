"""preflight=true, and the brief form at the start of a stage, on a tiny model."""

import json
from types import SimpleNamespace

import pytest
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_recipes import models, stages
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import check
from rlhf_recipes.preflight.machine import Machine, available, least
from rlhf_recipes.training.fit import peft_config

TINY = Machine("cpu", "RAM", 1e6)
FEW = ["data.demos.limit=60", "data.preferences.limit=60", "data.prompts.limit=60"]
SHORT = ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"]


def run(house, *overrides):
    return stages.run(house(*overrides)[0])


def test_everything_is_told_and_nothing_is_written(house, folders, tmp_path, capsys):
    names = {"policy": "policy", "reward_model": "reward", "value_model": "reward"}
    inputs = [f"inputs.{name}={folders[folder]}" for name, folder in names.items()]
    batch = ["trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2"]
    words = ["stage=ppo", *FEW, *inputs, *batch, "trainer.num_mini_batches=1", "trainer.response_length=8"]
    assert run(house, *words, "preflight=true", f"run.root={tmp_path / 'runs'}") == {}
    out = capsys.readouterr().out
    for part in ("libraries", "policy", "reference", "critic", "reward", "gradients", "optimizer", "activations"):
        assert f"\n  {part} " in out
    assert "memory at the peak, in the " in out and "prompts: 60 read" in out
    assert "disk: at most " in out and "verdict: fits" in out
    assert not (tmp_path / "runs").exists()


def test_it_will_not_fit_exits_with_1_and_says_what_would(house, folders, tmp_path, capsys):
    words = ["stage=collect", *FEW, f"inputs.policy={folders['policy']}", "collect.max_new_tokens=8", "reward=length"]
    with pytest.raises(SystemExit) as left:
        run(house, *words, "preflight=true", "preflight_gb=0.001", f"run.root={tmp_path / 'runs'}")
    out = capsys.readouterr().out
    assert left.value.code == 1 and "verdict: WILL NOT FIT" in out
    assert "too much collect.batch_size=16" in out


@pytest.mark.parametrize("stage", ["collect", "export", "chat", "score"])
def test_a_stage_that_trains_nothing_has_an_answer_too(house, folders, tmp_path, capsys, stage):
    words = [f"inputs.policy={folders['policy']}", "collect.max_new_tokens=8", "collect.batch_size=4", "reward=length"]
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "a", "completion": "b"}\n')
    words = {
        "export": [f"export.model={folders['policy']}"],
        "chat": [f"chat.models={folders['policy']}"],
        "score": [f"score.file={answers}", f"reward.models.learned.path={folders['reward']}", "reward=model"],
    }.get(stage, words)
    run(house, f"stage={stage}", *FEW, *words, "preflight=true", f"run.root={tmp_path / 'runs'}")
    assert "memory at the peak" in (out := capsys.readouterr().out) and "verdict: fits" in out
    assert not (tmp_path / "runs").exists()


def test_a_report_loads_no_model(house, tmp_path, capsys):
    assert run(house, "stage=report", "preflight=true", f"run.root={tmp_path}") == {}
    out = capsys.readouterr().out
    assert "no model is loaded" in out and "verdict: fits" in out


def test_a_disk_that_is_too_small_is_told_with_what_would_fit(house, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    words = ["stage=sft", *FEW, *SHORT, f"inputs.policy={folders['policy']}", "trainer.max_length=64"]
    words += ["trainer.save_total_limit=2", f"run.root={tmp_path}", "preflight=true"]
    with pytest.raises(SystemExit) as left:
        run(house, *words)
    out = capsys.readouterr().out
    weights = AutoModelForCausalLM.from_pretrained(folders["policy"]).num_parameters() * 4
    whole = weights + 3 * 3 * weights  # the model, and three checkpoints with Adam's two moments
    assert left.value.code == 1 and "verdict: fits" in out
    assert f"at most {whole / 1e6:.0f} MB" in out and "save_total_limit=1" in out
    with pytest.raises(SystemExit):
        run(house, *words, "trainer.save_strategy=no")
    assert f"at most {weights / 1e6:.0f} MB" in capsys.readouterr().out


def test_a_stage_whose_input_is_not_made_says_what_makes_it(house, tmp_path):
    with pytest.raises(UserError, match="make it first: python -m rlhf_recipes stage=sft"):
        run(house, "stage=reward", "preflight=true", f"run.root={tmp_path}")


def test_a_limit_must_be_a_size(house, folders, tmp_path):
    words = ["stage=sft", f"inputs.policy={folders['policy']}", "preflight=true", f"run.root={tmp_path}"]
    with pytest.raises(UserError, match="expected gigabytes above 0"):
        run(house, *words, "preflight_gb=-1")


def test_a_stage_begins_with_its_least_and_ends_with_the_peak_beside_it(house, folders, tmp_path, capsys):
    words = ["stage=sft", *FEW, *SHORT, f"inputs.policy={folders['policy']}", f"run.root={tmp_path}"]
    words += ["trainer.max_steps=1", "trainer.max_length=64", "trainer.eval_strategy=no"]
    run(house, *words, "preflight_gb=0.001")  # it goes on all the same
    first, second = capsys.readouterr().out.splitlines()[1:3]  # after what it starts from
    assert first.startswith("preflight: ") and "before any activation" in first and "THIS WILL NOT FIT" in second
    summary = json.loads((tmp_path / "default" / "sft" / "summary.json").read_text())
    assert summary["preflight"]["measured_mb"] == summary["peak_rss_mb"]
    assert summary["preflight"]["estimate_mb"] > 0
    assert stages.run(house(*words)[0]) == {}  # preflight_gb does not make it another run


@pytest.mark.parametrize("stage", ["sft", "reward"])
@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_least_is_what_the_model_and_its_adapter_hold(house, folders, stage, peft):
    cfg, stage_run = house(f"stage={stage}", f"peft={peft}", f"inputs.policy={folders['policy']}")
    load, task = (models.load_policy, "CAUSAL_LM") if stage == "sft" else (models.load_reward_model, "SEQ_CLS")
    model = load(cfg.model, folders["policy"], models.load_tokenizer(cfg.model, folders["policy"]))
    if peft == "lora":
        model = get_peft_model(model, peft_config(cfg, task))
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    every = sum(p.nbytes for p in model.parameters())
    assert least(cfg, stage_run, "cpu") == {"policy": every, "gradients": trained, "optimizer": 2 * trained}


def test_an_estimate_that_fails_does_not_stop_the_stage(house, folders, monkeypatch, capsys):
    cfg, stage_run = house("stage=sft", *FEW, f"inputs.policy={folders['policy']}")
    monkeypatch.setattr(check, "least", lambda *a: (_ for _ in ()).throw(TypeError("no // for None")))
    assert check.brief(cfg, stage_run, TINY) is None
    assert "no estimate of the memory (TypeError: no // for None)" in capsys.readouterr().out

    def strange(cfg, run):
        raise RuntimeError("\nlater")

    with pytest.raises(UserError, match=r"stage=sft cannot be estimated \(RuntimeError: later\); without"):
        check.run(cfg, stage_run, strange, TINY)


def test_a_container_has_what_its_control_group_leaves(tmp_path):
    (tmp_path / "memory.max").write_text("1000000000")
    (tmp_path / "memory.current").write_text("400000000")
    assert available(tmp_path) == 6e8
    assert available(tmp_path / "none") > 6e8
