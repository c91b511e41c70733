"""A run that was killed and resumed ends as one left alone, to the bit."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_world import history, make_trainer

from rlhf_recipes.callbacks import GracefulStop, KLControl
from rlhf_recipes.kl import AdaptiveKL
from rlhf_recipes.ppo import checkpoint

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
    """A combined signal with statistics of its own, as a running normalisation has."""

    def __init__(self):
        self.seen = 0

    def __call__(self, prompts, completions, columns):
        self.seen += len(prompts)
        scores = [len(c) / self.seen for c in completions]
        return scores, {"length": scores}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def build(make, **config):
    beta = KLControl(AdaptiveKL(kl_coef=0.1, target=0.01, horizon=100))
    return make(reward=Counting(), trainer={"callbacks": [beta]}, **RUN | config)


def outcome(trainer):
    """All weights, and the log without what a clock says."""
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in trainer.state.log_history]
    return [p.detach().clone() for p in trainer.actor_critic.parameters()], [r for r in rows if "episode" in r]


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1] == other[1]


@pytest.fixture
def alone(make, tmp_path):
    trainer = build(make, output_dir=str(tmp_path / "alone"))
    trainer.train()
    return trainer


def test_resumed_from_any_checkpoint_it_ends_the_same(alone, make, tmp_path):
    want = outcome(alone)
    assert len(want[1]) == 6 and len(set(history(alone, "objective/kl_coef"))) == 6, "beta must move to be tested"
    for update in (1, 4, 5):
        trainer = build(make, output_dir=str(tmp_path / "resumed"))
        trainer.train(resume_from_checkpoint=str(tmp_path / f"alone/checkpoint-{update * 4}"))
        assert_same(outcome(trainer), want)


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


def test_a_torn_checkpoint_is_passed_over(alone, make, tmp_path, caplog):
    folder = tmp_path / "alone"
    for torn, name in ((24, "optimizer.pt"), (20, "critic.safetensors")):
        file = folder / f"checkpoint-{torn}" / name
        file.write_bytes(file.read_bytes()[:100])
    (folder / "checkpoint-16" / checkpoint.MANIFEST).unlink()
    assert checkpoint.last_whole(folder).endswith("checkpoint-12")
    assert caplog.text.count("is torn") == 3
    resumed = build(make, output_dir=str(folder))
    resumed.train(resume_from_checkpoint="auto")
    assert_same(outcome(resumed), outcome(alone))


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
    assert all(checkpoint.is_whole(p) for p in (tmp_path / "few").glob("checkpoint-*"))


def test_a_signal_saves_stops_and_the_run_goes_on(alone, make, tmp_path):
    class Kill(GracefulStop):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:  # in the middle of the second update
                os.kill(os.getpid(), signal.SIGTERM)
            super().on_step_end(args, state, control, **kwargs)

    folder = str(tmp_path / "stopped")
    stopped = build(make, output_dir=folder, save_strategy="no")
    stopped.add_callback(Kill())
    stopped.train()
    assert stopped.state.global_step == 8
    resumed = build(make, output_dir=folder)
    resumed.train(resume_from_checkpoint="auto")
    assert_same(outcome(resumed), outcome(alone))


def worker(folder):
    """A run in a process of its own, which may be killed at any moment."""
    torch.set_num_threads(1)
    trainer = build(make_trainer, output_dir=folder)
    trainer.train(resume_from_checkpoint="auto")
    weights, log = outcome(trainer)
    torch.save(weights, Path(folder) / "weights.pt")
    (Path(folder) / "log.json").write_text(json.dumps(log))


def test_killed_at_random_moments(alone, tmp_path):
    """SIGKILL while it plays, learns or writes, until a run gets to its end. Where in an update it falls is chance."""
    folder = tmp_path / "killed"
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf_recipes.ppo"])  # torch is imported once
    for goal in (1, 2, 4, None):  # die once the checkpoint of this many updates is there or being written
        process = context.Process(target=worker, args=(str(folder),))
        process.start()
        places = [where / f"checkpoint-{(goal or 99) * 4}" for where in (folder, folder / checkpoint.STAGING)]
        while process.exitcode is None and not any(place.exists() for place in places):
            process.join(0.005)
        if goal:
            process.kill()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if goal else 0)
    weights, log = torch.load(folder / "weights.pt"), json.loads((folder / "log.json").read_text())
    want = outcome(alone)
    assert_same((weights, log), (want[0], json.loads(json.dumps(want[1]))))
