"""One model that answers: as the rest of the package would sample it, and every setting is felt."""

from dataclasses import replace

import pytest

from rlhf_recipes.chat.sampling import ALL, Sampling
from rlhf_recipes.chat.session import Session
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import measure

GREEDY = Sampling(temperature=0.0, max_new_tokens=16, history=ALL)
DRAWN = Sampling(temperature=1.0, max_new_tokens=16)
QUESTION = [{"role": "user", "content": "What is 3 plus 4?"}]


@pytest.fixture(scope="module")
def ppo(request, made):
    """The adapter of ppo on sft, loaded once. Tests put back what they change."""
    from hydra import compose, initialize_config_dir

    from rlhf_recipes import stages
    from rlhf_recipes.chat import speaker
    from rlhf_recipes.config.paths import CONF
    from rlhf_recipes.runs import resolve
    from rlhf_recipes.runs.artifacts import StageRun

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = stages.checked(compose("config", ["stage=chat", f"run.root={made.parent}", "run.name=made"]))
    return speaker.load(cfg, resolve.find(StageRun(cfg, stages.catalogue()), "ppo", "chat.models"), "ppo")


def test_a_greedy_answer_is_the_one_evaluation_samples(ppo):
    said = ppo.answer(QUESTION, GREEDY)
    expected = measure.generate(
        ppo.model, ppo.tokenizer, ["User: What is 3 plus 4?\nAssistant:"], max_new_tokens=16, temperature=0.0
    )[0]
    assert (said.text, said.tokens) == (expected.text, expected.tokens)
    assert len(set(expected.ids)) > 3  # the model says something that could differ


def test_an_adapter_speaks_otherwise_than_its_base(ppo, speaker):
    assert ppo.answer(QUESTION, GREEDY).text != speaker("sft").answer(QUESTION, GREEDY).text


def test_the_pieces_are_the_answer(ppo):
    pieces = []
    text = ppo.answer(QUESTION, GREEDY, pieces.append).text
    assert "".join(pieces) == text
    assert all(pieces)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.3), ("top_p", 0.05), ("top_k", 1), ("repetition_penalty", 5.0), ("seed", 1)],
)
def test_every_setting_of_the_draw_is_felt(ppo, name, value):
    base = replace(DRAWN, temperature=3.0)
    assert ppo.answer(QUESTION, base).text == ppo.answer(QUESTION, base).text
    assert ppo.answer(QUESTION, replace(base, **{name: value})).text != ppo.answer(QUESTION, base).text


def test_top_k_of_one_is_greedy(ppo):
    assert ppo.answer(QUESTION, replace(DRAWN, top_k=1)).text == ppo.answer(QUESTION, GREEDY).text


def test_max_new_tokens_ends_an_answer_and_says_so(ppo):
    reply = ppo.answer(QUESTION, replace(GREEDY, max_new_tokens=3))
    assert (reply.tokens, reply.finished) == (3, False)


def test_a_stop_token_ends_an_answer(ppo):
    asked = ["User: What is 3 plus 4?\nAssistant:"]
    ids = measure.generate(ppo.model, ppo.tokenizer, asked, max_new_tokens=16, temperature=0.0)[0].ids
    was = ppo.stops
    ppo.stops = [ids[4]]
    try:
        reply = ppo.answer(QUESTION, GREEDY)
    finally:
        ppo.stops = was
    assert (reply.finished, reply.tokens) == (True, ids.index(ids[4]) + 1)


def test_a_stop_string_ends_an_answer(ppo):
    whole = ppo.answer(QUESTION, GREEDY).text
    ppo.stop_strings = [whole[3:5]]
    try:
        reply = ppo.answer(QUESTION, GREEDY)
    finally:
        ppo.stop_strings = None
    assert reply.finished
    assert len(reply.text) < len(whole)


def test_history_and_system_change_what_the_model_sees(ppo):
    talk = [*QUESTION, {"role": "assistant", "content": " Seven."}, {"role": "user", "content": "And 5?"}]
    shown = {n: ppo.tokenizer.decode(ppo.prompt_ids(talk, replace(GREEDY, history=n))) for n in (ALL, 1, 0, None)}
    assert shown[ALL] == shown[1] == "User: What is 3 plus 4?\nAssistant: Seven.\nUser: And 5?\nAssistant:"
    assert shown[0] == shown[None] == "User: And 5?\nAssistant:"  # rows of this domain are single questions
    told = ppo.tokenizer.decode(ppo.prompt_ids(QUESTION, replace(GREEDY, system="Be kind.")))
    assert told == "Be kind.\nUser: What is 3 plus 4?\nAssistant:"


def test_the_system_prompt_it_was_trained_with_is_its_own_until_another_is_set(ppo):
    ppo.system = "Trained with."
    try:
        assert "Trained with." in ppo.tokenizer.decode(ppo.prompt_ids(QUESTION, GREEDY))
        assert "Trained" not in ppo.tokenizer.decode(ppo.prompt_ids(QUESTION, replace(GREEDY, system="")))
    finally:
        ppo.system = None


def test_the_oldest_exchanges_go_where_the_context_is_full_and_too_long_a_turn_is_refused(ppo):
    exchange = [*QUESTION, {"role": "assistant", "content": " Seven."}]
    talk = [*exchange * 3, {"role": "user", "content": "Last?"}]
    whole = ppo.prompt_ids(talk, GREEDY)
    was = ppo.context
    try:
        ppo.context = len(whole) + 16
        assert ppo.prompt_ids(talk, GREEDY) == whole
        ppo.context -= 1
        assert ppo.prompt_ids(talk, GREEDY) == ppo.prompt_ids(talk[2:], GREEDY)
        ppo.context = 8
        with pytest.raises(UserError, match="reads 8 tokens at once"):
            ppo.prompt_ids(talk, GREEDY)
    finally:
        ppo.context = was


def test_an_answer_takes_no_more_room_than_there_is(ppo):
    was = ppo.context
    ppo.context = len(ppo.prompt_ids(QUESTION, GREEDY)) + 4
    try:
        assert ppo.answer(QUESTION, GREEDY).tokens == 4
    finally:
        ppo.context = was


def test_ctrl_c_keeps_what_was_said(ppo):
    session = Session([ppo], replace(GREEDY, max_new_tokens=64))
    whole = ppo.answer(QUESTION, session.sampling).text

    heard = []

    def impatient(piece):
        heard.append(piece)
        if len(heard) == 1:
            raise KeyboardInterrupt

    reply = session.ask(0, QUESTION[0]["content"], impatient)
    assert reply.stopped
    assert 0 < len(reply.text) < len(whole)
    assert whole.startswith(reply.text)
    assert session.talks[0][-1] == {"role": "assistant", "content": reply.text}
    again = session.ask(0, "And now?")
    assert not again.stopped
    assert len(session.talks[0]) == 4


def test_a_penalty_in_the_models_own_generation_config_is_not_felt(ppo):
    assert ppo.model.generation_config.repetition_penalty in (None, 1.0)
    assert ppo.stops[0] == ppo.tokenizer.eos_token_id
