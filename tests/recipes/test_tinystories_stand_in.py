"""tinystories_sentiment on a random model and made-up stories; tests/stages has it on the real ones, where they are."""

import json

import pytest
from recipe_checks import CHECKS
from recipe_house import SHRINK, composed, rows, stages_of, summary
from stand_ins import make_model

from rlhf_recipes import stages
from rlhf_recipes.rewards.lexicon import sentiment

MOODS = ("happy", "sad", "good", "bad", "kind", "angry")
LEXICON = "".join(f"{word}\t{(1, -1)[i % 2] * 2.5}\t0.5\t[2, 3]\n" for i, word in enumerate(MOODS))


def story(i: int) -> dict:
    told = " ".join(f"Then a {MOODS[(i + k) % 6]} dog met a {MOODS[(i + 2 * k + 1) % 6]} cat." for k in range(6))
    return {"text": f"Once there was a dog number {i}. {told} The end."}


@pytest.fixture(scope="module")
def told(libraries, tmp_path_factory):
    """(root, {stage: metrics}) of all five stages, in the Makefile's order."""
    root = tmp_path_factory.mktemp("stories")
    stories = [story(i) for i in range(60)]
    (root / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories))
    (root / "lexicon.txt").write_text(LEXICON)
    model = make_model("qwen0.5b-instruct", root / "model", [row["text"] for row in stories], [])
    metrics = {}
    for stage in stages_of("tinystories_sentiment"):
        given = [f"model.path={model}", f"data.demos.path={root}/stories.jsonl", f"run.root={root}/runs"]
        given += ["data.demos.options.tokens=12", "data.eval_fraction=0.2", "data.max_eval=8"]
        given += ["evaluate.ppl_rows=4", "evaluate.corpus_rows=0"] if stage == "evaluate" else []
        given += [f"data.gold.kwargs.lexicon={root}/lexicon.txt"] if stage not in ("sft", "reward") else []
        metrics[stage] = stages.run(composed("tinystories_sentiment", stage, *given, *SHRINK[stage]))
    return root / "runs", metrics


def test_every_stage_runs_and_the_lexicon_ranks_and_watches(told):
    root, metrics = told
    for stage, figures in metrics.items():
        CHECKS[stage](figures)
    pairs = rows(root / "default" / "collect" / "preferences.jsonl")
    words = str(root.parent / "lexicon.txt")
    for pair in pairs:
        chosen, rejected = sentiment([""] * 2, [pair["chosen"], pair["rejected"]], lexicon=words)
        assert chosen > rejected
    assert any("collect/preferences.jsonl" in name for name in summary(root, "reward")["inputs"])
    assert {"base", "sft", "ppo"} == set(metrics["evaluate"]["models"])
    logged = rows(root / "default" / "ppo" / "metrics.jsonl")
    assert any("reward/gold" in row and "reward/learned" in row for row in logged)
