"""A finished run with tiny random models by the artifacts contract: what chat and export read, without any training."""

import json
import sys
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf_recipes.models.tokenizer import train_bpe

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
import made_run

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
QUESTION = "What is 3 plus 4?"
PROMPT = f"User: {QUESTION}\nAssistant:"
TOKENS = 12  # of an answer
DATA = {"name": "embedded", "template": "plain", "demos": {"path": "embedded"}, "prompts": {"path": "embedded"}}


def make(path: Path) -> Path:
    """runs/<name> with sft and reward in full, ppo as LoRA on sft, dpo as LoRA on ppo's adapter; ppo finished last."""
    made_run.make(path, steps=40, prompts=8)
    asked = [f"What is {a} {b}?" for a in ("red", "a small cat", "seven") for b in ("plus four", "in the end", "for")]
    tokenizer = train_bpe([f"User: {words}\nAssistant: It is {words[8:-1]}." for words in asked], 340)
    sft = policy(tokenizer, seed=0)
    save(path, "sft", sft, tokenizer, {"learning_rate": 1e-3})
    adapter(path, "ppo", path / "sft" / "model", sft, tokenizer, seed=1)
    describe(path, "ppo", {"response_length": 16, "stop_token": "eos"})
    summary = json.loads((path / "ppo" / "summary.json").read_text())
    summary["inputs"]["reward_model"] = {"path": str(path / "reward" / "model"), "hash": "0f", "stage": "reward"}
    (path / "ppo" / "summary.json").write_text(json.dumps(summary))
    adapter(path, "dpo", path / "ppo" / "model", sft, tokenizer, seed=2)
    describe(path, "dpo", {"stop_token_id": tokenizer.convert_tokens_to_ids("<|unk|>")})
    torch.manual_seed(3)
    score = LlamaForSequenceClassification(config(tokenizer, num_labels=1))
    save(path, "reward", score, tokenizer, {"learning_rate": 1e-3})
    return path


def reward_adapter(path: Path, base: Path) -> None:
    """`path`/reward: a reward model as an adapter with its own head, on a language model."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(4)
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    adapter(path, "reward", base, model, tokenizer, seed=5, task="SEQ_CLS")
    describe(path, "reward", {})


def config(tokenizer, **more) -> LlamaConfig:
    of = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "initializer_range": 0.4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": None, "bos_token_id": None}
    return LlamaConfig(**SHAPE, **of, **ids, **more)


def policy(tokenizer, seed: int) -> LlamaForCausalLM:
    """Random weights, large enough that its greedy answers are not one token over and over, and printable."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(tokenizer)).eval()
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if not text.isascii() or not text.isprintable() or token in tokenizer.all_special_ids:
            model.lm_head.weight.data[token] = 0.0
    return model


def adapter(path: Path, stage: str, base: Path, model, tokenizer, seed: int, task: str = "CAUSAL_LM") -> None:
    """A LoRA folder on `base`, whose second matrix is not the zero it starts with. Leaves `model` as it was."""
    torch.manual_seed(seed)
    model.name_or_path = model.config._name_or_path = str(base)
    saved = ["score"] if task == "SEQ_CLS" else None
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=task, modules_to_save=saved)
    wrapped = get_peft_model(model, lora)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = path / stage / "model"
    folder.mkdir(parents=True, exist_ok=True)
    wrapped.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wrapped.unload()


def save(path: Path, stage: str, model, tokenizer, trainer: dict) -> None:
    folder = path / stage / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    describe(path, stage, trainer)


def describe(path: Path, stage: str, trainer: dict, data: dict | None = None) -> None:
    """config.yaml as artifacts.StageRun writes it, as far as anybody reads it."""
    content = {"stage": stage, "seed": 0, "run": {"name": path.name, "root": str(path.parent)}}
    content |= {"model": {"name": "tiny", "path": None}, "data": data or DATA, "trainer": trainer}
    (path / stage).mkdir(parents=True, exist_ok=True)
    (path / stage / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    summary = path / stage / "summary.json"
    if not summary.is_file():
        summary.write_text(json.dumps({"stage": stage, "status": "done", "metrics": {}}), encoding="utf-8")
