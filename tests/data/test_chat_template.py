"""A talk becomes the very text that the domain's rows were written as."""

import json

import pytest

from rlhf_recipes.data import embedded, templates
from rlhf_recipes.data.chat_template import ChatTemplate, choose
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.tokenizer import train_bpe
from rlhf_recipes.runs.resolve import ModelSource

OWN = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
DIALOGUES = {
    "one question": [("user", "2 + 2?")],
    "a second question": [("user", "2 + 2?"), ("assistant", "4"), ("user", "And 3 + 3?")],
    "under a system prompt": [("system", "Be brief."), ("user", "Who?"), ("assistant", "Me."), ("user", "Why?")],
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["User: 2 + 2?\nAssistant: 4"] * 3, 270)


def turns(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def rendered(tokenizer, template, talk):
    return tokenizer.apply_chat_template(talk, chat_template=template.jinja, add_generation_prompt=True, tokenize=False)


def stage(tmp_path, name="sft", **data):
    return ModelSource(name, "x", tmp_path / name, {"data": data})


@pytest.mark.parametrize("talk", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("name", ["hh", "alpaca"])
def test_jinja_says_what_the_rows_templates_say(tokenizer, name, talk):
    template = choose(name, ModelSource("x", "x"), has_own=False)
    assert rendered(tokenizer, template, turns(talk)) == templates.render(name, turns(talk))[0]


def test_plain_gives_the_words_to_the_letter(tokenizer):
    template = choose("plain", ModelSource("x", "x"), has_own=False)
    assert rendered(tokenizer, template, turns([("user", "Once upon a ")])) == "Once upon a "
    more = turns([("user", "Once"), ("assistant", " there was."), ("user", "Then")])
    assert rendered(tokenizer, template, more) == "Once there was.\n\nThen"


def test_the_embedded_domain_is_asked_as_its_rows_ask(tokenizer, tmp_path):
    row = next(embedded.rows("prompts"))
    question = row["prompt"].removeprefix("User: ").removesuffix("\nAssistant:")
    template = choose("auto", stage(tmp_path, template="plain", prompts={"path": "embedded"}), has_own=True)
    assert rendered(tokenizer, template, turns([("user", question)])) == row["prompt"]
    talk = turns([("user", "a"), ("assistant", " b."), ("user", "c")])
    assert rendered(tokenizer, template, talk) == "User: a\nAssistant: b.\nUser: c\nAssistant:"


def test_a_stages_model_is_spoken_to_as_it_was_trained(tmp_path):
    assert choose("auto", stage(tmp_path, template="hh"), has_own=True).name == "hh"
    assert choose("auto", stage(tmp_path, template="chat"), has_own=True) == ChatTemplate("chat", None)
    assert choose("auto", stage(tmp_path, template="chat"), has_own=False).name == "plain"
    assert choose("alpaca", stage(tmp_path, template="hh"), has_own=True).name == "alpaca"


def test_any_other_model_by_its_chat_template_or_the_shells_data():
    elsewhere = ModelSource("x/y", "x/y")
    assert choose("auto", elsewhere, has_own=True, data={"template": "hh"}) == ChatTemplate("chat", None)
    assert choose("auto", elsewhere, has_own=False, data={"template": "hh"}).name == "hh"
    assert choose("auto", elsewhere, has_own=False, data={"demos": {"path": "embedded"}}).name == "embedded"


def test_plain_rows_that_were_turns_end_with_a_blank_line(tokenizer, tmp_path):
    found = stage(tmp_path, "ppo", template="plain", demos={"path": "a/b"})
    found.folder.mkdir()
    talk = turns([("user", "Why?")])
    (found.folder / "samples.jsonl").write_text(json.dumps({"prompt": "Who?"}) + "\n")
    assert rendered(tokenizer, choose("auto", found, has_own=False), talk) == "Why?"
    (found.folder / "samples.jsonl").write_text(json.dumps({"prompt": "Who?\n\n"}) + "\n")
    assert rendered(tokenizer, choose("auto", found, has_own=False), talk) == "Why?\n\n"


def test_a_pattern_and_a_file_of_ones_own(tokenizer, tmp_path):
    talk = turns([("user", "a"), ("assistant", "b"), ("user", "c")])
    pattern = choose("Q: {prompt}\\nA:", ModelSource("x", "x"), has_own=False)
    assert rendered(tokenizer, pattern, talk) == "Q: a\nA: b\nQ: c\nA:"
    (tmp_path / "own.jinja").write_text(OWN)
    assert rendered(tokenizer, choose(str(tmp_path / "own.jinja"), ModelSource("x", "x"), False), talk) == "<a><b><c>"


@pytest.mark.parametrize("setting", ["chat", "alpacca", "missing.jinja"])
def test_a_template_that_is_not_there_is_refused(setting):
    with pytest.raises(UserError, match=f"chat.template={setting}"):
        choose(setting, ModelSource("x", "x"), has_own=False)


def test_words_with_braces_and_quotes_stay_words(tokenizer):
    template = choose("hh", ModelSource("x", "x"), has_own=False)
    words = '{{ 1 + 1 }} {% if %} "it\'s" \\n'
    assert words in rendered(tokenizer, template, turns([("user", words)]))


def test_a_bos_stands_where_the_tokenizer_would_put_one(tokenizer):
    from tokenizers.processors import TemplateProcessing

    template = choose("hh", ModelSource("x", "x"), has_own=False)
    assert template.with_bos(tokenizer) == template.jinja
    bos = tokenizer.bos_token
    before = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    try:
        talk = turns([("user", "2 + 2?")])
        said = tokenizer.apply_chat_template(
            talk,
            chat_template=template.with_bos(tokenizer),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert said == tokenizer(templates.render("hh", talk)[0])["input_ids"]
        assert said.count(tokenizer.bos_token_id) == 1
    finally:
        tokenizer.backend_tokenizer.post_processor = before
