"""stage=ppo on the tiny world's files: through `accelerate launch`, and with models that are not the policy's kin."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tiny_world import WORDS, save_world, stage_words

from rlhf_recipes import stages
from rlhf_recipes.__main__ import rewrite
from rlhf_recipes.config.paths import CONF

HOUSE = CONF.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory, _models, tokenizer):
    folder = tmp_path_factory.mktemp("world")
    save_world(folder, _models, tokenizer)
    return folder


def stage(world, root, *words):
    """Run it in this process; where it left its files."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        stages.run(compose("config", rewrite([*stage_words(world, root), *words])))
    return root / "default" / "ppo"


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_under_accelerate_launch_two_processes_leave_what_one_leaves(world, tmp_path):
    words = ["peft=lora", "trainer.total_episodes=16", "trainer.max_grad_norm=0.5", "trainer.num_mini_batches=2"]
    words += ["trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.per_device_train_batch_size=2"]
    words += ["trainer.value_learning_rate=0.01"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{CONF}/accelerate/cpu2.yaml"]
    launch += ["--main_process_port", "0", "-m", "rlhf_recipes", *stage_words(world, tmp_path / "two"), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOUSE), env.get("PYTHONPATH")]))
    done = subprocess.run(
        [*launch, "trainer.gradient_accumulation_steps=2"], env=env, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two = tmp_path / "two" / "default" / "ppo"
    one = stage(world, tmp_path / "one", *words, "trainer.gradient_accumulation_steps=4")
    assert (two / "checkpoints/checkpoint-4/rng_state_1.pth").is_file(), "there were two of them"
    for file in ("model/adapter_model.safetensors", "checkpoints/checkpoint-8/critic.safetensors"):
        want, got = load_file(one / file), load_file(two / file)
        assert want.keys() == got.keys()
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert max(value.abs().max() for value in got.values()) > 1e-3, "the critic's head began at 0"
    left, expected = ([r for r in rows(place / "metrics.jsonl") if "episode" in r] for place in (two, one))
    assert [r["episode"] for r in left] == [8, 16]
    for a, b in zip(left, expected, strict=True):
        names = [n for n in b if n.startswith(("objective/", "policy/", "loss/", "val/", "reward/", "completions/"))]
        assert {n: a[n] for n in names} == pytest.approx({n: b[n] for n in names}, abs=1e-4, rel=0)
    for name in ("summary.json", "config.yaml", "model/tokenizer.json", "model/adapter_config.json"):
        assert (two / name).is_file(), name


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A reward model with a vocabulary of its own, and a classifier with two labels: their folders."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        LlamaConfig,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("judges")
    names = ["</s>", "<pad>", "<unk>", *reversed(WORDS), *(f"other{i}" for i in range(9))]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    torch.manual_seed(1)
    shape = {"vocab_size": len(names), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3, "pad_token_id": 1}
    stranger = LlamaForSequenceClassification(LlamaConfig(**shape, **heads, num_labels=1))
    shape = {"vocab_size": len(names), "dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "pad_token_id": 1}
    config = DistilBertConfig(**shape, initializer_range=0.3)
    config.id2label, config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    for name, model in (("stranger", stranger), ("mood", DistilBertForSequenceClassification(config))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder, {"stranger": stranger.eval(), "mood": model.eval()}, tokenizer


def test_strangers_judge_sft_becomes_critic_and_epochs_stop(world, judges, tmp_path, capsys):
    """One run: two reward models that read other tokens, a critic from the policy's folder, target_kl, tokens."""
    folder, models, tokenizer = judges
    words = [f"reward.models.{name}.path={folder}/{name}" for name in ("stranger", "mood")]
    words += ["reward.models.stranger.weight=1.0", "reward.models.mood.weight=0.5", "reward.models.mood.label=NEGATIVE"]
    words += ["reward.functions.length_target.weight=0.0", f"inputs.value_model={world}/policy"]
    words += ["trainer.value_learning_rate=0", "trainer.learning_rate=0.01", "trainer.total_episodes=16"]
    words += ["trainer.num_ppo_epochs=4", "trainer.target_kl=1e-6", "trainer.save_strategy=steps"]
    words += ["ppo.token_view=true", "ppo.sample_rows=2", "trainer.num_sample_generations=2", "data.eval_fraction=0.3"]
    left = stage(world, tmp_path, *words)

    samples = [row for row in rows(left / "samples.jsonl") if "reward/mood" in row]
    assert len(samples) > 2
    for row in samples:
        # the classifier reads one text; a reward model reads prompt and answer tokenised apart, as it was trained
        prompt, answer = (tokenizer(row[side])["input_ids"] for side in ("prompt", "completion"))
        text = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        with torch.no_grad():
            mood = models["mood"](input_ids=torch.tensor([[*text, 0]])).logits[0, 1].item()  # 0: its EOS
            stranger = models["stranger"](input_ids=torch.tensor([[*prompt, *answer, 0]])).logits.item()
        assert row["reward/mood"] == pytest.approx(mood, abs=1e-5)
        assert row["reward/stranger"] == pytest.approx(stranger, abs=1e-5)
        assert row["score"] == pytest.approx(stranger + 0.5 * mood, abs=1e-5)

    critic = load_file(left / "checkpoints/checkpoint-8/critic.safetensors")
    policy = load_file(world / "policy/model.safetensors")
    body = {name: value for name, value in policy.items() if name.startswith("model.")}
    assert body and all(torch.equal(critic[f"value_model.{name}"], value) for name, value in body.items())
    assert critic["value_model.score.weight"].abs().sum() > 0

    updates = [row for row in rows(left / "metrics.jsonl") if "ppo/optimizer_steps" in row]
    assert [row["ppo/optimizer_steps"] for row in updates] == [2, 2], "the first epoch moves nothing, the second does"

    names = {"token", "logprob", "kl", "value", "reward", "advantage"}
    views = rows(left / "tokens.jsonl")
    assert [view["step"] for view in views] == [4, 8]
    for view in views:
        assert 1 < len(view["tokens"]) <= 7
        assert all(names <= token.keys() for token in view["tokens"])
    shown = capsys.readouterr().out
    assert "one answer" in shown and "advantage" in shown
