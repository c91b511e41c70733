"""Beta and summary.json are made from updates: how often a line is logged changes neither."""

import json
import shutil

import pytest
from tiny_policy import LENGTH, run_stage, save_policy

STAGES = ("ppo", "grpo", "rloo")
KL = ("kl.target=1e-3", "kl.horizon=40")  # 8 answers an update move beta by up to 4 %
LOGGING = ("trainer.logging_steps=10", "trainer.logging_strategy=no", "trainer.logging_strategy=epoch")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module", params=STAGES)
def runs(request, policy, tmp_path_factory):
    """runs(name, *overrides) -> (metrics, beta after each update), and the figures of a run that logs every step."""
    from rlhf_recipes.training.kl_control import KLControl

    root, betas = tmp_path_factory.mktemp(request.param), []

    def run(name, *overrides):
        betas.clear()
        places = (f"run.root={root}", f"run.name={name}", f"inputs.policy={policy}", "trainer.eval_strategy=no")
        metrics = run_stage(request.param, *places, "trainer.logging_steps=1", *LENGTH, *KL, *overrides)
        metrics = {k: v for k, v in metrics.items() if k != "episodes_per_second" and not k.startswith("eval_")}
        return metrics, list(betas)

    set_beta = KLControl._set
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KLControl, "_set", staticmethod(lambda args, beta: betas.append(beta) or set_beta(args, beta)))
        run.folder = root
        run.stage = request.param
        run.every = run("every")
        yield run


@pytest.mark.parametrize("logging", LOGGING)
def test_logging_changes_neither_beta_nor_the_summary(runs, logging):
    metrics, betas = runs.every
    assert len(set(betas)) == 1 + 4, "the run's four updates moved it"
    assert None not in metrics.values() and metrics["episodes"] == 32
    assert runs(logging.rpartition("=")[2], logging) == runs.every


def test_a_resumed_run_that_hardly_logs_moves_beta_as_one_that_was_never_stopped(runs):
    metrics, betas = runs.every
    given = ("trainer.logging_steps=10", "trainer.save_total_limit=10")
    runs("resumed", *given)
    folder = runs.folder / "resumed" / runs.stage
    steps = [int(place.name.rpartition("-")[2]) for place in (folder / "checkpoints").glob("checkpoint-*")]
    for place in ("model", f"checkpoints/checkpoint-{max(steps)}"):
        shutil.rmtree(folder / place)
    (folder / "summary.json").unlink()
    again, moved = runs("resumed", *given)
    assert moved == betas[-len(moved) :] and 1 < len(moved) < len(betas)
    assert again == pytest.approx(metrics)
    assert json.loads((folder / "summary.json").read_text())["metrics"]["episodes"] == 32


@pytest.mark.parametrize(
    ("overrides", "updates", "episodes"),
    [
        (["trainer.num_iterations=2"], 2, 16),  # 4 steps, two on the same 8 answers
        (["trainer.steps_per_generation=2"], 2, 32),  # 4 steps, two on the halves of 16 answers
        (["trainer.gradient_accumulation_steps=2", "trainer.steps_per_generation=1"], 4, 64),
        (["trainer.num_iterations=2", "trainer.max_steps=3"], 2, 12),  # it ends in the middle of an update
    ],
)
def test_an_update_of_groups_is_a_generation_batch_learned_from(runs, overrides, updates, episodes):
    if runs.stage == "ppo":
        pytest.skip("PPO counts its own")
    metrics, betas = runs("-".join(o.partition("=")[0].partition(".")[2] for o in overrides), *overrides)
    assert len(betas) == 1 + updates
    assert metrics["episodes"] == episodes
    assert None not in metrics.values()
