"""Templates to the letter, with one turn and with several."""

import pytest

from rlhf_recipes.data import templates
from rlhf_recipes.data.formats.rows import Drop
from rlhf_recipes.errors import UserError

ONE = [{"role": "user", "content": "Name a colour."}]
TWO = [*ONE, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Another.", "input": "not red"}]
SYSTEM = {"role": "system", "content": "Be brief."}


def test_alpaca_without_input_is_stanfords():
    """The first row of tatsu-lab/alpaca, whose `text` column was made with this template and a line break."""
    prompt, answer = templates.render("alpaca", [{"role": "user", "content": "Give three tips."}], "1. Eat.")
    assert prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGive three tips.\n\n### Response:\n"
    )
    assert answer == "1. Eat."


def test_alpaca_with_input_is_stanfords():
    turn = {"role": "user", "content": "Find the odd one out.", "input": "Twitter, Instagram, Telegram"}
    prompt, _ = templates.render("alpaca", [turn], "Telegram")
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nFind the odd one out.\n\n### Input:\nTwitter, Instagram, Telegram\n\n### Response:\n"
    )


def test_alpaca_braces_in_the_text_stay():
    assert "{x} {instruction}" in templates.render("alpaca", "{x} {instruction}", "a")[0]


def test_several_turns_under_every_template():
    alpaca = templates.render("alpaca", TWO, "Blue.")[0]
    assert alpaca.count("Below is an instruction") == 1
    assert alpaca.endswith(
        "### Instruction:\nName a colour.\n\n### Response:\nRed.\n\n"
        "### Instruction:\nAnother.\n\n### Input:\nnot red\n\n### Response:\n"
    )
    assert templates.render("hh", TWO, "Blue.") == [
        "\n\nHuman: Name a colour.\n\nAssistant: Red.\n\nHuman: Another.\n\nnot red\n\nAssistant:",
        " Blue.",
    ]
    assert templates.render("plain", TWO, "Blue.") == ["Name a colour.\n\nRed.\n\nAnother.\n\nnot red\n\n", "Blue."]
    asked, said = templates.render("chat", TWO, " Blue. ")
    assert asked == [*TWO[:2], {"role": "user", "content": "Another.\n\nnot red"}]
    assert said == [{"role": "assistant", "content": "Blue."}]


def test_plain_leaves_strings_alone_and_chat_makes_them_turns():
    assert templates.render("plain", "2 + 2 =", " 4") == ["2 + 2 =", " 4"]
    assert templates.render("chat", " 2 + 2? ")[0] == [{"role": "user", "content": "2 + 2?"}]


def test_an_hh_dialogue_in_a_string_is_not_wrapped_again():
    text = "\n\nHuman: Name a colour.\n\nAssistant: Red.\n\nHuman: Another.\n\nAssistant:"
    assert templates.render("hh", text, "Blue.")[0] == text
    assert len(templates.render("chat", text)[0]) == 3


def test_system_prompts():
    told = templates.with_system(ONE, "Be brief.", "chat")
    assert told == [SYSTEM, *ONE]
    assert templates.with_system(told, "Be long.", "chat") == told
    assert templates.render("hh", told, "Red.")[0] == "\n\nBe brief.\n\nHuman: Name a colour.\n\nAssistant:"
    assert templates.render("alpaca", told, "Red.")[0].startswith("Be brief.\n\nBelow is an instruction")
    assert templates.with_system("Once", "Be brief.", "plain") == "Be brief.\n\nOnce"


def test_a_prompt_must_end_with_a_question():
    with pytest.raises(Drop, match="does not end with a question"):
        templates.render("chat", TWO[:2], "Blue.")


def test_chat_wants_a_tokenizer_that_has_one(tokenizer, chatty):
    templates.check("chat", chatty)
    with pytest.raises(UserError, match=r"needs a tokenizer with a chat template.*data.template=alpaca"):
        templates.check("chat", tokenizer)
    with pytest.raises(UserError, match="no such template; known: chat, alpaca, plain, hh"):
        templates.check("alpacca")
