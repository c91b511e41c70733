"""peft=lora through the whole pipeline: what a stage leaves is what PEFT alone loads, and what the next stage reads."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.trainer import Trainer

from rlhf_recipes import models
from rlhf_recipes.__main__ import rewrite
from rlhf_recipes.config.adapters import learning_rate
from rlhf_recipes.config.paths import CONF
from rlhf_recipes.errors import UserError
from rlhf_recipes.export import weights
from rlhf_recipes.stages import checked

LORA = ("peft=lora", "peft.r=4", "trainer.learning_rate=0.02")  # a rate at which four steps are seen
RSLORA = ("reward=length", "peft.target_modules=[q_proj,v_proj]", "peft.use_rslora=true")
IDS = torch.arange(5, 45).reshape(2, 20)


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.log_softmax(-1)


def by_hand(base: Path, *adapters: Path) -> torch.Tensor:
    """The base's log-probabilities with s B A of each adapter added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for folder in adapters:
        config, state = (
            json.loads((folder / "adapter_config.json").read_text()),
            load_file(folder / "adapter_model.safetensors"),
        )
        for name in [name for name in state if name.endswith("lora_A.weight")]:
            a, b = state[name], state[name.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / (len(a) ** 0.5 if config["use_rslora"] else len(a))
            layer = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            layer.weight.data += scale * b @ a
    return logprobs(model)


@pytest.fixture(scope="module")
def base(house, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    house("pretrain", f"run.root={root}")
    return root / "default" / "pretrain" / "model"


@pytest.fixture(scope="module")
def root(house, base, tmp_path_factory) -> Path:
    """Runs with sft by LoRA, and what follows it by LoRA."""
    root = tmp_path_factory.mktemp("lora")
    house("sft", f"run.root={root}", f"inputs.policy={base}", *LORA)
    house("reward", f"run.root={root}", *LORA)
    house("grpo", f"run.root={root}", *LORA, *RSLORA)
    house("dpo", f"run.root={root}", *LORA, "peft.r=6")
    assert house("ppo", f"run.root={root}", *LORA, "peft.lora_alpha=4")[0]["kl_last"] is not None
    return root / "default"


@pytest.fixture(scope="module")
def node(house, root):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("config", ["stage=sft"])).model


@pytest.mark.parametrize("stage", ["grpo", "dpo", "ppo"])
def test_an_adapter_on_an_adapter_is_one_that_peft_loads_on_the_base(root, base, node, stage):
    last = max((root / stage / "checkpoints").glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    wanted = by_hand(base, root / "sft" / "model", last)  # the checkpoint holds this stage's adapter alone
    folder = root / stage / "model"
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert (wanted - by_hand(base, root / "sft" / "model")).abs().max() > 1e-2
    assert (wanted - by_hand(base, last)).abs().max() > 1e-2

    tokenizer = models.load_tokenizer(node, str(folder))
    read = {
        "plain PEFT": AutoPeftModelForCausalLM.from_pretrained(folder),
        "a later stage, evaluate, chat": models.load_policy(node, str(folder), tokenizer, frozen=True),
        "export": weights.load(node, str(folder), tokenizer, reward=False).model,
        "a stage from its checkpoint": models.load_policy(node, str(last), tokenizer),
    }
    apart = {name: (logprobs(model) - wanted).abs().max().item() for name, model in read.items()}
    assert max(apart.values()) < 1e-5, apart


def test_a_reward_model_on_an_adapter_brings_both_and_its_head(root, base, node):
    path = str(root / "reward" / "model")
    tokenizer = models.load_tokenizer(node, path)
    loaded = models.load_reward_model(node, path, tokenizer, seed=1)
    again = models.load_reward_model(node, path, tokenizer, seed=2)
    assert torch.equal(loaded.score.weight, again.score.weight)  # read from disk, not drawn
    plain = AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=1)
    plain.config.pad_token_id = plain.base_model.model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        assert (plain.eval()(IDS).logits - loaded.eval()(IDS).logits).abs().max() < 1e-5
    last = max((root / "reward" / "checkpoints").glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    alone = {name: tensor for name, tensor in load_file(last / "adapter_model.safetensors").items() if "lora_A" in name}
    both = load_file(Path(path) / "adapter_model.safetensors")
    assert all(len(both[name]) == 4 + len(a) for name, a in alone.items())  # rank 4 of sft's


def test_what_is_no_sum_of_factors_stands_on_a_merged_base_beside_it(house, root, base, node):
    house("dpo", f"run.root={root.parent}", "run.name=dora", "run.parent=default", *LORA, "peft.use_dora=true")
    folder = root.parent / "dora" / "dpo" / "model"
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(folder.parent / "base")
    merged = logprobs(AutoModelForCausalLM.from_pretrained(named))
    assert (merged - by_hand(base, root / "sft" / "model")).abs().max() < 1e-5
    plain, tokenizer = AutoPeftModelForCausalLM.from_pretrained(folder), models.load_tokenizer(node, str(folder))
    assert (logprobs(plain) - merged).abs().max() > 1e-3
    assert (logprobs(plain) - logprobs(models.load_policy(node, str(folder), tokenizer))).abs().max() < 1e-5


FIRST = ("trainer.max_steps=1", "trainer.learning_rate=1e-3", "trainer.logging_steps=1")


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialisation_that_changes_the_base_has_a_reference_of_its_own(house, base, tmp_path, init, node):
    lora = ("peft=lora", "peft.r=4", f"peft.init_lora_weights={init}", f"run.root={tmp_path}", f"inputs.policy={base}")
    house("dpo", *lora, *FIRST)
    first = json.loads((tmp_path / "default" / "dpo" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    state = load_file(tmp_path / "default" / "dpo" / "model" / "adapter_model.safetensors")
    assert all(len(a) == 8 for name, a in state.items() if "lora_A" in name)  # what it began with is taken off
    one_step = logprobs(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "default" / "dpo" / "model"))
    assert 0 < (one_step - by_hand(base)).abs().max() < 0.2  # another base would be far away


@pytest.mark.parametrize("stage", ["grpo", "ppo", "kto"])
def test_the_first_kl_is_nought_for_pissa_too(house, base, tmp_path, stage):
    words = [f"run.root={tmp_path}", f"inputs.policy={base}", "peft=lora", "peft.r=4", "peft.init_lora_weights=pissa"]
    words += ["reward=length", "inputs.reward_model=[none]"] if stage != "kto" else []
    words += ["inputs.value_model=[none]"] if stage == "ppo" else FIRST
    house(stage, *words)
    rows = [json.loads(row) for row in (tmp_path / "default" / stage / "metrics.jsonl").read_text().splitlines()]
    name, nought = {"grpo": ("kl", 0), "ppo": ("objective/kl", 0), "kto": ("loss", 0.5)}[stage]
    assert next(row[name] for row in rows if name in row) == pytest.approx(nought, abs=1e-4)


def test_the_tokenizer_of_an_adapter_saved_without_one_is_its_bases(root, base, node, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((root / "dpo" / "model" / name).read_bytes())
    assert models.load_tokenizer(node, str(tmp_path)).get_vocab() == models.load_tokenizer(node, str(base)).get_vocab()


def config(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("config", rewrite(list(words))))


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (("stage=sft",), 2e-5),
        (("stage=sft", "peft=lora"), 2e-4),
        (("stage=sft", "peft=qlora"), 2e-4),
        (("stage=dpo", "peft=lora"), 5e-6),
        (("stage=grpo", "peft=lora"), 1e-5),
        (("stage=sft", "peft=lora", "trainer.learning_rate=3e-3"), 3e-3),
        (("stage=sft", "peft=lora", "recipes=nl2sql/sft"), 2e-4),
    ],
)
def test_lora_has_ten_times_the_stages_rate_unless_one_is_given(house, words, rate):
    cfg = config(*words)
    assert OmegaConf.to_container(cfg, resolve=True)["trainer"]["learning_rate"] == rate


def test_the_rate_is_said_and_recorded(house, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "train", lambda *args, **kwargs: (_ for _ in ()).throw(UserError("far enough")))
    for words, said in ((["peft=lora"], True), (["peft=lora", "trainer.learning_rate=1e-3"], False), ([], False)):
        with pytest.raises(UserError, match="far enough"):
            house("sft", f"run.root={tmp_path}", f"inputs.policy={base}", *words)
        assert ("learning_rate 0.0002, ten times that for all weights" in capsys.readouterr().out) is said


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "kto", "ppo", "grpo", "rloo"])
def test_every_stage_says_each_rate_that_it_multiplied(stage):
    line = learning_rate(config(f"stage={stage}", "peft=lora"))
    assert line.startswith("learning_rate ") and "ten times" in line
    assert ("value_learning_rate 5e-05" in line) is (stage == "ppo")
    assert learning_rate(config(f"stage={stage}")) is None


