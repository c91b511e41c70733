"""What a finished recipe must have left behind, whatever it was run on."""

import math
from pathlib import Path

from recipe_house import stages_of, summary

# What each stage has to start from: a stage of the run, or `base`, the model that the recipe names.
STARTS = {
    "instructgpt": {
        "sft": {"policy": "base"},
        "reward": {"policy": "sft"},
        "ppo": {"policy": "sft", "reward_model": "reward", "value_model": "reward"},
    },
    "alpaca_sft": {"sft": {"policy": "base"}},
    "hh_rlhf": {
        "sft": {"policy": "base"},
        "reward": {"policy": "sft"},
        "ppo": {"policy": "sft", "reward_model": "reward", "value_model": "reward"},
        "dpo": {"policy": "sft"},
    },
    "imdb_sentiment": {"ppo": {"policy": "base"}},
    "gpt2_imdb": {"ppo": {"policy": "base"}},
    "nl2sql": {
        "sft": {"policy": "base"},
        "collect": {"policy": "sft"},
        "reward": {"policy": "base"},
        "ppo": {"policy": "sft", "reward_model": "reward", "value_model": "reward"},
        "dpo": {"policy": "base"},
        "grpo": {"policy": "sft", "reward_model": "reward"},
    },
    "gsm8k": {"grpo": {"policy": "base"}},
    "reasoning_qwen3_4b": {"sft": {"policy": "base"}, "grpo": {"policy": "sft"}},
}


def check(recipe: str, root: Path, metrics: dict[str, dict]) -> None:
    """Every stage finished, started from what it should, trained something, and left figures that make sense."""
    assert list(metrics) == stages_of(recipe)
    for stage, starts in STARTS[recipe].items():
        inputs = {name: entry for name, entry in summary(root, stage)["inputs"].items() if ":" not in name}
        assert {name: entry.get("stage", "base") for name, entry in inputs.items()} == starts, stage
        if stage != "collect":
            assert moved(root / "default" / stage / "model", inputs["policy"]["path"]) > 0, stage
    for stage, figures in metrics.items():
        CHECKS[stage](figures)
    if "evaluate" in metrics:
        trained = {"sft", "ppo", "dpo", "grpo"} & set(metrics)
        assert set(metrics["evaluate"]["models"]) == {"base"} | trained


def finite(*values: float) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def played(figures: dict) -> None:
    assert figures["episodes"] == 16
    assert finite(figures["score_first"], figures["score_last"], figures["kl_last"])


def compared(figures: dict) -> None:
    assert figures["prompts"] == 4
    assert figures["win_rate"]
    for model in figures["models"].values():
        assert finite(model["score"]) and model["length"] > 0


def taught(figures: dict) -> None:
    assert finite(figures["train_loss"])
    assert figures["eval_ppl"] > 1


def ranked(figures: dict) -> None:
    assert 0 <= figures["eval_accuracy"] <= 1
    assert finite(figures["eval_margin"])


def collected(figures: dict) -> None:
    assert figures["pairs"] > 0
    assert figures["margin_mean"] > 0


def judged(figures: dict) -> None:
    assert finite(figures["eval_loss"], figures["eval_kl"], figures["eval_margin"])


CHECKS = {
    **{"sft": taught, "collect": collected, "reward": ranked, "dpo": ranked, "kto": judged},
    **{"ppo": played, "grpo": played, "rloo": played, "evaluate": compared},
}


def moved(model: Path, start: str) -> float:
    """The largest change of a weight; of an adapter its B, which starts at 0. The reward model's head is new."""
    from safetensors.torch import load_file

    if (adapter := model / "adapter_model.safetensors").is_file():
        return max(float(w.abs().max()) for name, w in load_file(adapter).items() if "lora_B" in name)
    after, before = load_file(model / "model.safetensors"), load_file(f"{start}/model.safetensors")
    shared = [name for name in after.keys() & before.keys() if after[name].shape == before[name].shape]
    assert shared
    return max(float((after[name] - before[name]).abs().max()) for name in shared)
