"""A run that was killed and resumed ends as one left alone, to the bit."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_world import history, make_trainer

from rlhf_recipes.ppo import checkpoint
from rlhf_recipes.runs import checkpoints
from rlhf_recipes.training.kl import AdaptiveKL
from rlhf_recipes.training.kl_control import KLControl
from rlhf_recipes.training.stop import GracefulStop

RUN = {
    "total_episodes": 48,
    "num_mini_batches": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "reward_normalize": "running",
    "sync_ref_model": True,
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 2,
}
TIMED = ("time/", "tokens_per_second", "eps", "train_")


class Counting:
    """A reward function with statistics of its own, as a running normalisation has."""

    def __init__(self):
        self.seen = 0

    def __call__(self, prompts, completions, **columns):
        self.seen += len(prompts)
        return [len(c) / self.seen for c in completions]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def build(make, target=0.01, **config):
    beta = KLControl(AdaptiveKL(kl_coef=0.1, target=target, horizon=100))
    return make(reward={"length": Counting()}, trainer={"callbacks": [beta]}, **RUN | config)


def outcome(trainer):
    """All weights, and the log without what a clock says."""
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in trainer.state.log_history]
    return [p.detach().clone() for p in trainer.actor_critic.parameters()], [r for r in rows if "episode" in r]


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1] == other[1]


@contextmanager
def counted(call):
    """`call` at each call of a function and each return, Python's or C's, within this block."""
    sys.setprofile(lambda frame, event, argument: call())
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is left alone: its folder, its outcome, and how many calls and returns it took."""
    folder, calls = tmp_path_factory.mktemp("whole"), []
    trainer = build(make_trainer, output_dir=folder)
    with counted(lambda: calls.append(1)):
        trainer.train()
    return folder, outcome(trainer), len(calls)


def test_resumed_from_any_checkpoint_it_ends_the_same(whole, make, tmp_path):
    folder, want, _ = whole
    assert len(want[1]) == 6 and len({row["objective/kl_coef"] for row in want[1]}) == 6, "beta must move to be tested"
    for update in (1, 4, 5):
        trainer = build(make, output_dir=str(tmp_path / "resumed"))
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{update * 4}"))
        assert_same(outcome(trainer), want)


def test_what_no_line_has_told_yet_is_carried_over(make, tmp_path):
    """Two updates a log line, a checkpoint between them; beta follows the mean KL of the line's updates."""
    config = {"logging_steps": 2, "total_episodes": 32, "target": 0.2, "learning_rate": 0.01}
    alone = build(make, output_dir=str(tmp_path / "alone"), **config)
    alone.train()
    want = outcome(alone)
    betas = [row["objective/kl_coef"] for row in want[1]]
    assert len(betas) == 2 and betas[1] not in (betas[0], 0.1), betas
    for update in (1, 3):
        resumed = build(make, output_dir=str(tmp_path / "resumed"), **config)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"alone/checkpoint-{update * 4}"))
        assert_same(outcome(resumed), want)


def test_lora_with_dropout_and_a_shared_backbone_resume_too(make, tmp_path):
    from peft import LoraConfig

    def trainer(folder):
        lora = LoraConfig(r=2, lora_dropout=0.5, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
        torch.manual_seed(5)  # the adapter starts from random numbers
        more = {"peft_config": lora, "value_model": None}
        return make(trainer=more, **RUN | {"sync_ref_model": False, "output_dir": str(tmp_path / folder)})

    whole = trainer("alone")
    whole.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "alone/checkpoint-12"))
    assert_same(outcome(resumed), outcome(whole))


def test_a_torn_checkpoint_is_passed_over(whole, make, tmp_path, caplog):
    folder = shutil.copytree(whole[0], tmp_path / "torn")
    for torn, name in ((24, "optimizer.pt"), (20, "critic.safetensors")):
        file = folder / f"checkpoint-{torn}" / name
        file.write_bytes(file.read_bytes()[:100])
    (folder / "checkpoint-16" / checkpoints.MANIFEST).unlink()
    named = []
    assert checkpoints.choose(folder, "auto", named.append) == str(folder / "checkpoint-12")
    assert len(named) == 3
    resumed = build(make, output_dir=str(folder))
    resumed.train(resume_from_checkpoint="auto")
    assert caplog.text.count("is torn") == 3
    assert_same(outcome(resumed), whole[1])


