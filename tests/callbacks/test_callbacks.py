import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from rlhf_recipes.errors import UserError
from rlhf_recipes.training.kl import AdaptiveKL
from rlhf_recipes.training.kl_control import KLControl, KLRunaway
from rlhf_recipes.training.progress import PlainProgress
from rlhf_recipes.training.samples import SamplesFile, SamplesTable
from rlhf_recipes.training.stop import GracefulStop
from rlhf_recipes.training.updates import PracticeWarnings, UpdateSummary, steps_an_update


def line(kl=6.0, episode=64, **more):
    return {"objective/kl": kl, "episode": episode, "objective/rlhf_reward": 0.0} | more


def ppo_args(**more):
    return SimpleNamespace(kl_coef=9.0, num_ppo_epochs=2, num_mini_batches=1, **more)


def test_kl_control_sets_beta_and_counts_episodes():
    args, control = ppo_args(), KLControl(AdaptiveKL(kl_coef=0.1, target=6, horizon=1000))
    control.on_train_begin(args, TrainerState(), None)
    assert args.kl_coef == 0.1
    control.on_update(args, TrainerState(), None, metrics=line(kl=12.0, episode=50))
    assert args.kl_coef == pytest.approx(0.1 * (1 + 0.2 * 50 / 1000))
    control.on_update(args, TrainerState(), None, metrics=line(kl=6.0, episode=100))
    assert args.kl_coef == pytest.approx(0.1 * (1 + 0.2 * 50 / 1000))
    control.on_update(args, TrainerState(), None, metrics={"objective/kl": None, "episode": 150})
    assert control.episodes == 100, "an update without a KL counts with the next one"


def test_beta_survives_in_the_trainer_state():
    args, control = ppo_args(), KLControl(AdaptiveKL(kl_coef=0.1, target=6))
    control.on_update(args, TrainerState(), None, metrics=line(kl=99.0, episode=640))
    state = TrainerState(stateful_callbacks=[control])
    state.global_step = 7
    fresh = KLControl(AdaptiveKL(kl_coef=0.1, target=6))
    fresh.on_train_begin(args, state, None)
    assert fresh.controller.kl_coef == control.controller.kl_coef == args.kl_coef
    assert fresh.episodes == 640


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"num_ppo_epochs": 2, "num_mini_batches": 3}, 6),
        ({"num_iterations": 2, "steps_per_generation": 4, "gradient_accumulation_steps": 2}, 4),
        ({"num_iterations": 1, "steps_per_generation": 1, "gradient_accumulation_steps": 4}, 1),
        ({}, 1),
    ],
)
def test_an_update_is_a_rollout_learned_from(settings, steps):
    assert steps_an_update(SimpleNamespace(**settings)) == steps


def test_a_summary_is_made_of_updates_and_outlives_a_kill():
    control = AdaptiveKL(kl_coef=0.1)
    before, state = UpdateSummary(control), TrainerState()
    before.on_train_begin(None, state, None)
    for episode, score in ((8, None), (16, 0.25), (24, 0.5)):
        before.on_update(None, state, None, metrics={"reward": score, "kl": 0.1, "episode": episode})
    resumed = UpdateSummary(control)
    state = TrainerState(global_step=3)
    state.stateful_callbacks = {"UpdateSummary": json.loads(json.dumps(before.state()))}
    resumed.on_train_begin(None, state, None)
    assert resumed.metrics()["score_last"] == 0.5
    resumed.began -= 2
    resumed.on_update(None, state, None, metrics={"reward": None, "kl": 0.2, "entropy": 1.5, "episode": 32})
    resumed.on_train_end(None, state, None)
    figures = resumed.metrics()
    assert figures.pop("episodes_per_second") == pytest.approx(8 / 2, rel=0.01), "what was played before does not count"
    assert figures == {
        "score_first": 0.25,
        "score_last": 0.5,
        "kl_last": 0.2,
        "kl_coef_last": 0.1,
        "entropy_last": 1.5,
        "episodes": 32,
    }