def test_the_hub_gets_what_the_model_folder_holds_at_the_end(house, root, monkeypatch):
    """Trainer's own push would save the second adapter alone again, without the one below it."""
    pushed = {}

    class Hub:
        def create_repo(self, name, **kwargs):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, folder_path, commit_message, **kwargs):
            pushed[commit_message] = {f.name: f.read_bytes() for f in Path(folder_path).iterdir() if f.is_file()}

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    words = ("trainer.push_to_hub=true", "trainer.hub_model_id=me/model", "trainer.hub_strategy=end")
    house("dpo", f"run.root={root.parent}", "run.name=pushed", "run.parent=default", *LORA, *words)
    folder = root.parent / "pushed" / "dpo" / "model"
    assert list(pushed) == ["Model save"] and "README.md" in pushed["Model save"]
    left = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    assert pushed["Model save"] == left
    assert json.loads(left["adapter_config.json"])["r"] == 8  # both adapters


def test_several_gpus_in_one_process_are_refused_before_a_model_loads(house, base, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(models, "load_policy", None)
    with pytest.raises(UserError, match=r"^2 GPUs are visible to one process.*accelerate launch"):
        house("sft", f"run.root={tmp_path}", f"inputs.policy={base}")


@pytest.mark.parametrize("init", ["corda", "eva", "loftq"])
def test_an_initialisation_that_no_stage_prepares_is_refused_at_once(house, base, tmp_path, init):
    with pytest.raises(UserError, match=f"init_lora_weights={init} needs a pass"):
        house("dpo", f"run.root={tmp_path}", f"inputs.policy={base}", "peft=lora", f"peft.init_lora_weights={init}")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="4 bits work here")
def test_four_bits_without_a_gpu_are_refused_at_once(house, base, tmp_path):
    with pytest.raises(UserError, match="needs a GPU"):
        house("sft", f"run.root={tmp_path}", f"inputs.policy={base}", "peft=qlora")
    with pytest.raises(UserError, match="only an adapter; use peft=qlora"):
        house("sft", f"run.root={tmp_path}", f"inputs.policy={base}", "++model.quantization={load_in_4bit: true}")
    assert not list(tmp_path.iterdir())


def test_a_model_from_nothing_is_trained_whole(house, tmp_path, capsys):
    house("pretrain", f"run.root={tmp_path}", "peft=lora", "trainer.max_steps=1")
    assert "all its weights are trained" in capsys.readouterr().out
    assert (tmp_path / "default" / "pretrain" / "model" / "model.safetensors").is_file()
