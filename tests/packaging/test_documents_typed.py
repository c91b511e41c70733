"""What README and the tutorial tell people to type, typed in order in an empty clone.

Every command is read from the documents and run by bash to its end. The clone's recipes and defaults are shortened to a
few steps, and the hub is one on loopback with a tiny Qwen and a few rows of each dataset's own layout.
"""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hub_on_loopback import serve_all
from warm_python import warm

ROOT = Path(__file__).parents[2]
OUTER = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MODEL", "DATA", "RECIPE", "ARGS")  # what `make test` itself exports
PAGES = ("README.md", "docs/tutorial/first-run.md")
NOT_TYPED = ("git clone", "make test")  # the clone is there; the tests would start themselves

GSM8K = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
---
"""
FEW = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "save_steps": 1}
SHORT = {
    "ppo": {"trainer": FEW | {"num_mini_batches": 1, "num_ppo_epochs": 1, "total_episodes": 8, "response_length": 8}
            | {"num_sample_generations": 1, "per_device_eval_batch_size": 4}},
    "grpo": {"trainer": FEW | {"num_generations": 2, "max_completion_length": 8, "eval_steps": 2},
             "grpo": {"eval_prompts": 2}},
    "evaluate": {"evaluate": {"prompts": 8, "max_new_tokens": 8, "batch_size": 8, "ppl_rows": 8, "corpus_rows": 8}},
    "chat": {"chat": {"max_new_tokens": 8}},
}  # fmt: skip
del SHORT["ppo"]["trainer"]["max_steps"]
TRAINED = ("pretrain", "sft", "reward", "dpo")


def commands(page: str) -> list[str]:
    """The commands in a page's fenced blocks, continued lines joined."""
    blocks = (ROOT / page).read_text().split("```")[1::2]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("make ", "python -m ")) and not line.startswith(NOT_TYPED)]


def shorten(clone: Path) -> None:
    """Two steps and 200 rows instead of hundreds and thousands, in the YAML files; no command changes."""
    for file in [*clone.glob("conf/stage/*.yaml"), *clone.glob("recipes/*/*.yaml"), clone / "conf/data/embedded.yaml"]:
        text = file.read_text()
        node = yaml.safe_load(text)
        for name, values in (SHORT.get(file.stem) or ({"trainer": FEW} if file.stem in TRAINED else {})).items():
            node[name] = node.get(name, {}) | values
        for kind in ("corpus", "demos", "preferences", "prompts"):
            for place in (node, node.get("data", {})):
                if isinstance(place.get(kind), dict):
                    place[kind] |= {"limit": 200}
        file.write_text(text.splitlines()[0] + "\n" + yaml.safe_dump(node, sort_keys=False))


def tiny_qwen(folder: Path, eos: str = "<|endoftext|>", pad: str = "<|endoftext|>") -> dict[str, bytes]:
    """Files of a model as Qwen/Qwen2.5-0.5B has them: its names of special tokens, ChatML, a padded embedding."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, pad_token=pad)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=320, num_key_value_heads=2, tie_word_embeddings=True, **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def dialogues(part: str, n: int) -> bytes:
    start = "\n\nHuman: {} {}?\n\nAssistant:"
    both = [(start.format(part, i) + " Yes, of course.", start.format(part, i) + " No.") for i in range(n)]
    return gzip.compress(lines([{"chosen": chosen, "rejected": rejected} for chosen, rejected in both]))


def sums(n: int) -> bytes:
    return lines([{"question": f"{i} plus 1?", "answer": f"Add one.\n#### {i + 1}"} for i in range(n)])


def _type(command: str, clone: Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and screen: what make echoes and what a stage prints, in the order in which they came."""
    both = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    end = subprocess.run(["bash", "-c", command], cwd=clone, env=env, text=True, **both)
    return end.returncode, end.stdout


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """The clone after every command was typed: each command with its exit code and what it printed."""
    root = tmp_path_factory.mktemp("typed")
    clone = root / "rlhf_recipes"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    shorten(clone)

    base, instruct = tiny_qwen(root / "base"), tiny_qwen(root / "instruct", eos="<|im_end|>")
    tiny_qwen(clone / "my-model", eos="<|im_end|>")
    mine = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}", "answer": f"#### {i + 1}"} for i in range(40)]
    (clone / "my.jsonl").write_bytes(lines(mine))
    (clone / "my_reward.py").write_text("def score(prompts, **columns):\n    return [0.5] * len(prompts)\n")
    hub = {
        ("models", "Qwen/Qwen2.5-0.5B"): base,
        ("models", "Qwen/Qwen2.5-0.5B-Instruct"): instruct,
        ("datasets", "Anthropic/hh-rlhf"): {
            "train.jsonl.gz": dialogues("May", 80),
            "test.jsonl.gz": dialogues("Is", 8),
        },
        ("datasets", "openai/gsm8k"): {"README.md": GSM8K, "main/train.jsonl": sums(40), "main/test.jsonl": sums(8)},
    }
    bin_ = clone / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (clone / ".venv" / ".ready").touch()
    clean = {name: value for name, value in os.environ.items() if name not in OUTER}
    with serve_all(hub) as url:
        env = clean | {"HF_ENDPOINT": url, "HF_HOME": str(root / "hf"), "PATH": f"{bin_}:{os.environ['PATH']}"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        with warm(bin_ / "python", env):
            done = [(command, *_type(command, clone, env)) for page in PAGES for command in commands(page)]
    return clone, done


def test_every_command_ends_well(typed):
    clone, done = typed
    assert len(done) >= 17
    failed = [f"{command}\nexit code {code}: {text[-1500:]}" for command, code, text in done if code]
    assert not failed, "\n".join(failed)
    assert not [text for _, _, text in done if "Traceback" in text]
    for run, stages in {
        "default": "pretrain sft reward ppo evaluate export",
        "hh": "sft reward ppo evaluate",
        "table": "sft reward ppo evaluate",
        "local": "ppo evaluate",
        "hh4": "ppo",
        "maths": "grpo",
        "own": "ppo",
        "gentle": "pretrain sft reward ppo evaluate",
        "seed1": "ppo",
    }.items():
        assert {folder.name for folder in (clone / "runs" / run).iterdir() if folder.is_dir()} >= {*stages.split()}, run
