"""How often held-out prompts are answered for the table, and where the table goes."""

import sys
from types import SimpleNamespace

import pytest
from tiny_world import make_prompts
from transformers import TrainerCallback

from rlhf_recipes.callbacks import SamplesTable
from rlhf_recipes.errors import UserError


class Count(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_samples(self, args, state, control, samples=()):
        self.steps.append(state.global_step)


@pytest.mark.parametrize(
    ("given", "updates"),
    [({"sample_every": 3}, [1, 4]), ({"num_sample_generations": 2}, [1, 4]), ({"num_sample_generations": 0}, [])],
)
def test_a_table_comes_every_so_many_updates(make, given, updates):
    count = Count()
    held_out = {"eval_dataset": make_prompts().select(range(2)), "callbacks": [count]}
    make(trainer=held_out, total_episodes=48, num_ppo_epochs=1, **given).train()
    assert count.steps == updates


def test_every_zero_updates_is_refused(make):
    with pytest.raises(UserError, match="sample_every"):
        make(sample_every=0)


def test_without_rows_on_the_screen_wandb_still_has_all(monkeypatch, capsys):
    logged = []
    fake = SimpleNamespace(run=object(), log=logged.append, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    args = SimpleNamespace(report_to=["wandb"])
    state = SimpleNamespace(is_world_process_zero=True, global_step=4)
    SamplesTable(rows=0).on_samples(args, state, None, samples=[{"step": 4, "prompt": "a", "score": 0.5}] * 3)
    assert capsys.readouterr().out == ""
    assert logged == [{"completions": (["prompt", "score"], [["a", 0.5]] * 3)}]
