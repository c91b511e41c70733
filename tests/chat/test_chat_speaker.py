"""One model that answers: as the rest of the package would sample it, and every setting is felt."""

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.answers import Draw, generate

QUESTION = "What is 3 plus 4?"
PROMPT = f"User: {QUESTION}\nAssistant:"
SAVED = ("turns", "prompt", "system", "context", "stop_ids", "stop_strings")


@pytest.fixture(scope="module")
def loaded(load):
    return load("ppo")


@pytest.fixture
def ppo(loaded):
    """The adapter of ppo on sft, loaded once, with what a test changes put back."""
    kept = {name: getattr(loaded, name) for name in SAVED}
    loaded.turns = []
    yield loaded
    vars(loaded).update(kept)


@pytest.fixture(scope="module")
def greedy(composed):
    return composed("chat.temperature=0", "chat.max_new_tokens=16", "chat.history=all")


def first(speaker, cfg):
    """The answer to the question at the beginning of a talk."""
    speaker.turns = []
    return speaker.answer(QUESTION, cfg)


def test_a_greedy_answer_is_the_one_evaluation_samples(ppo, greedy):
    reply = first(ppo, greedy)
    [expected] = generate(ppo.model, ppo.tokenizer, [PROMPT], Draw(max_new_tokens=16, temperature=0.0))
    assert (reply.text, reply.tokens) == (expected.text, len(expected.ids))
    assert len(set(expected.ids)) > 3  # the model says something that could differ


def test_an_adapter_speaks_otherwise_than_its_base(ppo, greedy, load):
    assert first(ppo, greedy).text != first(load("sft"), greedy).text


def test_the_pieces_are_the_answer(ppo, greedy):
    pieces = []
    text = ppo.answer(QUESTION, greedy, pieces.append).text
    assert "".join(pieces) == text
    assert all(pieces) and len(pieces) > 1


@pytest.mark.parametrize(
    "change",
    ["chat.temperature=0.3", "chat.top_p=0.05", "chat.top_k=1", "chat.repetition_penalty=5.0", "seed=1"],
)
def test_every_setting_of_the_draw_is_felt(ppo, composed, change):
    drawn = ["chat.max_new_tokens=16", "chat.temperature=3.0"]
    expected = first(ppo, composed(*drawn)).text
    assert first(ppo, composed(*drawn)).text == expected
    assert first(ppo, composed(*drawn, change)).text != expected


def test_top_k_of_one_is_greedy(ppo, greedy, composed):
    assert first(ppo, composed("chat.max_new_tokens=16", "chat.top_k=1")).text == first(ppo, greedy).text


def test_max_new_tokens_ends_an_answer_and_says_so(ppo, composed):
    reply = first(ppo, composed("chat.temperature=0", "chat.max_new_tokens=3"))
    assert (reply.tokens, reply.finished) == (3, False)


def test_a_stop_token_ends_an_answer(ppo, greedy):
    [sampled] = generate(ppo.model, ppo.tokenizer, [PROMPT], Draw(max_new_tokens=16, temperature=0.0))
    ppo.stop_ids = [sampled.ids[4]]
    reply = first(ppo, greedy)
    assert (reply.finished, reply.tokens) == (True, sampled.ids.index(sampled.ids[4]) + 1)


def test_a_stop_string_ends_an_answer(ppo, greedy):
    whole = first(ppo, greedy).text
    ppo.stop_strings = [whole[3:5]]
    reply = first(ppo, greedy)
    assert reply.finished
    assert len(reply.text) < len(whole)


def test_history_and_system_change_what_the_model_sees(ppo, composed):
    talk = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": " Seven."},
        {"role": "user", "content": "And 5?"},
    ]

    def shown(turns, *overrides):
        return ppo.tokenizer.decode(ppo.prompt_ids(turns, composed(*overrides).chat))

    whole = f"{PROMPT} Seven.\nUser: And 5?\nAssistant:"
    assert shown(talk, "chat.history=all") == shown(talk, "chat.history=1") == whole
    assert shown(talk, "chat.history=0") == shown(talk) == "User: And 5?\nAssistant:"  # its rows are single questions
    assert shown(talk[:1], "chat.system='Be kind.'") == f"Be kind.\n{PROMPT}"
    ppo.system = "Trained with."
    assert shown(talk[:1]) == f"Trained with.\n{PROMPT}"
    assert shown(talk[:1], "chat.system=none") == PROMPT


def test_the_oldest_exchanges_go_where_the_context_is_full_and_too_long_a_turn_is_refused(ppo, greedy):
    exchange = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": " Seven."}]
    talk = [*exchange * 3, {"role": "user", "content": "Last?"}]
    whole = ppo.prompt_ids(talk, greedy.chat)
    ppo.context = len(whole) + 16
    assert ppo.prompt_ids(talk, greedy.chat) == whole
    ppo.context -= 1
    assert ppo.prompt_ids(talk, greedy.chat) == ppo.prompt_ids(talk[2:], greedy.chat)
    ppo.context = 8
    with pytest.raises(UserError, match="reads 8 tokens at once"):
        ppo.prompt_ids(talk, greedy.chat)


def test_an_answer_takes_no_more_room_than_there_is(ppo, greedy):
    first(ppo, greedy)
    ppo.context = len(ppo.prompt) + 4
    assert first(ppo, greedy).tokens == 4


def test_ctrl_c_keeps_what_was_said(ppo, composed):
    cfg = composed("chat.temperature=0", "chat.max_new_tokens=64")
    whole = first(ppo, cfg).text
    ppo.turns = []

    heard = []

    def impatient(piece):
        heard.append(piece)
        if len(heard) == 1:
            raise KeyboardInterrupt

    reply = ppo.answer(QUESTION, cfg, impatient)
    assert reply.stopped and not reply.finished
    assert 0 < len(reply.text) < len(whole)
    assert whole.startswith(reply.text)
    assert ppo.turns[-1] == {"role": "assistant", "content": reply.text}
    assert not ppo.answer("And now?", cfg).stopped
    assert len(ppo.turns) == 4


def test_a_penalty_in_the_models_own_generation_config_is_not_felt(ppo):
    assert ppo.model.generation_config.repetition_penalty in (None, 1.0)
    assert ppo.stop_ids[0] == ppo.tokenizer.eos_token_id
