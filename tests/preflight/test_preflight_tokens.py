"""Special tokens that do not go together are found, and told with the setting that mends them."""

import copy

import pytest

from rlhf_recipes.engine.stops import turn_end
from rlhf_recipes.models.tokenizer import train_bpe
from rlhf_recipes.preflight import tokens

CHAT = "{% for m in messages %}<|turn|>{{ m.content }}<|end|>{% endfor %}"


@pytest.fixture(scope="module")
def plain():
    return train_bpe(["some words to learn from"] * 3, 300)


def wrong(findings) -> list[str]:
    return [f.text for f in findings if f.wrong]


def of_one(tokenizer, stops=(2,), vocab=1000, chat=False):
    return tokens.of_one("policy", tokenizer, list(stops), vocab=vocab, chat=chat)


def test_a_tokenizer_that_is_right_has_nothing_wrong(plain):
    first = of_one(plain)[0].text
    assert "EOS '<|eos|>' (2)" in first and "pad '<|pad|>' (0)" in first and wrong(of_one(plain)) == []


def test_pad_that_is_eos(plain):
    same = copy.deepcopy(plain)
    same.pad_token = same.eos_token
    assert any("model.pad_token" in text for text in wrong(of_one(same)))


def test_nothing_that_ends_an_answer(plain):
    assert any("trainer.stop_token=eos" in text for text in wrong(of_one(plain, stops=())))


def test_more_tokens_than_the_embedding_holds(plain):
    assert any("enlarged" in f.text for f in of_one(plain, vocab=len(plain) - 1))


def test_a_chat_template_that_ends_turns_with_another_token(plain):
    chat = copy.deepcopy(plain)
    chat.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    chat.chat_template = CHAT
    end = chat.convert_tokens_to_ids("<|end|>")
    assert turn_end(chat) == end
    assert any("model.eos_token='<|end|>'" in text for text in wrong(of_one(chat, chat=True)))
    assert wrong(of_one(chat, stops=(2, end), chat=True)) == []
    assert wrong(of_one(chat)) == []  # data that is no chat never sees the template


def test_policy_and_reward_model(plain):
    assert wrong(tokens.of_two(plain, copy.deepcopy(plain))) == []
    other = copy.deepcopy(plain)
    other.eos_token = "<|bos|>"
    assert any("EOS differs" in text for text in wrong(tokens.of_two(plain, other)))
    talks = copy.deepcopy(plain)
    talks.chat_template = CHAT
    assert any(
        "policy has a chat template and the reward model has none" in t for t in wrong(tokens.of_two(talks, plain))
    )
    larger = copy.deepcopy(plain)
    larger.add_tokens(["<|new|>"])
    assert "another vocabulary" in tokens.of_two(plain, larger)[0].text
