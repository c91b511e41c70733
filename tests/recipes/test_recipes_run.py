"""Every recipe end to end, every stage of it: tiny models of its own architectures, rows in its sets' own schemas."""

import pytest
from recipe_checks import check, played
from recipe_house import NAMES, PPO, composed, rows, summary

from rlhf_recipes import stages


@pytest.mark.parametrize("recipe", NAMES)
def test_every_stage_runs_and_starts_from_what_it_should(recipe, made):
    check(recipe, *made(recipe))


def test_sentiment_is_scored_for_the_first_ten_tokens_of_a_review(made):
    from transformers import AutoTokenizer

    for recipe in ("imdb_sentiment", "gpt2_imdb"):
        root, metrics = made(recipe)
        assert all("reward/sentiment" in model for model in metrics["evaluate"]["models"].values())
        tokenizer = AutoTokenizer.from_pretrained(root / "default" / "ppo" / "model")
        sampled = rows(root / "default" / "ppo" / "samples.jsonl")
        assert sampled and all(len(tokenizer(row["prompt"]).input_ids) == 10 for row in sampled)


def test_sql_is_judged_by_execution_and_gpt2_beside_opt(made):
    root, metrics = made("nl2sql")
    models = metrics["evaluate"]["models"]
    assert all({"reward/execution", "accuracy"} <= model.keys() for model in models.values())
    assert [name for name, model in models.items() if model.get("kl") is None] == ["dpo"]  # other token ids
    logged = [row for row in rows(root / "default" / "grpo" / "metrics.jsonl") if "rewards/execution/mean" in row]
    assert logged
    pairs = rows(root / "default" / "collect" / "preferences.jsonl")
    assert all(pair["chosen"].strip().startswith("SELECT") for pair in pairs)  # what is wrong may be anything
    for stage in ("sft", "ppo", "grpo"):
        assert (root / "default" / stage / "model" / "adapter_config.json").is_file(), stage


def test_gsm8k_logs_its_five_rewards_and_accuracy(made):
    root, metrics = made("gsm8k")
    five = ("correctness", "integer", "strict_format", "soft_format", "xml_count")
    logged = rows(root / "default" / "grpo" / "metrics.jsonl")
    assert any(all(f"rewards/{name}/mean" in row for name in five) for row in logged)
    for model in metrics["evaluate"]["models"].values():
        assert model["accuracy"] == 0  # random weights solve nothing
        assert all(f"reward/{name}" in model for name in five)
    assert metrics["evaluate"]["models"]["grpo"].get("ppl") is None  # worked answers of another form tell nothing


def test_reasoning_trains_lora_on_every_projection(made):
    from peft import PeftConfig

    root, _ = made("reasoning_qwen3_4b")
    folder = root / "default" / "grpo" / "model"
    adapter = PeftConfig.from_pretrained(folder)
    assert (adapter.r, adapter.lora_alpha) == (32, 64)
    projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {name.rpartition(".")[2] for name in adapter.target_modules} == projections
    warmed = root / "default" / "sft" / "model"
    assert (warmed / "config.json").is_file() and not (warmed / "adapter_config.json").exists()  # vLLM can load it


def test_ptx_stands_on_the_plain_runs_stages_and_learns_the_corpus(made, tmp_path):
    root, _ = made("instructgpt")
    corpus = tmp_path / "books.txt"
    corpus.write_text("\n\n".join(f"It rained for {i} days in Lisbon." for i in range(40)))
    given = made.overrides(composed("instructgpt", "ppo"))
    given += [f"data.corpus.path={tmp_path}/books.tx?", f"run.root={root}", "run.parent=default", *PPO]
    small = [
        "trainer.per_device_train_batch_size=4",
        "trainer.gradient_accumulation_steps=2",
        "trainer.learning_rate=1e-3",
    ]
    found = {}
    for run, coefficient in (("ptx", None), ("plain", 0.0)):
        more = [f"run.name={run}", *small, *([] if coefficient is None else [f"trainer.ptx_coef={coefficient}"])]
        cfg = composed("instructgpt/ptx", "ppo", *given, *more)
        assert cfg.trainer.ptx_coef == (27.8 if coefficient is None else coefficient)
        played(stages.run(cfg))
        starts = summary(root, "ppo", run)["inputs"]
        assert starts["policy"]["path"] == str(root / "default" / "sft" / "model")
        found[run] = loss_on(root / run / "ppo" / "model", "It rained for 9 days in Lisbon.")
    assert found["ptx"] < found["plain"] - 0.01
    evaluated = composed(
        "instructgpt/ptx",
        "evaluate",
        *given[: -len(PPO)],
        "run.name=ptx",
        "evaluate.prompts=4",
        "evaluate.max_new_tokens=8",
    )
    assert set(stages.run(evaluated)["models"]) == {"base", "sft", "ppo"}


def loss_on(folder, text: str) -> float:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    return float(AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss)
