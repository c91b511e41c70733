"""What PPO's settings do from the shell, where the rewards are ready-made and a checkpoint is the stage's."""

import json
import shutil

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.model import ModelReward

SHORT = ["trainer.total_episodes=16", "trainer.num_ppo_epochs=1", "trainer.num_mini_batches=1"]
SHORT += ["trainer.num_sample_generations=0", "data.eval_fraction=0.02"]


@pytest.fixture
def ppo(made, house, tmp_path):
    """ppo(overrides) runs a stage of two updates below tmp_path."""
    run = made[0] / "default"

    def stage(*overrides):
        given = [f"inputs.policy={run}/sft/model", f"run.root={tmp_path}"]
        given += [f"inputs.{name}={run}/reward/model" for name in ("reward_model", "value_model")]
        return house("ppo", *given, *SHORT, *overrides)[0]

    return stage


def logged(tmp_path):
    lines = (tmp_path / "default" / "ppo" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def function(tmp_path, body):
    file = tmp_path / "reward.py"
    file.write_text(f"def score(prompts, completions, **columns):\n    {body}\n")
    return ["reward=gold", f"reward.functions.mine.path={file}:score"]


def test_torn_checkpoints_are_passed_over(ppo, tmp_path, capsys):
    longer = ["trainer.total_episodes=32", "trainer.save_total_limit=3"]
    ppo(*longer)
    stage = tmp_path / "default" / "ppo"
    (stage / "summary.json").unlink()
    for step, name in ((4, "optimizer.pt"), (3, "ppo_state.pt")):
        file = stage / "checkpoints" / f"checkpoint-{step}" / name
        file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    with pytest.raises(UserError, match="torn"):
        ppo(*longer, f"trainer.resume_from_checkpoint={stage}/checkpoints/checkpoint-4")
    ppo(*longer)
    said = capsys.readouterr().err
    assert "checkpoint-4 is torn" in said and "checkpoint-3 is torn" in said and "checkpoint-2\n" in said
    assert [row["episode"] for row in logged(tmp_path) if "episode" in row] == [8, 16, 24, 32]


@pytest.mark.parametrize("what", ["vocabulary", "template"])
def test_a_reward_model_of_another_tokenizer_is_found_before_training(made, ppo, tmp_path, what):
    from transformers import AutoTokenizer

    other = tmp_path / "reward"
    shutil.copytree(made[0] / "default" / "reward" / "model", other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    more = [f"inputs.reward_model={other}"]
    if what == "vocabulary":
        tokenizer.add_tokens([f"<new{i}>" for i in range(2000)])
        tokenizer.save_pretrained(other)
    else:
        more += ["data.template=chat", "model.chat_template='{{ messages[0].content }}'"]
    with pytest.raises(UserError, match="made for another tokenizer" if what == "vocabulary" else "no chat template"):
        ppo(*more)
    assert not list((tmp_path / "default" / "ppo").glob("checkpoints/*"))


@pytest.mark.parametrize("closed", [True, False])
def test_closing_cut_off_answers_is_a_setting(ppo, monkeypatch, closed):
    """A finished answer is closed with EOS whatever it is set to."""
    ends, finished = [], []
    plain, call = ModelReward._read, ModelReward.__call__

    def reading(self, rows):
        ends.extend(row[-1] == self.tokenizer.eos_token_id for row in rows)
        return plain(self, rows)

    def called(self, *args, **columns):
        finished.extend(columns["finished"])
        return call(self, *args, **columns)

    monkeypatch.setattr(ModelReward, "_read", reading)
    monkeypatch.setattr(ModelReward, "__call__", called)
    ended = ["trainer.stop_strings=[e]", "trainer.response_length=3", "data.eval_fraction=0"]
    ppo(*ended, f"trainer.reward_append_eos={str(closed).lower()}")
    assert len(ends) == len(finished) == 16 and 0 < sum(finished) < 16
    assert sum(ends) == (16 if closed else sum(finished))


def test_what_shapes_answers_and_objective_is_set_from_the_shell(ppo, tmp_path):
    shaped = ["response_length=8", "min_length=4", "top_k=20", "top_p=0.9", "temperature=0.7", "stop_strings=[xyzzy]"]
    learned = ["kl_estimator=full", "entropy_coef=0.01", "value_warmup_updates=1", "length_penalty=0.01"]
    learned += ["learning_rate=0.01", "sync_ref_model=true", "ref_model_sync_steps=1", "ref_model_mixup_alpha=1.0"]
    learned += ["reward_clip=0.5", "whiten_rewards=true"]
    ppo(*(f"trainer.{setting}" for setting in shaped + learned), "trainer.total_episodes=24")
    rows = [row for row in logged(tmp_path) if "episode" in row]
    assert [row["episode"] for row in rows] == [8, 16, 24]
    assert all(5 <= row["completions/mean_length"] <= 8 for row in rows), "four words and a stop at least"
    assert "loss/policy_avg" not in rows[0] and "loss/policy_avg" in rows[1], "the critic learns alone first"
    assert max(abs(row["objective/kl"]) for row in rows) < 1e-4, "the reference has followed before every rollout"
    assert all(-0.58 <= row["objective/scores"] <= 0.46 for row in rows), "clipped, and less a hundredth a token"


def test_weights_of_single_functions_are_refused_with_the_setting_to_use(ppo):
    with pytest.raises(UserError, match=r"reward\.models\.<name>\.weight"):
        ppo("trainer.reward_weights=[1.0]")


def test_a_score_that_is_nan_stops_the_run_or_is_left_out(ppo, tmp_path):
    broken = function(tmp_path, "return [float('nan') if i % 4 == 0 else 1.0 for i in range(len(completions))]")
    with pytest.raises(UserError, match="mine"):
        ppo(*broken)
    ppo(*broken, "trainer.on_nonfinite=skip")
    scores = [row["reward/mine"] for row in logged(tmp_path) if "reward/mine" in row]
    assert scores == [1.0, 1.0]


def test_early_stopping_on_the_gold_score(ppo, tmp_path):
    patience = ["trainer.early_stopping_patience=1", "trainer.eval_strategy=steps", "trainer.learning_rate=0"]
    ppo("trainer.total_episodes=64", *patience, "trainer.metric_for_best_model=eval_gold")
    rows = logged(tmp_path)
    assert [row["episode"] for row in rows if "episode" in row] == [8, 16], "at rate 0 nothing gets better"
    evaluated = [row for row in rows if "eval_eos_rate" in row]
    assert len(evaluated) == 2 and all(row["eval_gold"] == row["eval_reward/gold"] for row in evaluated)
    with pytest.raises(UserError, match="eval_score"):
        ppo(*patience, "trainer.metric_for_best_model=eval_golden", "run.overwrite=true")


def test_a_kl_that_runs_away_leaves_the_policy_that_was_kept(ppo, made, tmp_path):
    fast = ["trainer.learning_rate=0.05", "kl=fixed", "kl.kl_coef=0", "trainer.total_episodes=64", "ppo.max_kl=0.5"]
    kept = ppo(*fast)["kept"]
    rows = [row for row in logged(tmp_path) if "episode" in row]
    assert len(rows) < 8 and rows[-1]["objective/kl"] > 0.5 >= kept["kl"]
    assert kept["step"] == 0 and kept["rlhf_reward"] == rows[0]["objective/rlhf_reward"], "the first update left it"
    stage, sft = tmp_path / "default" / "ppo", made[0] / "default" / "sft"
    assert weights(stage / "model") == weights(sft / "model") != weights(stage / "checkpoints" / "checkpoint-1")
    assert not (stage / "model" / "kept.json").exists()


def weights(folder):
    from safetensors.torch import load_file

    return {name: value.tolist() for name, value in load_file(folder / "model.safetensors").items()}


def test_fsdp1_is_refused(ppo, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match=r"FSDP2 only.*fsdp\.yaml"):
        ppo()
