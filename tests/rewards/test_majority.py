"""The vote among several answers to one prompt."""

import pytest

from rlhf_recipes.rewards.majority import answer_of, vote


@pytest.mark.parametrize(
    ("texts", "elected"),
    [
        (["7", "It is 8.", "The answer is 8."], 1),
        (["Paris.", "London", "it is paris", "<answer>paris</answer>"], 0),
        (["a", "b"], 0),  # a draw: the one said first
        (["only"], 0),
    ],
)
def test_the_first_of_those_that_most_agree_on(texts, elected):
    assert vote(texts) == elected


def test_equal_answers_are_equal_however_they_are_written():
    assert answer_of("so 3 + 4 = 7.0") == answer_of(r"\boxed{7}")
    assert answer_of("Yes!") == answer_of("yes")
    assert answer_of("yes") != answer_of("no")