class FakeTrainer:
    """Writes what it would save: the number of the rollout."""

    rollout = 0

    def save_model(self, place, _internal_call):
        folder = Path(place)
        folder.mkdir()
        (folder / "weights").write_text(str(self.rollout))


def play(runaway, args, state, *pairs):
    """Rollouts of (kl, rlhf_reward), each the first of an update of two steps; returns whether it stopped."""
    control, trainer = TrainerControl(), FakeTrainer()
    for kl, reward in pairs:
        trainer.rollout += 1
        metrics = {"objective/kl": kl, "objective/rlhf_reward": reward}
        runaway.on_rollout(args, state, control, metrics=metrics, trainer=trainer)
        state.global_step += 1
        runaway.on_step_end(args, state, control)
        assert not control.should_training_stop, "only at an update's end"
        state.global_step += 1
        runaway.on_step_end(args, state, control)
    return control.should_training_stop


def test_runaway_stops_and_keeps_the_best(tmp_path):
    runaway, args = KLRunaway(max_kl=10, patience=2), ppo_args(output_dir=str(tmp_path))
    assert not play(runaway, args, TrainerState(), (1, 0.5), (2, 0.4), (11, 9.0), (9, 0.6), (12, 9.0))
    assert (tmp_path / "best" / "weights").read_text() == "4"
    assert play(runaway, args, TrainerState(), (float("nan"), 9.0))
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    with pytest.raises(UserError):
        KLRunaway(0)


def test_a_resumed_run_knows_the_best_and_how_long_the_kl_was_above(tmp_path):
    args, state = ppo_args(output_dir=str(tmp_path)), TrainerState()
    before = KLRunaway(max_kl=10, patience=2)
    play(before, args, state, (1, 0.5), (12, 0.9))
    state.stateful_callbacks = TrainerState(stateful_callbacks=[before]).stateful_callbacks
    fresh = KLRunaway(max_kl=10, patience=2)
    fresh.on_train_begin(args, state, TrainerControl())
    assert fresh.above == 1
    play(fresh, args, state, (2, 0.4))
    assert (tmp_path / "best" / "weights").read_text() == "1" and fresh.kept == before.kept
    fresh.on_train_begin(args, TrainerState(), TrainerControl())
    assert not list(tmp_path.iterdir()), "a run that begins anew has kept nothing"


def test_a_signal_saves_and_stops_at_the_end_of_an_update():
    stop, control, state = GracefulStop(), TrainerControl(), TrainerState()
    before = signal.getsignal(signal.SIGTERM)
    stop.on_train_begin(ppo_args(), state, control)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        state.global_step = 3
        stop.on_step_end(ppo_args(), state, control)
        assert not control.should_save, "the update has two steps: the third is in its middle"
        state.global_step = 4
        stop.on_step_end(ppo_args(), state, control)
        assert control.should_save and control.should_training_stop and stop.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.on_train_end(ppo_args(), state, control)
    assert signal.getsignal(signal.SIGTERM) is before


