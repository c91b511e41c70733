"""Every recipe run on stand-ins for its models and data, once a session."""

import gc
from pathlib import Path

import pytest
from recipe_house import SHRINK, composed, stages_of
from stand_ins import LESSONS, REAL, ROWS, make_classifier, make_model, rows_of, write

from rlhf_recipes import stages


@pytest.fixture(scope="session")
def libraries():
    """Imported, and out of the garbage collector's sight: each stage collects several times, half a second each."""
    import trl.trainer.grpo_trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def model_at(tmp_path_factory):
    """model_at("gpt2") -> the folder of its stand-in, made once."""
    root = tmp_path_factory.mktemp("models")
    texts = [str(list(row.values())) for key in ROWS for row in rows_of(*key)[:4]]

    def at(name: str) -> Path:
        taught = LESSONS.get(name, [])
        folder = root / name
        if not folder.exists():
            if name == "distilbert":
                make_classifier(folder, texts)
            else:
                make_model(name, folder, [*texts, *taught], taught)
        return folder

    return at


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """written("imdb", "demos") -> a file of forty rows in that set's schema."""
    root = tmp_path_factory.mktemp("data")
    return lambda data, kind: write(rows_of(data, kind), root / f"{data}_{kind}.jsonl")


@pytest.fixture(scope="session")
def made(libraries, model_at, written, tmp_path_factory):
    """made("gsm8k") -> (root, {stage: its metrics}): every stage of the recipe run, in the Makefile's order.

    Stand-ins take the hub's place by `model.path` and `data.<kind>.path`.
    """
    finished: dict = {}

    def overrides(cfg) -> list[str]:
        given = {"model.path": model_at(cfg.model.name), "data.max_eval": 8}
        given["data.eval_fraction"] = 5 * cfg.data.get("eval_fraction", 0.05)  # of 40 rows instead of thousands
        if cfg.stage == "evaluate" and cfg.evaluate.ppl_rows:
            given["evaluate.ppl_rows"] = 4
        if "sentiment" in cfg.reward.functions:
            given["reward.functions.sentiment.kwargs.model"] = model_at("distilbert")
        given |= {f"data.{k}.path": written(d, k) for d, k in ROWS if d == cfg.data.name and cfg.data.get(k)}
        return [f"{key}={value}" for key, value in given.items()]

    def run(recipe: str) -> tuple[Path, dict[str, dict]]:
        if recipe not in finished:
            root, metrics = tmp_path_factory.mktemp(recipe), {}
            for stage in stages_of(recipe):
                given = overrides(composed(recipe, stage))
                metrics[stage] = stages.run(composed(recipe, stage, *given, f"run.root={root}", *SHRINK[stage]))
            finished[recipe] = root, metrics
        return finished[recipe]

    run.overrides = overrides
    return run


@pytest.fixture
def real():
    """Skips where no real data is at hand."""
    if not REAL:
        pytest.skip("RLHF_RECIPES_REAL_DATA is unset: no real data here")
