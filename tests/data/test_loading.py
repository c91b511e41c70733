"""What `load` gives, drops, cuts and counts; what is said of a domain that will not do."""

import pytest

from rlhf_recipes import data
from rlhf_recipes.errors import UserError


def accounted(split) -> bool:
    counts = split.counts
    return counts["rows"] == counts["train"] + counts["eval"] + sum(counts["dropped"].values())


def test_rows_of_each_kind_have_the_agreed_columns(local, write, chatty):
    pairs = [{"question": f"q{i}", "chosen": "good", "rejected": "bad", "id": i} for i in range(3)]
    node = local(preferences={"path": write(pairs)})
    assert data.load(node, "corpus").train.column_names == ["text"]
    assert data.load(node, "demos").train.column_names == ["prompt", "completion"]
    assert data.load(node, "preferences").train[1] == {
        "prompt": "q1\n\n",
        "chosen": "good",
        "rejected": "bad",
        "question": "q1",
        "id": 1,
    }
    assert data.load(node, "prompts").train[1] == {"prompt": "q1\n\n", "question": "q1", "id": 1}
    chat = data.load(node | {"template": "chat", "system": "Be kind."}, "demos", tokenizer=chatty).train[0]
    assert chat["prompt"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "q0"}]
    assert chat["completion"] == [{"role": "assistant", "content": "good"}]
    assert data.load(node | {"template": "chat"}, "corpus").train["text"][0] == "q0\n\ngood"


def test_prompts_take_every_column_but_those_trl_reads(local, write):
    rows = [{"prompt": "q", "completion": " a", "messages": [], "answer": 1, "tables": {"t": [1, 2]}}]
    row = data.load(local(demos={"path": write(rows)}), "prompts").train[0]
    assert row == {"prompt": "q", "answer": 1, "tables": {"t": [1, 2]}, "reference": "a"}


def test_a_column_of_several_types_becomes_text(local, write):
    rows = [{"prompt": f"q{i}", "answer": i if i < 1500 else f"x + {i}"} for i in range(2000)]
    rows[3]["answer"] = "three"
    answers = data.load(local(prompts={"path": write(rows)}), "prompts").train["answer"]
    assert (answers[2], answers[3], answers[1200], answers[1999]) == ("2", "three", "1200", "x + 1999")


def test_what_cannot_be_used_is_counted_by_reason(local, write):
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "same", "rejected": " same"},
        {"prompt": "q", "chosen": "", "rejected": "b"},
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": None, "rejected": "b"},
        {"prompt": "q", "chosen": {"no": "text"}, "rejected": "b"},
    ]
    split = data.load(local(preferences={"path": write(rows)}), "preferences")
    assert split.counts["read"] == 7 and split.counts["train"] == 2 and split.counts["duplicates"] == 1
    assert split.counts["dropped"] == {
        "chosen = rejected": 1,
        "empty answer": 1,
        "empty prompt": 1,
        "no chosen": 1,
        "chosen is not text": 1,
    }
    assert accounted(split)
    assert split.describe().startswith("preferences: 7 read, 2 to train + 0 held out; 5 dropped (1 ")
    assert split.describe().endswith("1 the same as another, kept")


def test_a_row_that_makes_several(local, write):
    rows = [{"prompt": f"q{i}", "completions": ["a", "b", "c"], "ranks": [0, 1, 1]} for i in range(2)]
    rows.append({"prompt": "q", "completions": ["a"], "ranks": [0]})
    split = data.load(local(ranked={"path": write(rows)}), "preferences")
    assert (split.counts["read"], split.counts["rows"], split.counts["train"]) == (3, 5, 4)
    assert split.counts["dropped"] == {"no two answers ranked apart": 1}
    assert "preferences (from data.ranked): 3 read, 5 made of them, 4 to train" in split.describe()
    assert data.load(local(ranked={"path": write(rows)}), "ranked").train[0]["completions"] == ["a", "b", "c"]


def words(n: int, word: str = "answer") -> str:
    return f" {word}" * n  # one token each


