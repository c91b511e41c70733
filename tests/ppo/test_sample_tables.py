"""How often held-out prompts are answered for the table, and where the table goes."""

import math
import sys
from types import SimpleNamespace

import pytest
from tiny_world import make_prompts
from transformers import TrainerCallback

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.jsonl import read_jsonl
from rlhf_recipes.training.samples import ComparedSamples, SamplesFile, SamplesTable


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


def test_held_out_means_leave_out_answers_without_a_number(tmp_path):
    logged, nan = [], float("nan")
    trainer = SimpleNamespace(log=logged.append, control=SimpleNamespace(should_log=False))
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    held_out = ComparedSamples(trainer, tmp_path / "samples.jsonl")

    def table(*scores):
        return [{"step": 0, "score": s, "kl": nan if math.isnan(s) else 1.0, "length": 3.0} for s in scores]

    held_out.on_samples(None, state, trainer.control, table(1.0, nan, 3.0, 2.0))
    held_out.on_samples(None, state, trainer.control, table(2.0, 5.0, 2.0, nan))
    assert logged[0] == {"eval_score": 2.0, "eval_kl": 1.0, "eval_length": 3.0, "eval_win_rate": 0.5}
    assert logged[1] == {"eval_score": 3.0, "eval_kl": 1.0, "eval_length": 3.0, "eval_win_rate": 0.5}  # one of two
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 8


def test_rows_are_read_back_whatever_the_answers_say(tmp_path):
    file = tmp_path / "samples.jsonl"
    said = ["one\u2028line", "of\x85many", "ends\u2029é"]
    SamplesFile(file).on_samples(
        None,
        SimpleNamespace(is_world_process_zero=True),
        None,
        samples=[{"step": 0, "completion": text} for text in said],
    )
    assert [row["completion"] for row in read_jsonl(file)] == said
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index("é".encode()) + 1])  # killed in the middle of a character
    assert [row["completion"] for row in read_jsonl(file)] == said[:2]
    SamplesFile(file).on_train_begin(None, SimpleNamespace(is_world_process_zero=True, global_step=1), None)
    assert [row["completion"] for row in read_jsonl(file)] == said[:2] and file.read_bytes().endswith(b"\n")
