"""preflight=true, and the brief form at the start of a stage, on a tiny model."""

import json

import pytest

from rlhf_recipes import stages
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import check, rows
from rlhf_recipes.preflight.machine import Machine

TINY = Machine("cpu", "RAM", 1e6, 1e6, 1e6)
FEW = ["data.demos.limit=60", "data.preferences.limit=60", "data.prompts.limit=60"]


def ppo(folders):
    names = {"policy": "policy", "reward_model": "reward", "value_model": "reward"}
    return ["stage=ppo", *FEW, *(f"inputs.{name}={folders[folder]}" for name, folder in names.items())]


def run(house, *overrides):
    return stages.run(house(*overrides)[0])


def test_everything_is_told_and_nothing_is_written(house, folders, tmp_path, capsys):
    root = tmp_path / "runs"
    assert run(house, *ppo(folders), "preflight=true", f"run.root={root}", "trainer.response_length=16") == {}
    said = capsys.readouterr().out
    for part in ("libraries", "policy", "reference", "critic", "reward", "gradients", "optimizer"):
        assert f"\n  {part} " in said
    assert all(part in said for part in ("activations", "KV cache", "logits", "by moment"))
    assert "prompts: 60 read" in said and "dropped" not in said
    assert "EOS '<|eos|>'" in said and "the policy's vocabulary" in said
    assert "held-out pairs; mean score" in said and "disk: " in said
    assert "verdict: fits" in said
    assert not root.exists()


def test_it_will_not_fit_exits_with_1_and_says_what_would(house, folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(house, *ppo(folders), "preflight=true", "preflight_gb=0.001", f"run.root={tmp_path / 'runs'}")
    said = capsys.readouterr().out
    assert left.value.code == 1 and "verdict: WILL NOT FIT" in said
    assert "trainer.per_device_train_batch_size=1" in said
    assert not (tmp_path / "runs").exists()


def test_truncation_is_counted_before_it_happens(house, folders, tmp_path, capsys):
    words = ["stage=sft", *FEW, f"inputs.policy={folders['policy']}", f"run.root={tmp_path}", "preflight=true"]
    run(house, *words, "trainer.max_length=48", "data.eval_fraction=0.2")
    assert "cut at 48 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "grpo", "collect", "evaluate"])
def test_every_stage_has_an_answer(house, folders, tmp_path, capsys, stage):
    name = "mine" if stage == "evaluate" else "policy"
    more = [] if stage == "pretrain" else [f"inputs.{name}={folders['policy']}"]
    more += ["model.path=null"] if stage == "pretrain" else []
    more += ["reward=gold", "data.corpus.limit=60"]
    if stage in ("collect", "evaluate"):
        more.append(f"{stage}.max_new_tokens=16")
    if stage == "grpo":
        more.append("trainer.max_completion_length=16")
    assert run(house, f"stage={stage}", *FEW, *more, "preflight=true", f"run.root={tmp_path / 'runs'}") == {}
    assert "verdict: fits" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_a_stage_whose_input_is_not_made_says_what_makes_it(house, tmp_path):
    with pytest.raises(UserError, match="make it first: python -m rlhf_recipes stage=sft"):
        run(house, "stage=reward", "preflight=true", f"run.root={tmp_path}")


def test_a_limit_must_be_a_size(house, folders, tmp_path):
    with pytest.raises(UserError, match="expected gigabytes above 0"):
        run(house, *ppo(folders), "preflight=true", "preflight_gb=-1", f"run.root={tmp_path}")


def test_a_training_stage_begins_with_the_estimate_and_ends_with_both(house, folders, tmp_path, capsys):
    steps = ["trainer.max_steps=1", "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"]
    steps += ["trainer.gradient_checkpointing=false", "trainer.max_length=64", "trainer.eval_strategy=no"]
    words = ["stage=sft", *FEW, f"inputs.policy={folders['policy']}", f"run.root={tmp_path}", *steps]
    run(house, *words, "preflight_gb=0.001")  # it goes on all the same
    said = capsys.readouterr().out
    assert said.startswith("preflight: ") and "at the peak" in said.splitlines()[0]
    assert "THIS WILL NOT FIT" in said.splitlines()[1]
    summary = json.loads((tmp_path / "default" / "sft" / "summary.json").read_text())
    assert summary["preflight"]["measured_mb"] == summary["peak_rss_mb"]
    assert summary["preflight"]["estimate_mb"] > 0
    assert stages.run(house(*words)[0]) == {}  # preflight_gb does not make it another run


def test_the_estimate_failing_does_not_stop_the_stage(house, folders, monkeypatch, capsys):
    cfg, stage_run = house("stage=sft", *FEW, f"inputs.policy={folders['policy']}")
    monkeypatch.setattr(check, "settle", lambda *a: (_ for _ in ()).throw(UserError("a model like no other")))
    assert check.brief(cfg, stage_run, TINY) is None
    assert "a model like no other" in capsys.readouterr().out


def test_the_brief_form_reads_the_first_rows_only(house, folders, monkeypatch):
    from transformers import AutoTokenizer

    cfg, _ = house("stage=sft", "data.demos.limit=1000", f"inputs.policy={folders['policy']}")
    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    found = rows.sample(cfg.data, "demos", tokenizer)
    assert found.seen == rows.SAMPLE and 0 < found.prompt < found.whole


def test_lengths_are_of_the_longest_row_with_its_end(folders):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    ids = len(tokenizer("one two")["input_ids"])
    pairs = [{"prompt": "one", "chosen": " two", "rejected": ""}, {"prompt": "one", "chosen": "", "rejected": ""}]
    found = rows.measure(pairs, "preferences", tokenizer)
    assert found == rows.Rows(prompt=len(tokenizer("one")["input_ids"]), whole=ids + 1, seen=2)