def test_lengths_of_demos_are_those_trl_sees(local, write, tokenizer):
    """Tokens: the prompt, the answer and EOS."""
    assert [len(tokenizer(words(n)).input_ids) for n in (1, 5)] == [1, 5]
    rows = [
        {"prompt": words(4), "completion": words(5)},  # 4 + 5 + EOS = 10: whole
        {"prompt": words(4), "completion": words(6)},  # 11: cut
        {"prompt": words(9), "completion": words(1)},  # 9 + 1 + EOS = 11: cut, one answer token left
        {"prompt": words(10), "completion": words(1)},  # no answer token within 10
        {"prompt": words(6), "completion": words(1)},
    ]
    node = local(demos={"path": write(rows)})
    split = data.load(node, "demos", tokenizer=tokenizer, max_length=10)
    assert (split.counts["train"], split.counts["cut"]) == (4, 2)
    assert split.counts["dropped"] == {"no answer token within 10": 1}
    assert split.describe().endswith("2 cut at 10 tokens")
    short = data.load(node, "demos", tokenizer=tokenizer, max_length=10, max_prompt_length=5)
    assert short.counts["dropped"] == {"prompt longer than 5 tokens": 3}
    assert data.load(node | {"max_prompt_length": 5}, "demos", tokenizer=tokenizer).counts["train"] == 2
    assert data.load(node, "demos", max_length=10).counts["train"] == 5  # no tokenizer, nothing measured


def test_lengths_of_the_other_kinds(local, write, tokenizer, chatty):
    pairs = [{"prompt": words(3), "chosen": words(n), "rejected": words(2, "is")} for n in (3, 6, 7)]
    node = local(preferences={"path": write(pairs)})
    split = data.load(node, "preferences", tokenizer=tokenizer, max_length=10)
    assert split.counts["dropped"] == {"longer than 10 tokens": 1}
    prompts = local(prompts={"path": write([{"prompt": words(n)} for n in (3, 6)], "p.jsonl")})
    assert data.load(prompts, "prompts", tokenizer=tokenizer, max_prompt_length=5).counts["train"] == 1
    assert data.load(prompts, "prompts", tokenizer=tokenizer, max_length=5).counts["train"] == 1
    texts = local(corpus={"path": write([{"text": words(n)} for n in (3, 9, 10)], "t.jsonl")})
    assert data.load(texts, "corpus", tokenizer=tokenizer, max_length=10).counts["cut"] == 1
    turn = chatty.apply_chat_template([{"role": "user", "content": words(3).strip()}], add_generation_prompt=True)
    whole = len(turn["input_ids"])
    chat = prompts | {"template": "chat"}
    assert data.load(chat, "prompts", tokenizer=chatty, max_prompt_length=whole).counts["train"] == 1
    with pytest.raises(UserError, match="is left to train on"):
        data.load(chat, "prompts", tokenizer=chatty, max_prompt_length=whole - 1)


def test_dialogues_that_a_plain_template_runs_together_are_told(local, write, chatty):
    talks = [[{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}] for i in range(9)]
    demos = {"path": write([{"messages": talk} for talk in talks])}
    hint = "the tokenizer has a chat template: data.template=chat"
    for template, told in (("plain", True), ("chat", False)):
        made = data.load(local(demos=demos, template=template), "demos", tokenizer=chatty)
        assert (hint in made.describe()) == told
    chatty.chat_template = None
    assert hint not in data.load(local(demos=demos), "demos", tokenizer=chatty).describe()


def test_a_chat_template_that_refuses_system_prompts(local, write, chatty):
    chatty.chat_template = "{{ raise_exception('no system role') if messages[0].role == 'system' }}x"
    node = local(template="chat", system="Be kind.", prompts={"path": write([{"prompt": "q"}])})
    with pytest.raises(UserError, match=r"refuses a row \(line 1: no system role\)\); leave out the system turn"):
        data.load(node, "prompts", tokenizer=chatty)


def test_one_row_that_the_chat_template_refuses_costs_one_row(local, write, chatty):
    chatty.chat_template = "{{ raise_exception('too odd') if 'odd' in messages[0].content }}" + chatty.chat_template
    rows = [{"prompt": f"q{i}" + " odd" * (i == 7), "completion": "a"} for i in range(9)]
    split = data.load(local(template="chat", demos={"path": write(rows)}), "demos", tokenizer=chatty)
    assert (len(split.train), list(split.counts["dropped"].values())) == (8, [1])
    assert split.describe().endswith(
        "1 dropped (1 the chat template of this tokenizer refuses a row (line 8: too odd))"
    )


def test_all_rows_dropped(local, write, tokenizer):
    path = write([{"prompt": words(9), "completion": "a"}, {"prompt": "", "completion": "a"}])
    with pytest.raises(UserError) as caught:
        data.load(local(demos={"path": path}), "demos", tokenizer=tokenizer, max_length=9)
    assert str(caught.value) == (
        f"data.demos.path={path}: none of 2 rows is left to train on "
        "(1 empty prompt (line 2), 1 no answer token within 9 (line 1)); expected at least one usable row of demos"
    )


def test_a_kind_is_made_of_another(local, write):
    demos = local(demos={"path": write([{"instruction": "q", "output": "a"}])})
    assert data.load(demos, "prompts").source == "data.demos"
    assert data.load(demos, "corpus").train["text"][0] == "q\n\na"
    own = demos | {"prompts": {"path": write([{"prompt": "mine"}], "p.jsonl")}}
    assert data.load(own, "prompts").train["prompt"][0] == "mine"


