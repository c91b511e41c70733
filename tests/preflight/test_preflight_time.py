"""How long it will take: one line, after three steps or rollouts, the first not counted."""

from types import SimpleNamespace

import pytest

from rlhf_recipes.training import progress
from rlhf_recipes.training.progress import TimeEstimate, duration
from rlhf_recipes.training.updates import steps_an_update


def lines(args, steps: int, seconds: list[float], monkeypatch, capsys) -> list[str]:
    """What is said in a run of `steps` steps that take so many seconds each."""
    clock, callback = [0.0], TimeEstimate()
    monkeypatch.setattr(progress.time, "time", lambda: clock[0])
    state = SimpleNamespace(global_step=0, max_steps=steps, is_world_process_zero=True)
    callback.on_train_begin(args, state, None)
    for length in seconds:
        clock[0] += length
        state.global_step += 1
        callback.on_step_end(args, state, None)
    return [line for line in capsys.readouterr().err.splitlines() if "time:" in line]


def test_steps_are_timed_without_the_first(monkeypatch, capsys):
    found = lines(SimpleNamespace(), 1004, [60.0, 2, 2, 2, 9, 9], monkeypatch, capsys)
    assert found == ["  time: 2 s for one step, 1000 steps left: about 33 min"]


def test_ppo_is_timed_in_whole_updates(monkeypatch, capsys):
    args = SimpleNamespace(num_ppo_epochs=2, num_mini_batches=1)
    found = lines(args, 100, [50.0, 1] + [9.0, 1] * 3 + [9.0], monkeypatch, capsys)
    assert found == ["  time: 10 s for one update, 46 updates left: about 8 min"]


def test_a_run_of_a_few_steps_is_over_before_it_is_told(monkeypatch, capsys):
    assert lines(SimpleNamespace(), 4, [1.0] * 4, monkeypatch, capsys) == []


def test_grpo_learns_several_times_from_one_rollout():
    args = SimpleNamespace(steps_per_generation=8, num_iterations=2, gradient_accumulation_steps=4)
    assert steps_an_update(args) == 4


@pytest.mark.parametrize("seconds, said", [(42, "42 s"), (754, "13 min"), (9000, "2 h 30 min")])
def test_durations_for_a_person(seconds, said):
    assert duration(seconds) == said
