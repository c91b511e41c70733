"""Where TRL is right we equal it: three updates on TRL's own completions, as golden.py recorded them with TRL 1.12."""

import dataclasses
import json
from importlib.util import find_spec

import golden
import pytest
import torch
from safetensors import safe_open
from tiny_world import history, make_models

from rlhf_recipes.engine.sequences import Sequences, pad_left
from rlhf_recipes.ppo import PPOConfig
from rlhf_recipes.ppo import trainer as ours


def close(ours, want, name):
    torch.testing.assert_close(ours, want, atol=1e-5, rtol=0, msg=lambda m: f"{name}: {m}")


def note(name: str):
    with safe_open(golden.FILE, "pt") as file:
        return json.loads(file.metadata()[name])


def test_the_config_declares_trls_fields_with_trls_defaults():
    own = {f.name: f.default for f in dataclasses.fields(PPOConfig)}
    assert (
        own | note("fields") | {"logging_steps": 1} == own
    )  # TRL's PPO logs every update, whatever logging_steps says


def read(case: int) -> tuple[dict, dict]:
    """Tensors and metrics of a config, as golden.record returns them."""
    with safe_open(golden.FILE, "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{case}/")]  # noqa: SIM118
        return {name.partition("/")[2]: file.get_tensor(name) for name in names}, note("metrics")[case]


@pytest.mark.parametrize("case", range(len(golden.CONFIGS)))
def test_three_updates_equal_trl(monkeypatch, make, case):
    want, theirs = read(case)
    world = make_models()
    for name, model in world.items():
        start = f"start/{name}/"
        model.load_state_dict({key.removeprefix(start): value for key, value in want.items() if key.startswith(start)})
    mine = make(
        trainer={"value_model": world["value"]},
        model=world["policy"],
        reward=world["reward"],
        reward_append_eos=False,
        **golden.ALWAYS | golden.CONFIGS[case],
    )
    made = []

    def forced(tokens, uniforms):
        answer = want[f"{mine.update}/answers"]
        assert answer.shape == uniforms.shape, "TRL pays the score by the widest answer drawn: it must fill the width"
        stop = (answer == 2).int()
        mask = stop.cumsum(1) - stop == 0
        seq = Sequences(*pad_left(tokens, 0), answer * mask, mask)
        return seq, mine.actor_critic.logprobs(seq), (answer == 2).any(1)

    def rows(update):
        return [{"input_ids": [t for t in q.tolist() if t], "prompt": None} for q in want[f"{update}/queries"]]

    def record(*args, **kwargs):
        made.append(make_experience(*args, **kwargs))
        return made[-1]

    make_experience = ours.make_experience
    monkeypatch.setattr(mine.player, "generate", forced)
    monkeypatch.setattr(ours, "make_experience", record)
    monkeypatch.setattr(mine.prompts, "rows", rows)
    mine.train()

    ended = sum(int((want[f"{update}/answers"] == 2).any(1).sum()) for update in range(golden.UPDATES))
    assert ended > 3, "some answers must end"
    for metric in golden.METRICS:
        assert history(mine, metric) == pytest.approx(theirs[metric], abs=1e-5, rel=0), metric
    # defect 13: TRL's statistics count padding, as if it were tokens that never change
    share = [length / 5 for length in history(mine, "completions/mean_length")]
    unpadded = [x * part for x, part in zip(history(mine, "policy/approxkl_avg"), share, strict=True)]
    assert unpadded == pytest.approx(theirs["policy/approxkl_avg"], rel=1e-3) and max(share) < 1
    assert len(made) == golden.UPDATES
    for update, experience in enumerate(made):
        for name in (*golden.MADE, "advantages"):
            close(getattr(experience, name), want[f"{update}/{name}"], f"update {update}, {name}")
    moved = 0.0
    for of, model in (("policy", mine.actor_critic.policy), ("value", mine.actor_critic.value_model)):
        for name, value in model.state_dict().items():
            close(value, want[f"end/{of}/{name}"], f"{of}, {name}")
            moved += (value - want[f"start/{of}/{name}"]).abs().max().item()
    assert moved > 1e-3, "the run must have trained for the comparison to mean anything"


@pytest.mark.skipif(not find_spec("trl.experimental.ppo"), reason="TRL has no PPOTrainer from 1.13 on")
@pytest.mark.parametrize("case", range(len(golden.CONFIGS)))
def test_the_record_is_what_trl_does(case):
    want, metrics = read(case)
    tensors, history = golden.record(golden.CONFIGS[case])
    assert tensors.keys() == want.keys()
    for name, value in tensors.items():
        close(value, want[name], name)
    for name, values in history.items():
        assert values == pytest.approx(metrics[name], abs=1e-5, rel=0), name