def test_samples_file_forgets_what_will_be_played_again(tmp_path):
    file = SamplesFile(tmp_path / "samples.jsonl")
    state = TrainerState()
    for step in (4, 8):
        file.on_samples(None, state, None, samples=[{"step": step, "prompt": "é", "completion": "b", "score": 1.0}])
    file.path.write_text(file.path.read_text() + '{"step": 12, "pro')
    state.global_step = 4
    file.on_train_begin(None, state, None)
    rows = [json.loads(row) for row in file.path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [4] and rows[0]["prompt"] == "é"


def test_tables_reach_the_screen(capsys):
    table = SamplesTable(rows=1, tokens=True)
    rows = [{"step": 1, "prompt": "a", "completion": [{"role": "assistant", "content": "[b]"}], "score": 0.5}] * 3
    table.on_samples(SimpleNamespace(report_to=[]), TrainerState(), None, samples=rows)
    table.on_experience(None, TrainerState(), None, tokens=[{"token": "x", "kl": 0.25}])
    out = capsys.readouterr().out
    assert out.count("assistant") == 1 and "[b]" in out and "0.25" in out


def test_answers_are_read_in_80_columns_and_rows_need_not_have_the_same_figures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    figures = {"score": 0.5, "kl": 1.25, "length": 12.0, "eos_rate": 1.0, "reward/gold": 0.25}
    rows = [{"step": 2, "prompt": "How many apples?", "completion": "Ann has five apples. " * 4} | figures]
    rows += [{"prompt": "b", "completion": "c", "score": 0.25, "accuracy": 1.0}]
    SamplesTable().on_samples(SimpleNamespace(report_to=[]), TrainerState(), None, samples=rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("prompt: How many apples?") and "completion: Ann has" in line for line in lines)
    assert [line.rstrip() for line in lines if line.startswith("score")] == [
        "score 0.5 · kl 1.25 · length 12 · eos_rate 1 · reward/gold 0.25",
        "score 0.25 · accuracy 1",
    ]


def test_a_log_without_figures_prints_no_line(capsys):
    progress, state = PlainProgress(), TrainerState(global_step=5, max_steps=10)
    progress.on_train_begin(None, TrainerState(max_steps=10), None)
    progress.on_log(None, state, None, logs={"epoch": 1.0})
    assert capsys.readouterr().err == ""
    progress.on_log(None, state, None, logs={"loss": 0.5})
    assert capsys.readouterr().err.endswith("s left · loss 0.5\n")


@pytest.mark.parametrize(
    ("later", "word"),
    [
        ({"objective/kl": -1.0}, "negative"),
        ({"val/explained_variance": -0.5}, "explained variance"),
        ({"policy/clipfrac_avg": 0.9}, "clipped"),
        ({"policy/entropy_avg": 0.05}, "collapsing"),
        ({"objective/scores": 2.0, "reward/gold": 0.1}, "over-optimised"),
        ({"objective/scores": 2.0, "completions/mean_length": 40.0}, "length"),
    ],
)
def test_each_sign_is_told_once(caplog, later, word):
    start = {
        "objective/kl": 1.0,
        "val/explained_variance": 0.5,
        "policy/clipfrac_avg": 0.1,
        "policy/entropy_avg": 1.0,
        "objective/scores": 1.0,
        "reward/gold": 1.0,
        "completions/mean_length": 20.0,
    }
    watch = PracticeWarnings(window=3, gold="reward/gold")
    with caplog.at_level(logging.WARNING):
        for logs in [start] * 4 + [start | later] * 5:
            watch.on_update(None, TrainerState(), None, metrics=logs)
    assert len(caplog.records) == 1 and word in caplog.text


def test_signs_are_of_means_and_outlive_a_kill(caplog):
    """One noisy line is no rise; a resumed run measures from its own beginning and does not repeat itself."""
    rows = [{"objective/kl": 1.0, "objective/scores": s, "reward/gold": g} for s, g in [(1, 1), (2, 0), (0, 2)] * 2]
    watch = PracticeWarnings(window=3, gold="reward/gold")
    for logs in rows:
        watch.on_update(None, TrainerState(), None, metrics=logs)
    assert not caplog.records
    hacked = {"objective/kl": 1.0, "objective/scores": 3.0, "reward/gold": 0.0}
    resumed = PracticeWarnings(window=3, gold="reward/gold")
    saved = json.loads(json.dumps(watch.state()))
    state = TrainerState(global_step=6)
    state.stateful_callbacks = {"PracticeWarnings": saved}
    resumed.on_train_begin(None, state, None)
    resumed.on_update(None, state, None, metrics=hacked)
    assert "over-optimised" in caplog.text, "against the first lines, not those after the kill"
    state.stateful_callbacks = {"PracticeWarnings": json.loads(json.dumps(resumed.state()))}
    again = PracticeWarnings(window=3, gold="reward/gold")
    again.on_train_begin(None, state, None)
    again.on_update(None, state, None, metrics=hacked)
    assert caplog.text.count("over-optimised") == 1
