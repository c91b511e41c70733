"""Generation: order, stop tokens, seeds, and that nothing hidden in a model changes what is sampled."""

import pytest
import torch

from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.answers import Draw, generate, track
from rlhf_recipes.runs.resolve import Stops

PROMPTS = ["the cat", "a big red dog ran away", "the dog sat on the mat and then", "home"]


def test_answers_come_back_in_order_and_end_at_the_stop_token(make_model, tokenizer):
    answers = generate(make_model(), tokenizer, PROMPTS * 8, Draw(max_new_tokens=12, batch_size=5, seed=3))
    assert [a.prompt_ids for a in answers] == [tuple(ids) for ids in prompt_ids(PROMPTS * 8, tokenizer)]
    for answer in answers:
        assert 2 not in answer.ids[:-1]
        assert answer.finished == (answer.ids[-1] == 2)
        assert answer.finished or len(answer.ids) == 12
        assert "<eos>" not in answer.text
    assert {a.finished for a in answers} == {True, False}


def test_greedy_answers_do_not_depend_on_the_batch(make_model, tokenizer):
    alone = generate(make_model(), tokenizer, PROMPTS, Draw(temperature=0, max_new_tokens=8, batch_size=1))
    together = generate(make_model(), tokenizer, PROMPTS, Draw(temperature=0, max_new_tokens=8, batch_size=4))
    assert alone == together


def test_the_seed_decides_and_the_callers_random_state_is_untouched(make_model, tokenizer):
    model = make_model()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (generate(model, tokenizer, PROMPTS, Draw(max_new_tokens=8, seed=s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_stop_token_of_the_models_generation_config_ends_an_answer(make_model, tokenizer):
    model = make_model()
    model.generation_config.eos_token_id = [2, 7]
    answers = generate(model, tokenizer, PROMPTS * 8, Draw(max_new_tokens=12, seed=3))
    assert {answer.ids[-1] for answer in answers if answer.finished} == {2, 7}
    assert not any(token in (2, 7) for answer in answers for token in answer.ids[:-1])
    word = tokenizer.convert_ids_to_tokens(7)
    assert not any(answer.text.endswith(word) for answer in answers if answer.ids[-1] == 7)


def test_a_penalty_in_the_models_generation_config_changes_nothing(make_model, tokenizer):
    model = make_model()
    plain = generate(model, tokenizer, PROMPTS, Draw(max_new_tokens=8))
    model.generation_config.suppress_tokens = list(range(4, 12))
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, tokenizer, PROMPTS, Draw(max_new_tokens=8)) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_another_stop_token(make_model, tokenizer):
    answers = generate(make_model(), tokenizer, PROMPTS * 20, Draw(max_new_tokens=12), stops=Stops(stop_token_id=5))
    finished = [a for a in answers if a.finished]
    assert finished
    assert all(a.ids[-1] == 5 and 5 not in a.ids[:-1] for a in finished)
    word = tokenizer.convert_ids_to_tokens(5)
    assert all(a.text.endswith(word) for a in finished)  # as in PPO's texts


def test_without_a_stop_token_an_answer_goes_past_eos(make_model, tokenizer):
    answers = generate(make_model(), tokenizer, PROMPTS * 4, Draw(max_new_tokens=12), stops=Stops(stop_token=None))
    assert all(len(a.ids) == 12 and not a.finished for a in answers)
    assert any(2 in a.ids for a in answers)


def test_a_stop_string_ends_an_answer_and_the_prompt_holds_no_part_of_it(make_model, tokenizer):
    model, ends = make_model(), "dog"
    told = Stops(stop_token=None, stop_strings=[ends, "and then"])
    answers = generate(model, tokenizer, [*PROMPTS, "cat and"] * 6, Draw(max_new_tokens=12, batch_size=7), stops=told)
    finished = [a for a in answers if a.finished]
    assert finished and len(finished) < len(answers)
    assert all(a.text.endswith(ends) or a.text.endswith("and then") for a in finished)
    assert all(a.text.count(ends) == a.text.endswith(ends) for a in answers)
    assert all(len(a.ids) == 12 for a in answers if not a.finished)


def test_messages_go_through_the_chat_template(make_model, tokenizer):
    [answer] = generate(make_model(), tokenizer, [[{"role": "user", "content": "the cat"}]], Draw(max_new_tokens=3))
    assert answer.prompt_ids == tuple(tokenizer.convert_tokens_to_ids(["the", "cat"]))


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_is_shown_at_once_on_a_terminal_and_seldom_elsewhere(monkeypatch, capsys, on_terminal):
    monkeypatch.setattr("rlhf_recipes.training.progress.terminal", lambda: on_terminal)
    batches = [[1, 2], [3, 4], [5]]
    assert list(track(batches, 5, "answers")) == batches
    assert ("answers" in capsys.readouterr().err) == on_terminal


def test_a_prompt_that_leaves_no_room_is_named(make_model, tokenizer):
    with pytest.raises(UserError, match=r"8 tokens and may be answered with 42, but the model reads 48"):
        generate(make_model(), tokenizer, PROMPTS, Draw(max_new_tokens=42))