def test_auto_begins_anew_where_there_is_nothing(make, tmp_path):
    trainer = build(make, output_dir=str(tmp_path / "new"), total_episodes=8)
    trainer.train(resume_from_checkpoint="auto")
    assert history(trainer, "episode") == [8]


def test_the_oldest_checkpoints_go_and_half_written_ones_never_count(make, tmp_path):
    trainer = build(make, output_dir=str(tmp_path / "few"), save_total_limit=2)
    leftover = tmp_path / "few" / checkpoint.STAGING / "checkpoint-4"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_text("half")
    trainer.train()
    assert sorted(p.name for p in (tmp_path / "few").glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-24"]
    assert all(checkpoints.is_whole(p) for p in (tmp_path / "few").glob("checkpoint-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_stops_and_the_run_goes_on(whole, make, tmp_path, number):
    class Kill(GracefulStop):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:  # in the middle of the second update
                os.kill(os.getpid(), number)
            super().on_step_end(args, state, control, **kwargs)

    folder = str(tmp_path / "stopped")
    stopped = build(make, output_dir=folder, save_strategy="no")
    stopped.add_callback(Kill())
    stopped.train()
    assert stopped.state.global_step == 8
    resumed = build(make, output_dir=folder)
    resumed.train(resume_from_checkpoint="auto")
    assert_same(outcome(resumed), whole[1])


def worker(folder, fuse, writing):
    """A run in a process of its own. It kills itself after `fuse` calls and returns, None: it does not.

    Args:
        writing: count those inside the writing of checkpoints alone.
    """
    torch.set_num_threads(1)
    trainer = build(make_trainer, output_dir=folder)
    left = iter(range(fuse if fuse is not None else 0))

    def burn():
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    if writing:
        save = trainer._save_checkpoint

        def saving(*args):
            with counted(burn):
                save(*args)

        trainer._save_checkpoint = saving
        trainer.train(resume_from_checkpoint="auto")
    elif fuse is not None:
        with counted(burn):
            trainer.train(resume_from_checkpoint="auto")
    else:
        trainer.train(resume_from_checkpoint="auto")
    weights, log = outcome(trainer)
    torch.save(weights, Path(folder) / "weights.pt")
    (Path(folder) / "log.json").write_text(json.dumps(log))


def live(folder, fuse=None, writing=False, until=None) -> int:
    """One life of the run; its exit code. With `until` it is killed from outside once a file of that pattern stands."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf_recipes.ppo"])  # torch is imported once
    process = context.Process(target=worker, args=(str(folder), fuse, writing))
    process.start()
    while until and process.exitcode is None and not any(folder.glob(until)):
        process.join(0.001)
    if until:
        process.kill()
    process.join()
    return process.exitcode


def test_killed_at_random_moments(whole, tmp_path):
    """SIGKILL while it plays, learns or writes, again and again, until a run gets to its end.

    The moments are drawn among the calls that a run makes, so that they are as many on a slow machine as on a fast one;
    one comes from outside, at whatever the run is at in the middle of a file.
    """
    _, want, calls = whole
    folder, chance = tmp_path / "killed", random.Random(11)
    folder.mkdir()
    assert live(folder, fuse=chance.randrange(calls // 2)) == -signal.SIGKILL
    assert live(folder, fuse=chance.randrange(calls // 3), writing=True) == -signal.SIGKILL
    assert live(folder, until=f"{checkpoint.STAGING}/checkpoint-[12]?/*") == -signal.SIGKILL
    assert live(folder) == 0
    weights, log = torch.load(folder / "weights.pt"), json.loads((folder / "log.json").read_text())
    assert_same((weights, log), (want[0], json.loads(json.dumps(want[1]))))
