"""Every recipe run on stand-ins for its models and data, once a session."""

import gc
from pathlib import Path

import pytest
from recipe_house import SHRINK, composed, stages_of
from stand_ins import LESSONS, REAL, ROWS, make_classifier, make_model, real_files, rows_of, write

from rlhf_recipes import stages

# With real data these two have Qwen2's and GPT-2's own tokenizers; with the others, too, it took a minute more.
REAL_TOKENIZERS = ("gsm8k", "gpt2_imdb")


@pytest.fixture(scope="session")
def libraries():
    """Imported, and out of the garbage collector's sight: each stage collects several times, half a second each."""
    import trl.experimental.ppo  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def model_at(tmp_path_factory):
    """model_at("gpt2", LESSONS) -> the folder of its stand-in, made once."""
    root = tmp_path_factory.mktemp("models")
    texts = [str(list(row.values())) for key in ROWS for row in rows_of(*key)[:4]]

    def at(name: str, lessons: dict[str, list[str]], files: bool = False, real: bool = False) -> Path:
        taught = lessons.get(name, [])
        folder = root / f"{name}{'_files' if files else ''}{'_real' if real else ''}"
        if not folder.exists():
            if name == "distilbert":
                make_classifier(folder, texts)
            else:
                make_model(name, folder, [*texts, *taught], taught, real)
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

    Stand-ins take the hub's place by `model.path` and `data.<kind>.path`, or by real files where real=True.
    """
    finished: dict = {}

    def overrides(cfg, files: dict, lessons, recipe: str = "") -> list[str]:
        given = {
            "model.path": model_at(cfg.model.name, lessons, bool(files), bool(files) and recipe in REAL_TOKENIZERS)
        } | files
        share = {"data.eval_fraction": 5 * cfg.data.get("eval_fraction", 0.05)}  # of 40 rows instead of thousands
        share["data.max_eval"] = 8
        if cfg.stage == "evaluate" and cfg.evaluate.ppl_rows:
            share["evaluate.ppl_rows"] = 4
        if "sentiment" in cfg.reward.functions:
            given["reward.functions.sentiment.kwargs.model"] = model_at("distilbert", {})
        if "execution" not in cfg.reward.functions:
            given.pop("reward.functions.execution.kwargs.database", None)
        if cfg.stage not in ("sft", "reward", "dpo"):
            given.pop("trainer.max_length", None)
        if not files:
            given |= {f"data.{k}.path": written(d, k) for d, k in ROWS if d == cfg.data.name and cfg.data.get(k)}
        return [f"{key}={value}" for key, value in (share | given).items()]

    def run(recipe: str, real: bool = False) -> tuple[Path, dict[str, dict]]:
        if (recipe, real) not in finished:
            root, metrics = tmp_path_factory.mktemp(recipe), {}
            files, lessons = real_files(recipe, root) if real else ({}, LESSONS)
            for stage in stages_of(recipe):
                cfg = composed(recipe, stage)
                given = [*overrides(cfg, files, lessons, recipe), f"run.root={root}", *SHRINK[stage]]
                if files and stage == "dpo":  # a pair of real schemas is 2000 tokens
                    given += ["trainer.per_device_train_batch_size=1", "data.max_eval=2"]
                metrics[stage] = stages.run(composed(recipe, stage, *given))
            finished[recipe, real] = root, metrics
        return finished[recipe, real]

    run.overrides = overrides
    return run


@pytest.fixture
def real():
    """Skips where no real data is at hand."""
    if not REAL:
        pytest.skip("RLHF_RECIPES_REAL_DATA is unset: no real data here")
