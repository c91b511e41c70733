"""Every stage end to end on a tiny model, and what it leaves behind."""

import json
from itertools import takewhile

import pytest

TRAINED = ("pretrain", "sft", "reward", "ppo", "dpo", "grpo")
CONTRACT = {
    "pretrain": {"train_loss", "eval_loss", "eval_ppl", "epochs"},
    "sft": {"train_loss", "eval_loss", "eval_ppl", "epochs"},
    "reward": {"eval_accuracy", "eval_loss", "eval_margin", "label_ceiling"},
    "ppo": {"score_first", "score_last", "kl_last", "kl_coef_last", "entropy_last", "episodes", "episodes_per_second"},
    "grpo": {"score_first", "score_last", "kl_last", "kl_coef_last", "entropy_last", "episodes", "episodes_per_second"},
    "dpo": {"eval_accuracy", "eval_margin", "eval_loss"},
    "evaluate": {"models", "win_rate"},
}


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("stage", CONTRACT)
def test_a_summary_keeps_the_contract(made, stage):
    root, _ = made
    summary = json.loads((root / "default" / stage / "summary.json").read_text())
    assert summary["status"] == "done"
    assert {"seed", "wall_seconds", "peak_rss_mb", "versions", "inputs"} <= summary.keys()
    assert CONTRACT[stage] <= summary["metrics"].keys()
    assert all(summary["metrics"][name] is not None for name in CONTRACT[stage])


@pytest.mark.parametrize("stage", TRAINED)
def test_what_is_left_loads_without_this_package(made, stage):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = made[0] / "default" / stage / "model"
    cls = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
    model, tokenizer = cls.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    if stage != "reward":
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert model.config.use_cache
    else:
        assert model.score.bias is None
        assert model.config.num_labels == 1


@pytest.mark.parametrize("stage", TRAINED)
def test_metrics_are_a_row_a_logged_step(made, stage):
    logged = rows(made[0] / "default" / stage / "metrics.jsonl")
    assert [r["step"] for r in logged] == sorted(r["step"] for r in logged)
    assert all(isinstance(r["time"], float) for r in logged)


def test_ppo_logs_gold_and_the_win_rate_over_its_start(made):
    logged = rows(made[0] / "default" / "ppo" / "metrics.jsonl")
    assert any("reward/gold" in r and "reward/learned" in r and "objective/kl_coef" in r for r in logged)
    held_out = [r for r in logged if "eval_win_rate" in r]
    assert held_out[0]["step"] == 0
    assert held_out[0]["eval_win_rate"] == 0.5
    assert abs(held_out[0]["eval_kl"]) < 1e-4
    assert {"step", "prompt", "completion", "score"} <= rows(made[0] / "default" / "ppo" / "samples.jsonl")[0].keys()


def test_evaluate_compares_every_model_of_the_run(made):
    metrics = made[1]["evaluate"]
    assert set(metrics["models"]) == {"base", "sft", "ppo", "dpo", "grpo"}
    assert {"score", "gold", "kl", "ppl", "length"} <= metrics["models"]["ppo"].keys()
    assert {"win", "tie", "loss", "ci95"} <= metrics["win_rate"]["ppo_vs_sft"].keys()
    assert abs(metrics["models"]["sft"]["kl"]) < 1e-4


def test_the_report_is_one_file(made):
    assert (made[0] / "default" / "report.html").stat().st_size > 10_000


def test_only_what_differs_from_the_defaults_is_told(made, house, tmp_path):
    """In report and model card: all that SMALL and STEPS change for sft, and nothing that the schema fills in."""
    root, _ = made
    house("export", f"run.root={root}", "export.model=sft", f"export.to={tmp_path / 'out'}")
    for page in (root / "default" / "report.md", tmp_path / "out" / "README.md"):
        after = page.read_text().partition("## Settings")[2].partition("**sft**")[2].strip().split("\n")
        table = list(takewhile(lambda line: line.startswith("|"), after))[2:]
        assert [tuple(cell.replace("\\", "") for cell in line.split(" | ")) for line in table] == [
            ("| data.corpus.limit", "-", "120 |"),
            ("| data.demos.limit", "-", "160 |"),
            ("| data.preferences.limit", "-", "160 |"),
            ("| data.prompts.limit", "-", "200 |"),
            ("| model.init.hidden_size", "192", "32 |"),
            ("| model.init.intermediate_size", "512", "64 |"),
            ("| model.init.num_attention_heads", "6", "4 |"),
            ("| model.init.num_hidden_layers", "4", "2 |"),
            ("| model.init.num_key_value_heads", "6", "4 |"),
            ("| model.tokenizer_init.vocab_size", "1536", "512 |"),
            ("| trainer.gradient_accumulation_steps", "4", "1 |"),
            ("| trainer.gradient_checkpointing", "-", "false |"),
            ("| trainer.logging_steps", "10", "1 |"),
            ("| trainer.max_length", "1024", "96 |"),
            ("| trainer.max_steps", "-", "4 |"),
            ("| trainer.save_steps", "200", "2 |"),
        ]


