"""Train and held-out: by the prompt's hash alone, the same for every kind, stage, template and seed."""

import pytest

from rlhf_recipes import data
from rlhf_recipes.data import splitting
from rlhf_recipes.errors import UserError

QUESTIONS = [f"What is {i} + {i}?" for i in range(200)]


def sides(split) -> dict[str, str]:
    return {row["prompt"].strip(): side for side in ("train", "eval") for row in getattr(split, side)}


@pytest.fixture
def everything(write):
    """One set of questions as demos, preferences and prompts."""
    demos = [{"instruction": q, "output": "x"} for q in QUESTIONS]
    pairs = [{"question": q.upper(), "chosen": "x", "rejected": "y"} for q in QUESTIONS]
    prompts = [{"prompt": [{"role": "user", "content": f" {q}\n"}], "answer": 1} for q in QUESTIONS]
    files = {"demos": demos, "preferences": pairs, "prompts": prompts}
    return {kind: {"path": write(rows, f"{kind}.jsonl")} for kind, rows in files.items()}


def test_every_kind_agrees_and_no_prompt_is_on_both_sides(everything, local):
    node = local(eval_fraction=0.2, **everything)
    found = {kind: sides(data.load(node, kind)) for kind in ("demos", "preferences", "prompts")}
    found["preferences"] = {prompt.casefold(): side for prompt, side in found["preferences"].items()}
    found["demos"] = {prompt.casefold(): side for prompt, side in found["demos"].items()}
    found["prompts"] = {prompt.casefold(): side for prompt, side in found["prompts"].items()}
    assert found["demos"] == found["preferences"] == found["prompts"]
    assert len(found["demos"]) == len(QUESTIONS)
    assert 20 <= list(found["demos"].values()).count("eval") <= 60  # 40 expected, 5.7 the standard deviation


def test_neither_seed_nor_template_nor_neighbours_move_a_row(everything, local, write):
    node = local(eval_fraction=0.2, **everything)
    before = sides(data.load(node, "demos"))
    assert sides(data.load(node, "demos", seed=7)) == before
    wrapped = data.load(node | {"template": "alpaca"}, "demos")
    assert len(wrapped.eval) == list(before.values()).count("eval")
    half = {"path": write([{"instruction": q, "output": "x"} for q in QUESTIONS[:100]], "half.jsonl")}
    after = sides(data.load(node | {"demos": half}, "demos"))
    assert after == {prompt: before[prompt] for prompt in after}


def test_eval_fraction_moves_the_border(everything, local):
    few = data.load(local(eval_fraction=0.1, **everything), "demos")
    many = data.load(local(eval_fraction=0.4, **everything), "demos")
    assert len(few.eval) < len(many.eval)
    assert set(few.eval["prompt"]) <= set(many.eval["prompt"])
    assert len(data.load(local(**everything), "demos").eval) == 0


def test_a_dialogue_stays_on_one_side():
    first = {"role": "user", "content": "Hello"}
    later = [first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And?"}]
    system = {"role": "system", "content": "Be kind."}
    assert splitting.opening([first]) == splitting.opening(later) == splitting.opening([system, *later])
    assert splitting.opening("\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: And?\n\nAssistant:") == "Hello "


def test_max_eval_caps_by_hash_and_never_gives_back_to_training(everything, local):
    node = local(eval_fraction=0.4, **everything)
    free = data.load(node | {"max_eval": None}, "demos")
    capped = data.load(node | {"max_eval": 10}, "demos")
    pairs = data.load(node | {"max_eval": 10}, "preferences")
    assert len(capped.eval) == 10
    assert len(capped.train) == len(free.train)
    assert capped.counts["dropped"] == {"held out beyond max_eval=10": len(free.eval) - 10}
    assert {p.strip().casefold() for p in pairs.eval["prompt"]} == {p.strip().casefold() for p in capped.eval["prompt"]}


def test_a_held_out_file_takes_its_prompts_out_of_training(local, write):
    train = write([{"prompt": q, "completion": "x"} for q in QUESTIONS[:10]], "train.jsonl")
    held = write([{"prompt": q, "completion": "y"} for q in QUESTIONS[8:12]], "held.jsonl")
    split = data.load(local(demos={"path": train, "eval_path": held}), "demos")
    assert list(split.train["prompt"]) == QUESTIONS[:8]
    assert list(split.eval["prompt"]) == QUESTIONS[8:12]
    assert split.counts["dropped"] == {"held out by the evaluation source": 2}
    assert split.counts["read"] == 14 == 8 + 4 + 2


def test_texts_that_begin_alike_are_never_on_both_sides(tokenizer, write, local):
    """Documents are split whole; a held-out one whose first tokens are a training prompt is not used."""
    texts = [{"text": f"What is the answer ? {i} is the answer ."} for i in range(100)]
    path = write(texts)
    demos = {"path": path, "format": "continuation", "options": {"tokens": 5}}
    with pytest.raises(UserError, match=r"none of .* falls into"):
        data.load(local(eval_fraction=0.2, demos=demos), "demos", tokenizer=tokenizer)
    node = local(eval_fraction=0.2, demos=demos | {"options": {"tokens": 7}}, corpus={"path": path})
    split = data.load(node, "prompts", tokenizer=tokenizer)
    assert not set(split.train["prompt"]) & set(split.eval["prompt"])
    held = set(data.load(node, "corpus").eval["text"])
    assert held and all(any(text.startswith(p) for text in held) for p in split.eval["prompt"])


def test_a_mixture_keeps_its_weights_and_repeats_nothing(local, write):
    a = write([{"prompt": f"a{i}", "completion": "x"} for i in range(30)], "a.jsonl")
    b = write([{"prompt": f"b{i}", "completion": "x"} for i in range(100)], "b.jsonl")

    def mixed(*weights, seed=0):
        sources = [{"path": a, "weight": weights[0]}, {"path": b, "weight": weights[1]}]
        return data.load(local(demos={"sources": sources}), "demos", seed=seed)

    split = mixed(1, 2)
    prompts = list(split.train["prompt"])
    assert [sum(p.startswith(letter) for p in prompts) for letter in "ab"] == [30, 60]
    assert len(set(prompts)) == 90
    assert split.counts["dropped"] == {"left out for the mixture's weights": 40}
    assert set(mixed(1, 2, seed=1).train["prompt"]) != set(prompts)
    assert len(mixed(3, 1).train) == 40
    assert len(mixed(None, None).train) == 130
    with pytest.raises(UserError, match="give every source of a mixture a weight above 0"):
        mixed(1, None)


def test_a_path_wins_over_a_mixture(local, write):
    a = write([{"prompt": "a", "completion": "x"}], "a.jsonl")
    node = local(demos={"path": a, "sources": [{"path": "elsewhere.jsonl"}]})
    assert list(data.load(node, "demos").train["prompt"]) == ["a"]


def test_no_row_held_out_is_told(local, write):
    path = write([{"prompt": "a", "completion": "x"}])
    with pytest.raises(UserError, match=r"falls into the 1% held out; raise data\.eval_fraction"):
        data.load(local(eval_fraction=0.01, demos={"path": path}), "demos")
