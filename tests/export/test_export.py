"""What is exported loads without this package and answers the same; what would not is refused."""

import json
import re

import pytest
import torch
from finished_run import PROMPT, QUESTION, TOKENS
from transformers import AutoTokenizer

from rlhf_recipes import models
from rlhf_recipes.config.schema import Model
from rlhf_recipes.data.chat_template import choose
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.answers import Draw, generate
from rlhf_recipes.export import weights
from rlhf_recipes.runs.resolve import ModelSource


def node(**more):
    from omegaconf import OmegaConf

    return OmegaConf.merge(OmegaConf.structured(Model), more)


def here(made, stage):
    """The greedy answer of a stage's model as this package loads it, adapters merged by models.load_policy."""
    path = str(made / stage / "model")
    tokenizer = models.load_tokenizer(node(), path)
    model = models.load_policy(node(), path, tokenizer)
    return generate(model, tokenizer, [PROMPT], Draw(max_new_tokens=TOKENS, temperature=0.0))[0]


def test_the_other_process_had_no_package(outside):
    assert outside["package"] == "absent"


@pytest.mark.parametrize("stage", ["ppo", "dpo"])
def test_greedy_tokens_are_equal_outside(made, outside, stage):
    answer = here(made, stage)
    assert outside[stage]["ids"] == list(answer.ids)
    assert outside[stage]["pipeline"].strip() == answer.text.strip()  # through the exported chat template
    assert len(set(answer.ids)) > 3
    assert outside["ppo"]["ids"] != outside["dpo"]["ids"]


def test_the_dtype_is_the_one_asked_for(exports, outside):
    assert outside["half"]["dtype"] == "torch.bfloat16"
    assert outside["ppo"]["dtype"] == "torch.float32"
    folders, _ = exports
    sizes = {name: (folders[name] / "model.safetensors").stat().st_size for name in ("half", "ppo")}
    assert sizes["half"] < 0.6 * sizes["ppo"]


@pytest.mark.parametrize("name", ["reward", "lora_reward"])
def test_a_reward_models_head_comes_along(made, outside, name):
    path = str((made if name == "reward" else made.parent / "lora_reward") / "reward" / "model")
    tokenizer = models.load_tokenizer(node(), path)
    model = models.load_classifier(node(), path, tokenizer)
    with torch.no_grad():
        score = model(**tokenizer(PROMPT, return_tensors="pt")).logits[0]
    assert outside[name] == pytest.approx(score.tolist(), abs=1e-5)
    assert abs(score.item()) > 1e-3


def test_merging_is_measured(exports):
    _, told = exports
    assert 0 <= told["ppo"]["merge_difference"] <= weights.TOLERANCE
    assert told["dpo"]["merge_difference"] >= told["ppo"]["merge_difference"]  # two merges, the worse one counts
    assert told["half"]["merge_difference"] is None
    assert told["ppo"]["parameters"] == told["half"]["parameters"]


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(export, tmp_path, monkeypatch):
    from peft.tuners.lora import LoraModel

    whole = LoraModel.merge_and_unload

    def careless(self, *args, **kwargs):
        model = whole(self, *args, **kwargs)
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", careless)
    with pytest.raises(UserError, match=r"moves the logits by .* nothing is written"):
        export("export.model=ppo", f"export.to={tmp_path}/out")
    assert list(tmp_path.iterdir()) == []


def test_a_nan_after_a_merge_is_no_agreement():
    import math

    nan = torch.tensor([float("nan")])
    assert math.isnan(weights.apart(torch.zeros(1), nan))
    assert not weights.apart(torch.zeros(1), nan) <= weights.TOLERANCE


def test_the_stop_tokens_that_were_trained_are_in_generation_config(exports, made):
    folders, _ = exports
    tokenizer = AutoTokenizer.from_pretrained(made / "sft" / "model")
    for name, first in (("ppo", "<|eos|>"), ("dpo", "<|unk|>")):  # dpo's config has a stop_token_id
        config = json.loads((folders[name] / "generation_config.json").read_text())
        stops = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
        assert stops[0] == tokenizer.convert_tokens_to_ids(first)
        assert tokenizer.eos_token_id in stops
        assert config["pad_token_id"] == tokenizer.pad_token_id


