"""Small files, a small tokenizer, and the presets as a user's shell would compose them."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf_recipes.config.paths import CONF


@pytest.fixture
def write(tmp_path):
    """write(rows, name) -> path of a file with those rows, JSONL unless the name says otherwise."""

    def write(rows, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, str):
            path.write_text(rows, encoding="utf-8")
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def local():
    """local(demos={...}, ...) -> a `data` node with nothing held out unless asked."""

    def local(**node) -> dict:
        return {"name": "local", "template": "plain", "eval_fraction": 0} | node

    return local


@pytest.fixture
def preset():
    """preset("gsm8k", "data.demos.path=x") -> conf/data/gsm8k.yaml under overrides, as `++` composes them."""

    def preset(name: str, *overrides: str):
        node = OmegaConf.create({"data": OmegaConf.load(CONF / "data" / f"{name}.yaml")})
        for override in overrides:
            key, _, value = override.partition("=")
            OmegaConf.update(node, key, OmegaConf.create(f"v: {value}").v, force_add=True)
        return node.data

    return preset


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with pad, bos and eos of its own; no chat template."""
    from rlhf_recipes.models.tokenizer import train_bpe

    words = "What is the capital of France ? It is Paris . Add two and two , please . The answer is four ."
    return train_bpe([words] * 4, vocab_size=400)


@pytest.fixture
def chatty(tokenizer):
    """The same tokenizer with a ChatML-like template."""
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return chatty


@pytest.fixture
def real():
    """real("gsm8k/train.jsonl") -> that file of the real data; skips where there is none."""
    root = os.environ.get("RLHF_RECIPES_REAL_DATA")
    if not root:
        pytest.skip("RLHF_RECIPES_REAL_DATA is unset: no real data here")
    return lambda name: str(Path(root) / "data" / name)
