"""Real sets, where they are present: nothing is lost unaccounted, and what is read is what was written."""

import json

import pytest

from rlhf_recipes import data

pytestmark = pytest.mark.real


def raw(path: str) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def accounted(split) -> bool:
    counts = split.counts
    return counts["rows"] == counts["train"] + counts["eval"] + sum(counts["dropped"].values())


@pytest.mark.parametrize("kind", ["corpus", "demos", "preferences", "prompts"])
def test_2312_dialogues_none_lost_silently(kind, real, preset):
    """Four chosen dialogues end with an empty answer. All others load, the five that differ before their end too."""
    path = real("hh_rlhf_harmless/test.jsonl")
    split = data.load(preset("hh_rlhf", f"data.preferences.path={path}"), kind)
    assert split.counts["read"] == split.counts["rows"] == len(raw(path)) == 2312
    assert accounted(split)
    assert split.counts["dropped"] == ({} if kind == "prompts" else {"empty answer": 4})


def test_hh_dialogues_are_rebuilt_letter_for_letter(real, preset):
    """Prompt + answer is the source's dialogue, but for white space around turns and turns that were joined."""
    path = real("hh_rlhf_harmless/test.jsonl")
    split = data.load(preset("hh_rlhf", f"data.preferences.path={path}", "data.eval_fraction=0"), "preferences")
    said = {row["chosen"] for row in raw(path)}
    rebuilt = [row["prompt"] + row["chosen"] for row in split.train]
    assert sum(text in said for text in rebuilt) == 2300
    loose = {"".join(text.replace("Assistant:", "").split()) for text in said}
    assert all("".join(text.replace("Assistant:", "").split()) in loose for text in rebuilt)


def test_stages_agree_on_what_is_held_out(real, preset):
    path = real("hh_rlhf_harmless/test.jsonl")
    node = preset("hh_rlhf", f"data.preferences.path={path}")
    sides = {}
    for kind in ("demos", "preferences", "prompts"):
        split = data.load(node, kind)
        assert not set(split.train["prompt"]) & set(split.eval["prompt"])
        for side in ("train", "eval"):
            for prompt in getattr(split, side)["prompt"]:
                assert sides.setdefault(prompt, side) == side


def test_gsm8k_keeps_all_answers_and_their_numbers(real, preset):
    train, test = real("gsm8k/train.jsonl"), real("gsm8k/test.jsonl")
    node = preset("gsm8k", f"data.demos.path={train}", f"data.demos.eval_path={test}", "data.template=plain")
    split = data.load(node, "prompts")
    assert (len(split.train), len(split.eval)) == (7473, 1319)
    for row, source in zip(split.eval, raw(test), strict=True):
        assert row["answer"] == source["answer"]
        assert row["final_answer"] == source["answer"].rpartition("#### ")[2].replace(",", "")


def test_pandalm_pairs_under_alpaca(real, local):
    path = real("pandalm/pairs.jsonl")
    split = data.load(local(template="alpaca", preferences={"path": path}), "preferences")
    assert split.counts["read"] == len(split.train) == 836
    first, source = split.train[0], raw(path)[0]
    assert f"### Instruction:\n{source['instruction']}\n\n### Input:\n{source['input']}" in first["prompt"]
    assert (first["chosen"], first["agree"]) == (source["chosen"], source["agree"])


def test_self_instruct(real, local):
    split = data.load(local(demos={"path": real("self_instruct/user_oriented_instructions.jsonl")}), "demos")
    assert split.counts["read"] == 252 and accounted(split)


def test_wikisql_questions(real, local):
    folder = real("text2sql")
    split = data.load(local(demos={"path": f"{folder}/wikisql_*.jsonl"}), "demos")
    assert split.counts["read"] == len(split.train) == 8000
    source = raw(f"{folder}/wikisql_dev.jsonl")[0]
    assert split.train[0] == {
        "prompt": f"context: {source['context']} question: {source['question']} answer:",
        "completion": f" {source['sql']}",
    }


def test_tinystories_with_the_model_that_reads_them(real, preset):
    from transformers import AutoTokenizer

    path = real("tinystories/stories.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(f"{real('')}/../models/stories260K")
    node = preset("tinystories", f"data.corpus.path={path}", f"data.demos.path={path}")
    demos = data.load(node, "demos", tokenizer=tokenizer, max_length=512)
    assert demos.counts["read"] == 2316 and accounted(demos)
    texts = {row["text"] for row in raw(path)}
    assert all(row["prompt"] + row["completion"] in texts for row in demos.eval)
    corpus = set(data.load(node, "corpus").train["text"])
    assert not any(row["prompt"] + row["completion"] in corpus for row in demos.eval)
    assert not set(demos.train["prompt"]) & set(demos.eval["prompt"])


def test_qwens_own_template_and_lengths(real, preset):
    """What `load` drops is what TRL would: turns through Qwen2's template, counted by its tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{real('')}/../tokenizers/qwen2")
    path = real("hh_rlhf_harmless/test.jsonl")
    node = preset("hh_rlhf", f"data.preferences.path={path}", "data.template=chat", "data.preferences.limit=300")
    split = data.load(node, "preferences", tokenizer=tokenizer, max_length=256)
    assert accounted(split) and split.counts["dropped"]["longer than 256 tokens"] > 0
    for row in split.train:
        for answer in (row["chosen"], row["rejected"]):
            assert len(tokenizer.apply_chat_template(row["prompt"] + answer, return_dict=True)["input_ids"]) <= 256
