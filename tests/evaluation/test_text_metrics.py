"""Text metrics against counts made by hand."""

import pytest

from rlhf_recipes.evaluation import text


def test_distinct_counts_over_the_whole_set():
    assert text.distinct(["a b", "a b"], 1) == 2 / 4
    assert text.distinct(["a b", "a b"], 2) == 1 / 2
    assert text.distinct(["a b c d"], 2) == 1.0
    assert text.distinct(["", "one"], 2) == 0.0


def test_self_similarity_ends():
    assert text.self_similarity(["the same words", "the same words"]) == 1.0
    assert text.self_similarity(["one two three", "four five six"]) == 0.0
    assert text.self_similarity(["alone here"]) == 0.0


def test_self_similarity_of_a_draw_is_near_that_of_all_pairs():
    texts = [f"item {i % 7} of group {i % 3} is here" for i in range(60)]
    assert text.self_similarity(texts, max_pairs=800) == pytest.approx(text.self_similarity(texts), abs=0.03)


def test_repetition_ends():
    assert text.repetition("a b c d e f g h") == 0.0
    assert text.repetition("too short") == 0.0
    assert text.repetition("a b c d a b c d", n=4) == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