def test_a_domain_without_the_kind(preset, local, write):
    alpaca = preset("alpaca")
    with pytest.raises(UserError) as caught:
        data.check(alpaca, "preferences", stage="dpo")
    assert str(caught.value) == (
        "data=alpaca gives corpus, demos and prompts; stage=dpo needs preferences. "
        "Try data=hh_rlhf, or data.preferences.path=<file>"
    )
    texts = local(corpus={"path": write([{"text": "a"}])})
    with pytest.raises(UserError, match=r"data=local gives corpus; stage=sft needs demos\. Give data\.demos\.path="):
        data.check(texts, "demos", stage="sft")


def test_what_the_messages_recommend_is_so(preset):
    from rlhf_recipes.data.domain import domain

    for name, kind in data.KINDS.items():
        assert domain(preset(kind.preset)).choose(name).given


def test_a_preset_with_a_file_of_ones_own(preset, write):
    """The preset's format stays; where it does not fit, the message says what does."""
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    path = write(pairs)
    with pytest.raises(UserError) as caught:
        data.check(preset("shp", f"data.preferences.path={path}"), "preferences")
    assert str(caught.value) == (
        f"data.preferences.path={path}: format=shp needs history, human_ref_A, human_ref_B, labels to make "
        "preferences; the file has prompt, chosen, rejected. "
        "These formats fit: preference, hh (data.preferences.format=preference)"
    )
    with pytest.raises(UserError, match=r"options\.min_ratio of format=preference.*~data\.preferences\.options leaves"):
        data.check(preset("shp", f"data.preferences.path={path}", "data.preferences.format=preference"), "preferences")
    node = preset("hh_rlhf", f"data.preferences.path={path}", "data.preferences.format=auto", "data.eval_fraction=0")
    assert len(data.load(node, "preferences").train) == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"demo": {}}, r"no setting data\.demo; did you mean data\.demos\?"),
        ({"demos": {"paht": "x"}}, r"no setting data\.demos\.paht; did you mean data\.demos\.path\?"),
        (
            {"demos": {"path": "X", "format": "alpacca"}},
            r"data\.demos\.format=alpacca: no such format; did you mean alpaca",
        ),
        ({"demos": {"path": "X", "format": "text"}}, r"format=text needs text to make demos"),
        (
            {"demos": {"path": "X", "format": "prompt"}},
            r"format=prompt gives prompts, not demos\. These formats fit: pro",
        ),
        (
            {"demos": {"path": "X", "options": {"turn": 1}}},
            r"no setting data\.demos\.options\.turn of format=prompt_comp",
        ),
        ({"demos": {"path": "X", "group": "tree"}}, r"data\.demos\.group=tree is not among its columns prompt, comple"),
        ({"demos": {"path": "X"}, "template": "alpacca"}, r"data\.template=alpacca: no such template"),
        ({"demos": {"path": "X"}, "eval_fraction": 1}, r"data\.eval_fraction=1: expected a share"),
        ({"demos": {"path": "X"}, "max_eval": 0}, r"data\.max_eval=0: expected a count"),
        (
            {"demos": {"path": "X", "format": "./gone.py:f"}},
            r"data\.demos\.format=\./gone\.py:f: .*; expected \./file\.py",
        ),
        ({"demos": {"path": "???"}}, r"data=local gives nothing yet; demos are needed"),
    ],
)
def test_a_setting_that_will_not_do(node, message, local, write):
    path = write([{"prompt": "a", "completion": "b"}])
    if node.get("demos", {}).get("path") == "X":
        node["demos"]["path"] = path
    with pytest.raises(UserError, match=message):
        data.check(local() | node, "demos")


def test_continuation_needs_the_tokenizer(preset, write):
    node = preset("imdb", f"data.demos.path={write([{'text': 'a', 'label': 1}])}")
    with pytest.raises(UserError, match="needs the model's tokenizer"):
        data.load(node, "demos")


def test_embedded_rows_come_by_kind_and_seed(preset):
    node = preset("embedded")
    for kind in ("corpus", "demos", "preferences", "prompts", "ranked"):
        node[kind].limit = 300
        split = data.load(node, kind)
        assert split.counts["read"] == 300 and accounted(split)
    prompts = data.load(node, "prompts").train
    assert list(prompts["prompt"]) != list(data.load(node, "prompts", seed=1).train["prompt"])
    assert "margin" not in data.load(node, "preferences").train.column_names
    node.preferences.options.use_margin = True
    assert "margin" in data.load(node, "preferences").train.column_names
