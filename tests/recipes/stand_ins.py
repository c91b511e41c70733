"""Tiny models of the recipes' own architectures, their tokenizers, and rows in their sets' own schemas."""

import copy
import json
import os
from pathlib import Path

REAL = os.environ.get("RLHF_RECIPES_REAL_DATA")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SCHEMA = "CREATE TABLE head (age INTEGER, name VARCHAR)"
QUERIES = (
    "SELECT name FROM head",
    "SELECT COUNT(*) FROM head",
    "SELECT MAX(age) FROM head",
    "SELECT name FROM head WHERE age > 56",
)
# What a stand-in is taught, whatever is asked, so that a reward can tell its answers apart.
SQL = [
    f"context: {SCHEMA} question: Question {i} about heads? answer: {query}" for i in range(40) for query in QUERIES[:2]
]
FORM = (
    "Work the problem out between <start_working_out> and <end_working_out>. Then write the answer alone between "
    "<SOLUTION> and </SOLUTION>.<|endoftext|>Find k such that k = {i} + 1.<start_working_out>It is 9."
)
LESSONS = {
    "opt1.3b": SQL,
    "qwen3-4b-reasoning": [
        FORM.format(i=i) + tags for i in range(40) for tags in ("", "<end_working_out><SOLUTION>9</SOLUTION>")
    ],
}


def rows_of(data: str, kind: str) -> list[dict]:
    """Forty rows as the hub set of a conf/data preset has them."""
    return [ROWS[data, kind](i) for i in range(40)]


def hh(i: int) -> dict:
    asked = f"\n\nHuman: How do I cook {i} eggs?\n\nAssistant: In water or in a pan?\n\nHuman: In a pan.\n\nAssistant:"
    return {"chosen": f"{asked} Heat some butter first.", "rejected": f"{asked} No idea {i}, go away."}


def openmath(i: int) -> dict:
    solution = f"<think>\nTwice {i} is {2 * i}.\n</think>\nSo it is \\boxed{{{2 * i}}}."
    return {
        "expected_answer": ("\\frac{1}{2}", str(2 * i))[i != 0],  # one that is no number, and one that is too long
        "problem_type": "has_answer_extracted",
        "problem_source": "aops_c4_high_school_math",
        "generation_model": "DeepSeek-R1",
        "pass_rate_72b_tir": "0.9",
        "problem": f"What is twice {i}?",
        "generated_solution": solution if i != 1 else "Hm. " * 3000,
        "inference_mode": "cot",
    }


