"""The embedded domain's rows: shape, seeds, quality, labels."""

import itertools
import statistics

import pytest

from rlhf_recipes.data.embedded import COUNTS, label_ceiling, rows
from rlhf_recipes.data.embedded.families import CHECKABLE, FAMILIES
from rlhf_recipes.data.embedded.gold import exact, gold_score, vocabulary
from rlhf_recipes.data.embedded.grammar import tokens
from rlhf_recipes.data.embedded.styles import SHARES
from rlhf_recipes.errors import UserError

COLUMNS = {
    "corpus": ["text"],
    "demos": ["prompt", "completion", "family", "quality"],
    "preferences": ["prompt", "chosen", "rejected", "margin", "gold_chosen", "gold_rejected", "family"],
    "ranked": ["prompt", "answers"],
    "prompts": ["prompt", "family", "answer"],
}


@pytest.fixture(scope="module")
def demos():
    return list(rows("demos", n=4000))


@pytest.fixture(scope="module")
def preferences():
    return list(rows("preferences", n=6000))


@pytest.mark.parametrize("kind", COUNTS)
def test_same_seed_same_rows(kind):
    first, again, other = (list(rows(kind, seed=seed, n=30)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert list(first[0]) == COLUMNS[kind]
    assert list(rows(kind, seed=3, n=10)) == first[:10]


def test_rows_do_not_depend_on_who_else_draws():
    one, two = rows("demos", n=5), rows("preferences", n=5)
    mixed = [(next(one), next(two)) for _ in range(5)]
    assert mixed == list(zip(rows("demos", n=5), rows("preferences", n=5), strict=True))


def test_counts_promised():
    assert COUNTS["demos"] >= 20_000
    assert COUNTS["preferences"] >= 10_000
    assert COUNTS["ranked"] >= 3_000
    prompts = [row["prompt"] for row in rows("prompts")]
    assert len(prompts) == len(set(prompts)) == COUNTS["prompts"] >= 5_000


def test_corpus_is_large_and_made_of_known_words():
    texts = [row["text"] for row in rows("corpus", n=500)]
    assert statistics.mean(map(len, texts)) * COUNTS["corpus"] > 3e6
    words = set(itertools.chain.from_iterable(map(tokens, texts)))
    assert {word for word in words if not word.isdigit()} - vocabulary() == {"user", "assistant"}


def test_prompt_and_completion_join_into_a_transcript(demos):
    for row in demos[:200]:
        assert row["prompt"].startswith("User: ")
        assert row["prompt"].endswith("\nAssistant:")
        assert row["completion"].startswith(" ")
        assert row["completion"].strip()


def test_vocabulary_is_small_and_complete(demos):
    assert 500 < len(vocabulary()) < 1000
    said = {word for row in demos for word in tokens(row["completion"]) if not word.isdigit()}
    assert said <= vocabulary()


def test_families_are_many_and_some_checkable(demos):
    assert len(FAMILIES) >= 6
    assert len(CHECKABLE) >= 2
    for row in rows("prompts", n=500):
        assert (row["answer"] is not None) == (row["family"] in CHECKABLE)
    assert {row["family"] for row in demos} == {family.NAME for family in FAMILIES}


def test_same_question_is_answered_in_several_ways(demos):
    prompts = [row["prompt"] for row in demos]
    assert len(set(prompts)) < 0.9 * len(prompts)


def test_quality_shows_in_gold(demos):
    scores = gold_score([row["prompt"] for row in demos], [row["completion"] for row in demos])
    assert statistics.mean(scores) == pytest.approx(0.0, abs=0.1)
    assert statistics.pstdev(scores) == pytest.approx(1.0, abs=0.1)
    by = {style: [s for s, row in zip(scores, demos, strict=True) if row["quality"] == style] for style in SHARES}
    mean = {style: statistics.mean(found) for style, found in by.items()}
    assert mean["good"] > mean["mediocre"] + 0.8
    assert mean["mediocre"] > mean["bad"] + 0.5
    assert mean["overdone"] < mean["mediocre"]
    for style, share in SHARES.items():
        assert len(by[style]) / len(demos) == pytest.approx(share, abs=0.03)


def test_demonstrations_are_right_now_and_then(demos):
    marks = exact([row["prompt"] for row in demos], [row["completion"] for row in demos])
    assert 0.45 < statistics.mean(mark for mark in marks if mark is not None) < 0.7


def test_about_one_label_in_ten_goes_against_gold(preferences):
    against = statistics.mean(row["gold_chosen"] < row["gold_rejected"] for row in preferences)
    assert 0.08 <= against <= 0.12
    assert label_ceiling(preferences) == pytest.approx(0.90, abs=0.02)
    assert all(row["chosen"] != row["rejected"] for row in preferences)


def test_noise_falls_on_close_pairs(preferences):
    def against(low: float, high: float) -> float:
        gaps = [row["gold_chosen"] - row["gold_rejected"] for row in preferences]
        return statistics.mean(gap < 0 for gap in gaps if low <= abs(gap) < high)

    assert 0.3 < against(0.0, 0.2) < 0.5
    assert against(2.0, 9.0) < 0.03


def test_margin_says_how_far_apart_the_answers_are(preferences):
    assert {row["margin"] for row in preferences} == {0.0, 1 / 3, 2 / 3, 1.0}
    close = [row for row in preferences if row["margin"] == 0.0]
    assert 0.05 < len(close) / len(preferences) < 0.35
    assert max(abs(row["gold_chosen"] - row["gold_rejected"]) for row in close) < 0.3


def test_rankings_are_best_first():
    means = [[], [], [], []]
    for row in rows("ranked", n=500):
        assert len(set(row["answers"])) == 4
        for place, score in zip(means, gold_score([row["prompt"]] * 4, row["answers"]), strict=True):
            place.append(score)
    first, second, third, last = map(statistics.mean, means)
    assert first > second + 0.3 > third + 0.6 > last + 0.9


def test_no_rows_are_no_rows():
    assert list(rows("demos", n=0)) == []


@pytest.mark.parametrize("kind, n, says", [("demo", None, "no kind 'demo'"), ("demos", -1, "n=-1")])
def test_bad_requests_are_told_in_one_line(kind, n, says):
    with pytest.raises(UserError, match=says):
        rows(kind, n=n)
