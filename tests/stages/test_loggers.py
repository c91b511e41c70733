"""logger=wandb and tensorboard: metrics and sample tables arrive, without an account and without a network."""

import pytest


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
