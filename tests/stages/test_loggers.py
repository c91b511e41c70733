"""logger=wandb, tensorboard and trackio: metrics and sample tables arrive, without account and network."""

import sqlite3
import sys

import pytest

from rlhf_recipes.errors import UserError


def test_wandb_offline_holds_metrics_and_sample_tables(made, house, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    inputs = [f"inputs.policy={made[0]}/default/sft/model"]
    inputs += [f"inputs.{name}={made[0]}/default/reward/model" for name in ("reward_model", "value_model")]
    house("ppo", f"run.root={tmp_path}", *inputs, "logger=wandb", "logger.offline=true", "ppo.sample_rows=2")
    wandb.finish()
    (run,) = tmp_path.glob("wandb/offline-run-*")
    (log,) = run.glob("*.wandb")
    assert b"objective/kl" in log.read_bytes()
    assert list(run.rglob("completions*.table.json"))


def test_tensorboard_writes_event_files(made, house, tmp_path):
    pytest.importorskip("tensorboard")
    given = f"inputs.policy={made[0]}/default/pretrain/model"
    house("sft", f"run.root={tmp_path}", given, "logger=tensorboard")
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_trackio_keeps_the_metrics_on_this_machine(made, house, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="an extra: pip install 'rlhf-recipes[trackio]'")
    for name, module in list(sys.modules.items()):  # its folder is settled when it is imported
        if name.partition(".")[0] == "trackio" and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    given = [f"inputs.policy={made[0]}/default/pretrain/model", "logger.project=mine"]
    house("sft", f"run.root={tmp_path}", *given, "logger=trackio")
    (file,) = (tmp_path / "trackio").glob("*.db")
    assert file.stem == "mine"
    with sqlite3.connect(file) as base:
        rows = base.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert {name for name, _ in rows} == {"default/sft"}
    assert any(b"train/loss" in metrics for _, metrics in rows)


def test_wandb_without_a_key_is_one_line_before_a_model_is_loaded(house, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="finds no API key; run wandb login") as error:
        house("pretrain", f"run.root={tmp_path}", "logger=wandb")
    assert "\n" not in str(error.value)