def test_a_second_run_does_nothing(made, house, capsys):
    root, _ = made
    before = (root / "default" / "sft" / "model" / "model.safetensors").stat().st_mtime_ns
    assert house("sft", f"run.root={root}")[0] == {}
    assert "done already" in capsys.readouterr().err
    assert (root / "default" / "sft" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_collect_makes_pairs_that_reward_and_dpo_can_train_on(made, house, tmp_path):
    from rlhf_recipes import data

    root, _ = made
    (tmp_path / "logs.py").write_text(
        "def logs(completions, log_metric, log_extra, **_):\n"
        "    log_metric('letters', sum(map(len, completions)))\n"
        "    log_extra('first', [text[:1] for text in completions])\n"
        "    return [None] * len(completions)\n"
    )
    metrics, _cfg = house(
        "collect",
        f"run.root={tmp_path}",
        f"inputs.policy={root}/default/sft/model",
        f"reward.functions.logs={{path: '{tmp_path}/logs.py:logs', weight: 0}}",
    )
    samples = [json.loads(line) for line in (tmp_path / "default/collect/samples.jsonl").read_text().splitlines()]
    assert metrics["letters"] == sum(len(row["completion"]) for row in samples) and len(samples) == metrics["answers"]
    assert all(row["first"] == row["completion"][:1] and row["score"] == row["reward/gold"] for row in samples)
    file = tmp_path / "default" / "collect" / "preferences.jsonl"
    pairs = rows(file)
    assert len(pairs) == metrics["pairs"]
    assert all(pair["margin"] > 0 and pair["chosen"] != pair["rejected"] for pair in pairs)
    split = data.load({"name": "own", "eval_fraction": 0, "preferences": {"path": str(file)}}, "preferences")
    assert len(split.train) == len(pairs)


def test_sft_trains_the_completion_and_its_eos_only(made, house, capsys, tmp_path):
    from trl import SFTTrainer

    from rlhf_recipes.data import preview

    seen = {}
    original = preview.rows_of

    def keep(trainer, kind, n):
        assert isinstance(trainer, SFTTrainer)
        seen["rows"] = original(trainer, kind, n)
        seen["tokenizer"] = trainer.processing_class
        return seen["rows"]

    preview.rows_of = keep
    try:
        house("sft", f"run.root={tmp_path}", f"inputs.policy={made[0]}/default/pretrain/model", "preview=true")
    finally:
        preview.rows_of = original
    assert not list(tmp_path.iterdir())
    for row in seen["rows"]:
        decode = seen["tokenizer"].decode
        masked = decode([i for i, t in zip(row["input_ids"], row["trained"], strict=True) if not t])
        trained = decode([i for i, t in zip(row["input_ids"], row["trained"], strict=True) if t])
        assert masked.endswith("Assistant:")
        assert trained.endswith(seen["tokenizer"].eos_token)
        assert "Assistant:" not in trained


@pytest.mark.parametrize("stage", ["pretrain", "reward", "ppo", "dpo", "grpo", "collect", "evaluate"])
def test_a_preview_writes_nothing(made, house, capsys, tmp_path, stage):
    given = [f"inputs.policy={made[0]}/default/sft/model"] if stage != "pretrain" else []
    if stage == "ppo":
        given += [f"inputs.{name}={made[0]}/default/reward/model" for name in ("reward_model", "value_model")]
    if stage in ("collect", "evaluate"):
        given = [given[0].replace("policy", "sft" if stage == "evaluate" else "policy"), "reward=exact"]
    house(stage, f"run.root={tmp_path}", "preview=true", *given)
    assert not list(tmp_path.iterdir())
    assert "User:" in capsys.readouterr().out


def test_a_resumed_run_counts_its_own_episodes_for_its_speed(made, house, tmp_path):
    run = made[0] / "default"
    given = [f"inputs.policy={run}/sft/model", f"run.root={tmp_path}", "trainer.total_episodes=16"]
    given += [f"inputs.{name}={run}/reward/model" for name in ("reward_model", "value_model")]
    first = house("ppo", *given)[0]
    (tmp_path / "default" / "ppo" / "summary.json").unlink()  # killed after its last checkpoint, before its end
    again = house("ppo", *given)[0]
    assert first["episodes"] == again["episodes"] == 16
    assert first["episodes_per_second"] > again["episodes_per_second"] == 0
