"""Early stopping waits for as long in a run that was killed as in one left alone."""

from tiny_world import history, make_prompts

WAIT = {
    "learning_rate": 0.0,  # the first evaluation stays the best
    "total_episodes": 80,
    "num_ppo_epochs": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "metric_for_best_model": "eval_score",
    "early_stopping_patience": 3,
}


def test_a_resumed_run_has_waited_already(make, tmp_path):
    held_out = {"eval_dataset": make_prompts().select(range(2))}
    alone = make(trainer=held_out, **WAIT)
    alone.train()
    assert len(history(alone, "episode")) == 4
    resumed = make(trainer=held_out, output_dir=tmp_path / "resumed", **WAIT)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert len(history(resumed, "episode")) == 4


def test_a_run_that_had_stopped_stays_stopped(make, tmp_path):
    """It was killed after its last checkpoint and before it was done."""
    held_out = {"eval_dataset": make_prompts().select(range(2))}
    alone = make(trainer=held_out, **WAIT)
    alone.train()
    again = make(trainer=held_out, output_dir=tmp_path / "again", **WAIT)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert again.state.global_step == alone.state.global_step == 4
    assert history(again, "episode") == history(alone, "episode")
