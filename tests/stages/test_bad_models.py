"""Mistakes that show only once a model or tokenizer is read: one clear line, before any training."""

import shutil

import pytest

from rlhf_recipes.errors import UserError


@pytest.fixture
def padded_with_eos(made, tmp_path):
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(made[0] / "default" / "sft" / "model", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


def test_pad_that_is_eos_is_refused_with_the_fix(padded_with_eos, house, tmp_path):
    with pytest.raises(UserError, match=r"model\.pad_token="):
        house("sft", f"run.root={tmp_path}/runs", f"inputs.policy={padded_with_eos}")
    assert not any((tmp_path / "runs").rglob("*"))  # nothing half-written
    metrics, _ = house(
        "sft", f"run.root={tmp_path}/fixed", f"inputs.policy={padded_with_eos}", "model.pad_token='<|new_pad|>'"
    )
    assert metrics["eval_loss"] > 0


def own(tmp_path, line):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(line.replace("#", str(i)) for i in range(40)))
    return file


def test_prompts_longer_than_the_context_are_told(made, house, tmp_path):
    long = " ".join(["word"] * 600)
    file = own(tmp_path, f'{{"prompt": "# {long}"}}')
    inputs = [f"inputs.policy={made[0]}/default/sft/model"]
    inputs += [f"inputs.{name}={made[0]}/default/reward/model" for name in ("reward_model", "value_model")]
    with pytest.raises(UserError, match="none of 40 rows is left"):
        house("ppo", f"run.root={tmp_path}", "data=local", f"data.prompts.path={file}", *inputs)


def test_rows_without_a_trained_token_are_told(made, house, tmp_path):
    long = " ".join(["word"] * 600)
    file = own(tmp_path, f'{{"prompt": "# {long}", "completion": " a"}}')
    given = f"inputs.policy={made[0]}/default/sft/model"
    with pytest.raises(UserError, match="none of 40 rows is left"):
        house("sft", f"run.root={tmp_path}", "data=local", f"data.demos.path={file}", given)


def test_max_length_is_capped_at_the_context(made, house, tmp_path, capsys):
    given = f"inputs.policy={made[0]}/default/sft/model"
    house("sft", f"run.root={tmp_path}", given, "trainer.max_length=4096", "preview=true")
    assert "4096 is more than the 512 tokens the model reads" in capsys.readouterr().out


@pytest.mark.parametrize("instructions", [True, False])
def test_bfloat16_without_instructions_for_it_is_told(made, house, tmp_path, capsys, monkeypatch, instructions):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": instructions})
    given = f"inputs.policy={made[0]}/default/sft/model"
    house("sft", f"run.root={tmp_path}", given, "trainer.bf16=true", "preview=true")
    assert ("this CPU emulates bfloat16" in capsys.readouterr().out) is not instructions


def test_an_answer_that_fills_the_context_is_told(made, house, tmp_path):
    inputs = [f"inputs.policy={made[0]}/default/sft/model"]
    inputs += [f"inputs.{name}={made[0]}/default/reward/model" for name in ("reward_model", "value_model")]
    with pytest.raises(UserError, match="leave no room for a prompt"):
        house("ppo", f"run.root={tmp_path}", "trainer.response_length=512", *inputs)


def test_a_reward_model_that_is_not_there_names_its_command(made, house, tmp_path):
    with pytest.raises(UserError, match="stage=reward run"):
        house("ppo", f"run.root={tmp_path}", f"inputs.policy={made[0]}/default/sft/model")