ROWS = {
    ("alpaca", "demos"): lambda i: {
        "instruction": f"Give {i} tips for staying healthy.",
        "input": "" if i % 2 else "I am busy.",
        "output": f"Eat {i} apples and sleep well.",
        "text": "Below is an instruction …",
    },
    ("hh_rlhf", "preferences"): hh,
    ("imdb", "demos"): lambda i: {
        "text": f"I saw this film {i} times and would see it again, for the actors are good and the story is better.",
        "label": i % 2,
    },
    ("sql_create_context", "demos"): lambda i: {
        "answer": QUERIES[i % 4],
        "question": f"Question {i} about heads?",
        "context": SCHEMA,
    },
    ("gsm8k", "demos"): lambda i: {
        "question": f"Ann has {i} hats and buys 2. How many has she?",
        "answer": f"She has {i} + 2 = <<{i}+2={i + 2}>>{i + 2} hats.\n#### {i + 2}",
    },
    ("dapo_math_17k", "prompts"): lambda i: {
        "prompt": f"Find k such that k = {i} + 1.",
        "solution": str(i + 1),
        "data_source": "math_dapo",
        "source_prompt": [{"role": "user", "content": "Solve …"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": str(i + 1), "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": str(i)},
    },
    ("dapo_math_17k", "demos"): openmath,
}


def real_files(recipe: str) -> list[str]:
    """The overrides that put real files in the hub's place."""
    data = Path(REAL) / "data"
    reviews = {"data.demos.path": data / "sentiment" / "movie_reviews.jsonl", "data.demos.limit": 40}
    given = {
        "alpaca_sft": {
            "data.demos.path": data / "self_instruct" / "user_oriented_instructions.jsonl",
            "data.demos.format": "self_instruct",
        },
        "hh_rlhf": {"data.preferences.path": data / "hh_rlhf_harmless" / "test.jsonl", "data.preferences.limit": 120},
        "instructgpt": {
            "data.preferences.path": data / "pandalm" / "pairs.jsonl",
            "data.preferences.format": "alpaca_pair",
            "data.template": "alpaca",
        },
        "gsm8k": {
            "data.demos.path": data / "gsm8k" / "train.jsonl",
            "data.demos.eval_path": data / "gsm8k" / "test.jsonl",
            "data.demos.limit": 40,
        },
        "imdb_sentiment": reviews,
        "gpt2_imdb": reviews,
        "nl2sql": {"data.demos.path": data / "text2sql" / "geography.jsonl"},
    }[recipe]
    return [f"{key}={value}" for key, value in given.items()]


def write(rows: list[dict], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def small_bpe(texts: list[str], **special: str):
    """Byte-level BPE of at most 2,000 entries; `special` replaces pad, bos, eos and unk."""
    from rlhf_recipes.models.tokenizer import train_bpe

    tokenizer = train_bpe(texts, vocab_size=2000)
    tokenizer.add_special_tokens(special)
    return tokenizer


def tokenizer_of(family: str, texts: list[str], real: bool = False):
    """The family's tokenizer: a small one with its special tokens, or the real one where it lies at hand."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = Path(REAL or "") / "tokenizers" / family
    if real and folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    elif family == "opt":  # no EOS at the end but one at the beginning, and a pad token
        tokenizer = small_bpe(texts, bos_token="</s>", eos_token="</s>", pad_token="<pad>")
        start = tokenizer.convert_tokens_to_ids("</s>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", start)]
        )
    else:
        tokenizer = small_bpe(texts, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
        tokenizer.pad_token = None
        if family.startswith("qwen"):
            tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
            tokenizer.chat_template = CHATML
    if family in ("qwen2-base", "qwen3-base"):
        tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def config_of(name: str, vocabulary: int):
    """The architecture behind a conf/model preset: its own class and oddities, hidden size 32, two layers."""
    import transformers as t

    heads = {"num_attention_heads": 4, "num_hidden_layers": 2}
    qwen = heads | {"num_key_value_heads": 2, "hidden_size": 32, "intermediate_size": 64, "tie_word_embeddings": True}
    opt = heads | {"hidden_size": 32, "ffn_dim": 64}
    made = {
        "qwen0.5b": lambda: t.Qwen2Config(**qwen),
        "qwen0.5b-instruct": lambda: t.Qwen2Config(**qwen),
        "qwen3-4b-reasoning": lambda: t.Qwen3Config(**qwen, head_dim=8),
        "opt1.3b": lambda: t.OPTConfig(**opt, word_embed_proj_dim=32),
        # OPT 350M alone embeds in fewer dimensions than it thinks in, and norms after each block
        "opt350m": lambda: t.OPTConfig(**opt, word_embed_proj_dim=16, do_layer_norm_before=False),
        "gpt2": lambda: t.GPT2Config(n_embd=32, n_head=4, n_layer=2),
        "gpt2-imdb": lambda: t.GPT2Config(n_embd=32, n_head=4, n_layer=2),
        "pythia1b": lambda: t.GPTNeoXConfig(**heads, hidden_size=32, intermediate_size=64),
    }[name]()
    made.vocab_size = vocabulary
    made.bos_token_id = made.eos_token_id = made.pad_token_id = None
    return made


FAMILY = {
    "qwen0.5b": "qwen2-base",
    "qwen0.5b-instruct": "qwen2",
    "qwen3-4b-reasoning": "qwen3-base",
    "opt1.3b": "opt",
    "opt350m": "opt",
    "gpt2": "gpt2",
    "gpt2-imdb": "gpt2",
    "pythia1b": "neox",
}


def make_model(name: str, folder: Path, texts: list[str], lessons: list[str]) -> Path:
    """A random model with its tokenizer in a folder, as a conf/model preset's hub id would give it.

    Args:
        name: of the preset.
        texts: what a small tokenizer is trained on.
        lessons: texts that it is taught before, so that what it writes can be told apart; none: it stays random.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of(FAMILY[name], texts)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name, len(tokenizer) + 8))  # published ones have spare rows too
    if lessons:
        teach(model, tokenizer, lessons)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(model, tokenizer, lessons: list[str], steps: int = 150) -> None:
    """Next-token loss on a few texts until they are what the model says."""
    import torch

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        texts = [lessons[(8 * step + i) % len(lessons)] + tokenizer.eos_token for i in range(8)]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def make_classifier(folder: Path, texts: list[str]) -> Path:
    """A random DistilBERT with WordPiece and the labels of lvwerra/distilbert-imdb."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast, DistilBertConfig, DistilBertForSequenceClassification

    raw = BertWordPieceTokenizer()
    raw.train_from_iterator(texts, vocab_size=300, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=raw._tokenizer, model_max_length=512)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=32,
        hidden_dim=64,
        n_heads=4,
        n_layers=2,
        initializer_range=0.5,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
