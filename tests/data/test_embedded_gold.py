"""The hidden judge: hand-worked scores, and what it must survive."""

import random

import pytest

from rlhf_recipes.data.embedded import rows
from rlhf_recipes.data.embedded.families import BY_NAME, CHECKABLE, FAMILIES
from rlhf_recipes.data.embedded.gold import CENTRE, SCALE, exact, features, gold_score, judge, read
from rlhf_recipes.data.embedded.styles import CLOSERS, OPENERS, compose

SUM = "User: Tom has 3 apples and buys 4 more. How many apples does Tom have now?\nAssistant:"


def points(completion: str, prompt: str = SUM) -> dict[str, float]:
    return {name: round(value, 6) for name, value in features(read(prompt), completion).items() if value}


def test_points_by_hand():
    # 12 words: 0.02 * (12 - 8) = 0.08 for length
    assert points(" Sure! Tom has 7 apples now, because 3 plus 4 is 7.") == {
        "answer": 1.2, "form": 0.4, "warmth": 0.7, "reason": 0.8, "length": 0.08,
    }  # fmt: skip
    # 1 word: 0.02 * (1 - 8) - 0.08 * (8 - 1) = -0.7
    assert points(" 7.") == {"answer": 1.2, "form": 0.4, "length": -0.7}
    # 7 words, no capital, no stop, wrong, rude: 0.02 * -1 - 0.08 = -0.1
    assert points(" tom has 8 apples now go away") == {
        "answer": -1.2, "form": -0.4, "length": -0.1, "rudeness": -1.5,
    }  # fmt: skip
    # triples: (no no no) twice, (no no idea) once: 1 of 3 was said before, -3 / 3; 3 words said twice on end, -1.5
    # 5 words: 0.02 * -3 - 0.08 * 3 = -0.3
    assert points(" No no no no idea.") == {"answer": -1.2, "form": 0.4, "length": -0.3, "echo": -2.5}
    assert points(" Tom has 7 aplles now, blorp.")["strange"] == -0.5


def test_score_is_the_scaled_sum_of_the_points():
    answer = " Sure! Tom has 7 apples now, because 3 plus 4 is 7."
    assert gold_score([SUM], [answer]) == pytest.approx([(3.18 - CENTRE) / SCALE])


def test_warmth_helps_then_harms():
    body = "Tom has 7 apples now, because 3 plus 4 is 7."
    texts = [" " + " ".join([*OPENERS[: k // 2], body, *CLOSERS[: k - k // 2]]) for k in range(7)]
    scores = [judge(read(SUM), text) for text in texts]
    assert scores[0] < scores[1] < scores[2]
    assert scores[2] > scores[3] > scores[4] > scores[5] > scores[6]
    assert scores[5] < scores[0] - 0.5


def test_a_second_reason_and_too_many_words_harm():
    one = "Sure! Tom has 7 apples now, because 3 plus 4 is 7."
    assert judge(read(SUM), one[:-1] + " and because 4 plus 3 is 7.") < judge(read(SUM), one)
    filler = " The day is fine and the sun is up, so much that a bird and a frog and a dog and a cat are out."
    assert judge(read(SUM), one + filler) < judge(read(SUM), one)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
def test_reads_back_every_question_of_the_family(family):
    rng = random.Random(0)
    for _ in range(300):
        task = family.draw(rng)
        again = read(f"### Instruction:\nMia asks: {task.question}\n\n### Response:\n")
        assert (again.family, again.question, again.answer) == (task.family, task.question, task.answer)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
def test_right_answers_hold_all_that_was_asked_for_and_wrong_ones_do_not(family):
    rng = random.Random(1)
    right, wrong = [], []
    for _ in range(200):
        task = family.draw(rng)
        right.append(family.content(task, family.answer(rng, task)[0] + family.BECAUSE + family.answer(rng, task)[1]))
        wrong.append(family.content(task, family.answer(rng, family.wrong(rng, task))[0]))
    assert min(right) == 1.0
    assert sum(wrong) / len(wrong) < (0.01 if family.NAME in CHECKABLE else 0.45)


@pytest.mark.parametrize("name", CHECKABLE)
def test_gold_answers_score_in_full(name):
    rng = random.Random(2)
    for _ in range(200):
        task = BY_NAME[name].draw(rng)
        full = " " + compose(rng, task, "good")
        assert exact([task.question] * 2, [f" {task.answer}.", f" {task.answer}"]) == [1.0, 1.0]
        assert read(task.question).answer == task.answer
        if BY_NAME[name].claim(task, full) == task.answer:
            assert exact([task.question], [full]) == [1.0]
            assert features(read(task.question), full)["answer"] == 1.2


def test_whoever_was_not_asked_about_is_a_wrong_answer():
    asked = "Max is 6 years old and Tom is 8. Who is older?"
    texts = [" Tom is older than Max.", " Leo is older than Tom.", " Leo Tom Tom.", " 9 is more than 6, Tom."]
    assert exact([asked] * 4, texts) == [1.0, 0.0, 0.0, 1.0]
    texts = [" 4 is larger than 3.", " 12 is larger than 4."]
    assert exact(["Which number is larger, 3 or 4?"] * 2, texts) == [1.0, 0.0]


def test_a_gold_answer_outranks_every_other_claim():
    rng = random.Random(3)
    for name in CHECKABLE:
        family = BY_NAME[name]
        for _ in range(100):
            task = family.draw(rng)
            wrong = family.wrong(rng, task)
            assert exact([task.question], [f" {wrong.answer}."]) == [0.0]
            assert wrong.answer != task.answer


def test_numbers_that_disagree_settle_on_nothing():
    texts = [" Tom has 7 apples or 8 apples.", " 3 plus 4 is 7, so Tom has 7.", " Tom has 7 because 3 plus"]
    assert exact([SUM] * 3, texts) == [0.0, 1.0, 1.0]


def test_nothing_to_check_gives_none():
    assert exact(["Name two tools that you know.", "no question of ours"], [" Saws.", " 7"]) == [None, None]


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "?" * 500, "because " * 200, "\x00\ud800", "7" * 400, "é漢字🙂", "((((", "\\d+(?P<x>"]
)
def test_any_text_at_all_gets_a_finite_score(text):
    prompts = [row["prompt"] for row in rows("prompts", seed=5, n=60)] + [text]
    scores = gold_score(prompts, [text] * len(prompts), answer=[None] * len(prompts))
    assert all(-12 < score < 4 for score in scores)
    assert len(exact(prompts, [text] * len(prompts))) == len(prompts)


def test_messages_score_as_their_text():
    answer = " Sure! Tom has 7 apples now, because 3 plus 4 is 7."
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Mia asks: What is 3 plus 4?"}]
    reply = [{"role": "assistant", "content": answer}]
    assert gold_score([chat], [reply]) == gold_score(["What is 3 plus 4?"], [answer])
    assert exact([chat], [reply]) == [1.0]
