"""The settings that are told to make a run fit do, as the shell reads them."""

import pytest

from rlhf_recipes.preflight import disk, fit
from rlhf_recipes.preflight.machine import Machine
from rlhf_recipes.preflight.phases import peak, phases
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.setting import settle

ROWS = Rows(prompt=40, whole=100, seen=1)


def given(folders) -> list[str]:
    names = {"policy": "policy", "reward_model": "reward", "value_model": "reward"}
    return [f"inputs.{name}={folders[folder]}" for name, folder in names.items()]


def settled(house, folders, free: float, *overrides, stage="ppo"):
    inputs = given(folders) if stage == "ppo" else given(folders)[:1]
    known = {o.partition("=")[0] for o in overrides}
    words = [f"stage={stage}", *(i for i in inputs if i.partition("=")[0] not in known), *overrides]
    cfg, run = house(*words)
    return settle(cfg, run, ROWS, Machine("cpu", "RAM", free, free, 1e6)), run


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "grpo"])
def test_each_way_is_typed_as_it_stands_and_gives_what_it_says(house, folders, stage):
    more = ("trainer.max_length=100",) if stage in ("sft", "reward", "dpo") else ()
    before = peak(phases(settled(house, folders, 1e12, *more, stage=stage)[0])).total
    setting, run = settled(house, folders, 0.7 * before, *more, stage=stage)
    ways = fit.ways(setting, run)
    assert ways and all(way.bytes < before for way in ways)
    for way in ways:
        words = " ".join(way.overrides).split()
        kept = [word for word in more if word.partition("=")[0] not in {w.partition("=")[0] for w in words}]
        again, _ = settled(house, folders, 0.7 * before, *kept, *words, stage=stage)
        if not any(word.startswith("data.max_prompt_length") for word in words):  # the rows are given here
            assert peak(phases(again)).total == pytest.approx(way.bytes)
        assert way.fits == (way.bytes <= setting.machine.free)


def test_three_ways_where_three_settings_are_enough_alone(house, folders):
    before = peak(phases(settled(house, folders, 1e12)[0])).total
    ways = fit.ways(*settled(house, folders, 0.95 * before))
    assert len(ways) == 3 and all(way.fits and len(way.overrides) == 1 for way in ways)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "grpo"])
@pytest.mark.parametrize("share", [0.97, 0.6])
def test_three_ways_are_told_wherever_one_is_enough(house, folders, stage, share):
    more = ("trainer.max_length=100",) if stage in ("sft", "reward", "dpo") else ()
    before = peak(phases(settled(house, folders, 1e12, *more, stage=stage)[0])).total
    ways = fit.ways(*settled(house, folders, share * before, *more, stage=stage))
    assert len(ways) == 3 and all(way.fits for way in ways)
    assert len({tuple(sorted(way.overrides)) for way in ways}) == 3


def test_the_size_of_a_model_that_would_fit_follows_the_room(house, folders):
    setting, _ = settled(house, folders, 1e12)
    top = peak(phases(setting)).total - setting.libraries
    half, _ = settled(house, folders, setting.libraries + top / 2)
    assert fit.largest(half) == pytest.approx(setting.find("policy").shape.parameters / 2)
    assert fit.largest(settled(house, folders, 1.0)[0]) == 0.0


def test_where_no_setting_is_enough_it_says_so(house, folders):
    ways = fit.ways(*settled(house, folders, 1.0))
    assert ways and not any(way.fits for way in ways)
    assert len(ways[-1].overrides) > 1  # everything together is told, and is too much


def test_gradients_wait_for_the_last_forward_only_when_they_accumulate(house, folders):
    def forward(*overrides):
        setting, _ = settled(house, folders, 1e12, *overrides, stage="sft")
        return next(p for p in phases(setting) if p.name == "forward pass").parts

    assert "gradients" not in forward("trainer.gradient_accumulation_steps=1")
    assert forward("trainer.gradient_accumulation_steps=2")["gradients"] > 0


def test_evaluate_reads_as_many_tokens_at_once_as_their_logits_allow(house, folders):
    def reading(*overrides):
        words = ["stage=evaluate", f"inputs.mine={folders['policy']}", "reward=length", "evaluate.max_new_tokens=60"]
        setting = settle(*house(*words, *overrides), ROWS, Machine("cpu", "RAM", 1e12, 1e12, 1e6))
        vocab = setting.find("policy").shape.vocab
        return next(p for p in phases(setting) if p.name == "log-probabilities").parts["logits"] / (4 * vocab)

    assert reading() == 16384 // 100 * 100  # 40 tokens of a prompt and 60 of an answer, tokens of at most 163 rows
    few = ("evaluate.prompts=3", "evaluate.ppl_rows=2", "evaluate.corpus_rows=0")
    assert reading(*few) == 3 * 100


def test_a_gpu_has_no_libraries_and_gives_activations_back(house, folders):
    cfg, run = house("stage=sft", *given(folders)[:1], "trainer.max_length=100")
    found = phases(settle(cfg, run, ROWS, Machine("cuda", "GPU", 1e12, 1e12, 0.0)))
    backward = next(p for p in found if p.name == "backward pass").parts
    assert backward["libraries"] == 0 and "activations" not in backward


def test_disk_is_weights_and_moments_once_more_than_the_limit(house, folders):
    setting, _ = settled(house, folders, 1e12, "trainer.save_total_limit=2", "trainer.save_steps=10", stage="sft")
    size = setting.find("policy").shape.parameters
    assert disk.needed(setting) == disk.Disk(12 * size, 3, 4 * size)
    assert disk.needed(setting, steps=15).count == 2
    assert disk.needed(settled(house, folders, 1e12, "trainer.save_strategy=no", stage="sft")[0]).checkpoint == 0
    lora = settled(house, folders, 1e12, "peft=lora", stage="sft")[0]
    assert disk.needed(lora).model == 4 * lora.find("policy").shape.adapter
