"""One tokeniser of prompts and one rule of stop tokens."""

from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing

from rlhf_recipes.data.preview import prompt_rows
from rlhf_recipes.engine.prompts import appends_eos, completion_ids, prompt_ids, row_prompt_ids
from rlhf_recipes.engine.stops import stop_ids, stop_string_test, turn_end
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.tokenizer import train_bpe
from rlhf_recipes.runs.resolve import Stops

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}"


def tokenizer(closes: bool = False):
    made = train_bpe(["the cat sat on the mat"] * 4, vocab_size=300)
    if closes:
        eos = (made.eos_token, made.eos_token_id)
        made.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {eos[0]}", special_tokens=[eos])
    return made


@pytest.fixture
def chatty():
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    made.chat_template = TEMPLATE
    return made


def test_an_eos_that_the_tokenizer_appends_is_dropped():
    open_, closing = tokenizer(), tokenizer(closes=True)
    assert closing("the cat")["input_ids"][-1] == closing.eos_token_id and appends_eos(closing)
    assert prompt_ids(["the cat", "mat"], closing) == prompt_ids(["the cat", "mat"], open_)
    rows = [{"prompt": "the cat"}]
    assert row_prompt_ids(rows, closing) == [row["input_ids"] for row in prompt_rows(rows, closing, 1)]


@pytest.mark.parametrize("closes", [False, True])
def test_an_eos_that_stands_in_the_prompt_stays(closes):
    made = tokenizer(closes)
    assert prompt_ids([f"be brief.{made.eos_token}"], made)[0][-1] == made.eos_token_id


def test_ready_ids_lose_their_padding_and_a_prompt_without_tokens_is_refused():
    made = tokenizer()
    assert row_prompt_ids([{"input_ids": [0, 7, 8], "attention_mask": [0, 1, 1]}], made) == [[7, 8]]
    with pytest.raises(UserError, match="a prompt has no tokens"):
        row_prompt_ids([{"prompt": "cat"}, {"prompt": ""}], made)


def test_the_stop_tokens_are_eos_the_models_own_and_the_templates_turn_end(chatty):
    end = chatty.convert_tokens_to_ids("<|end|>")
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[9, chatty.eos_token_id]))
    assert stop_ids(chatty, model) == [end, chatty.eos_token_id, 9]
    assert stop_ids(tokenizer()) == [tokenizer().eos_token_id]


NEEDS_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system turn') }}{% endif %}"


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("<|end|>", "\n<|end|>"),  # white space before the turn's end
        NEEDS_SYSTEM + TEMPLATE,
        TEMPLATE.replace("m['content']", "m['content'] | upper"),
    ],
)
def test_the_turn_end_is_found_in_odd_templates_too_and_ends_the_answer_once(chatty, template):
    chatty.chat_template = template
    end = chatty.convert_tokens_to_ids("<|end|>")
    assert turn_end(chatty) == end
    prompt = [{"role": "system", "content": "the"}, {"role": "user", "content": "cat"}]
    [ids] = completion_ids([prompt], [[{"role": "assistant", "content": "sat"}]], chatty)
    assert ids.count(end) == 1 and ids[-1] == end and chatty.eos_token_id not in ids


def test_a_template_that_refuses_every_dialogue_has_no_turn_end(chatty):
    chatty.chat_template = "{{ raise_exception('closed') }}"
    assert stop_ids(chatty) == [chatty.eos_token_id]


def test_a_model_that_was_trained_to_stop_elsewhere_stops_there(chatty):
    assert stop_ids(chatty, None, Stops(stop_token_id=5)) == [5]
    assert stop_ids(chatty, None, Stops(stop_token=None)) == []
    assert stop_ids(chatty, None, Stops(stop_token_id=5), serving=True)[0] == 5
    assert chatty.eos_token_id in stop_ids(chatty, None, Stops(stop_token=None), serving=True)


def test_a_stop_string_counts_when_its_last_token_completes_it():
    made = tokenizer()
    ids, completed = made("the cat sat")["input_ids"], stop_string_test(["cat"], made)
    hits = [n for n in range(1, len(ids) + 1) if completed(ids[:n])]
    assert len(hits) == 1 and made.decode(ids[: hits[0]]).endswith("cat")
    assert stop_string_test(None, made) is None


def test_the_tools_that_a_first_turn_carries_are_shown_and_a_template_without_tools_refuses(chatty):
    tools = '[{"name": "weather"}]'
    talks = [[{"role": "user", "content": "Rome?", "tools": tools}], [{"role": "user", "content": "Rome?"}]]
    body = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    chatty.chat_template = "{% if tools %}{{ tools[0].name }}:{% endif %}" + body
    assert chatty.batch_decode(prompt_ids(talks, chatty)) == ["weather:<user>Rome?", "<user>Rome?"]
    chatty.chat_template = body
    with pytest.raises(UserError, match="shows no tools"):
        prompt_ids(talks, chatty)