def test_a_chat_templates_own_end_of_turn_is_a_stop_token(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made / "sft" / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}"
    model = models.load_policy(node(), str(made / "sft" / "model"), tokenizer)
    own = choose("chat", ModelSource("x", "x"), has_own=True)
    stops = weights.write(tmp_path, model, tokenizer, "float32", template=own)
    assert stops == [tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id]


def test_the_exported_template_is_the_trained_one(exports):
    folders, _ = exports
    tokenizer = AutoTokenizer.from_pretrained(folders["ppo"])
    talk = [{"role": "user", "content": QUESTION}]
    assert tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) == PROMPT
    assert AutoTokenizer.from_pretrained(folders["reward"]).chat_template is None


def test_the_folder_holds_what_a_server_reads_and_no_place_of_this_machine(exports, made):
    folders, _ = exports
    names = {file.name for file in folders["ppo"].iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith(".bin") or name.startswith("adapter") for name in names)
    for file in folders["ppo"].glob("*.json"):
        assert str(made.parent.parent) not in file.read_text(), file
    assert oct(folders["ppo"].stat().st_mode & 0o777) == "0o755"


def test_the_latest_policy_goes_to_the_runs_export_by_default(made, export):
    told = export()
    assert (made / "export" / "model.safetensors").is_file()
    assert told["merge_difference"] is not None  # ppo, an adapter
    with pytest.raises(UserError, match=r"is not empty; give run\.overwrite=true"):
        export()
    (made / "export" / "stale.txt").write_text("x")
    export("run.overwrite=true", "export.model=sft")
    assert not (made / "export" / "stale.txt").exists()


def test_a_folder_of_the_home_is_meant_as_the_shell_means_it(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    told = export("export.model=sft", "export.to='~/exp'")
    assert (tmp_path / "exp" / "model.safetensors").is_file()
    assert told["megabytes"] > 0 and f"in {tmp_path}/exp, {told['megabytes']} MB" in capsys.readouterr().out


def test_a_preview_says_where_it_would_go_and_writes_nothing(export, tmp_path, capsys):
    assert export("preview=true", "export.model=sft", f"export.to={tmp_path}/out") == {}
    assert f"would go to {tmp_path}/out" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_float16_are_refused(export, made, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    large = tmp_path / "large"
    shutil.copytree(made / "sft" / "model", large)
    weights = load_file(large / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"float16 cannot hold a weight of 1e\+06"):
        export(f"export.model={large}", "export.dtype=float16", f"export.to={tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_chat_speaks_with_an_export_as_with_the_stage(exports, made, capsys):
    from hydra import compose, initialize_config_dir

    from rlhf_recipes import stages
    from rlhf_recipes.__main__ import rewrite
    from rlhf_recipes.config.paths import CONF

    shared = ["stage=chat", f"run.root={made.parent}", "run.name=made", "chat.temperature=0", "chat.max_new_tokens=12"]
    said = []
    for place in ("ppo", str(exports[0]["ppo"])):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", rewrite([*shared, f"prompt='{QUESTION}'", f"chat.models=[{place}]"]))
            capsys.readouterr()
            stages.run(stages.checked(cfg))
            said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_the_card_shows_the_runs_figures_and_pictures(exports):
    folders, _ = exports
    card = (folders["ppo"] / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in (
        "# made-ppo",
        "Made by PPO",
        "LoRA adapter(s) are merged in",
        "PPO by step",
        "Reward model",
        "`<|eos|>`",
    ):
        assert words in card, words
    shown = re.findall(r"\]\((pictures/[^)]+\.svg)\)", card)
    assert len(shown) > 8
    assert all((folders["ppo"] / place).read_text().startswith("<svg") for place in shown)
    assert sorted(p.name for p in (folders["ppo"] / "pictures").iterdir()) == sorted(p[9:] for p in shown)
    assert "DPO" not in card  # another stage of the run, not of this model


def test_a_cards_lineage_is_the_models_own(exports):
    folders, _ = exports
    card = (folders["half"] / "README.md").read_text()
    assert "Supervised fine-tuning" in card
    assert "PPO by step" not in card
    reward = (folders["reward"] / "README.md").read_text()
    assert "pipeline_tag: text-classification" in reward
    assert "AutoModelForSequenceClassification" in reward
