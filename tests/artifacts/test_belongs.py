"""A run belongs to one model and one data set, whatever command is typed in it."""

import json
import sys
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rlhf_recipes.__main__ import main
from rlhf_recipes.chat import chosen_models
from rlhf_recipes.errors import HubError
from rlhf_recipes.stages import _start

TINY = {"name": "tiny", "path": None, "init": {"hidden_size": 192}}
QWEN = {"name": "qwen0.5b", "path": "Qwen/Qwen2.5-0.5B", "pad_token": "<|pad|>"}


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """typed("stage=dpo", …) -> (exit code, stdout, stderr, the config that the stage's own file was given)."""
    given = {}

    def keep(cfg, run):
        if cfg.stage == "chat":
            chosen_models(cfg, run)
        given.update(cfg=cfg)
        return {}

    def type_(*words, check_data=lambda *args, **kwargs: None):
        given.clear()
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["rlhf-recipes", *words])
        monkeypatch.setattr(_start, "module_of", lambda stage: SimpleNamespace(run=keep))
        monkeypatch.setattr(_start, "_preflight", lambda: SimpleNamespace(brief=lambda cfg, run: None))
        monkeypatch.setattr(_start.data, "check", check_data)  # which asks the hub
        monkeypatch.setattr(_start, "reach_hub", lambda path, setting: None)
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr(), given.get("cfg")

    monkeypatch.chdir(tmp_path)
    yield type_
    HydraConfig.instance().cfg = None  # of the last command, which the next test has not typed


def finished(root, run, stage, model, data="embedded", **config):
    """What a finished stage leaves, as far as a later command reads it."""
    folder = root / "runs" / run / stage
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"stage": stage, "status": "done", "inputs": {}}))
    node = {"model": model, "data": {"name": data, "demos": {"path": data}, "prompts": {"path": data}}}
    OmegaConf.save(OmegaConf.create(node | config), folder / "config.yaml")


@pytest.fixture
def tutorial(tmp_path):
    """What `make pipeline` leaves."""
    for stage in ("pretrain", "sft", "reward", "ppo"):
        finished(tmp_path, "default", stage, TINY)


REFUSED = {
    "sft": (["stage=sft", "model=qwen0.5b", "data=alpaca"], "inputs.policy=base"),
    "dpo": (["stage=dpo", "model=qwen0.5b", "data=hh_rlhf"], "inputs.policy=base"),
    "grpo": (["stage=grpo", "model=qwen0.5b-instruct", "data=gsm8k", "reward=gsm8k"], "inputs.policy=base"),
    "a preview": (["stage=dpo", "model=qwen0.5b", "data=hh_rlhf", "preview=true"], "inputs.policy=base"),
    "preflight": (["stage=dpo", "model=qwen0.5b", "data=hh_rlhf", "preflight=true"], "inputs.policy=base"),
    "a recipe": (["recipes=gsm8k/grpo"], "inputs.policy=base"),
    "a recipe that starts from base": (["recipes=gpt2_imdb/ppo"], "inputs.reward_model="),
    "a model of one's own": (["stage=dpo", "model.path=org/mine"], "model.path=org/mine"),
    "its reward model": (["stage=ppo", "model=qwen0.5b", "inputs.policy=base"], "inputs.reward_model="),
    "chat": (["stage=chat", "model=qwen0.5b"], "chat.models=base"),
    "a parent's": (["stage=dpo", "model=qwen0.5b", "run.name=new", "run.parent=default"], "run default"),
    "base beside it": (["stage=rloo", "model=qwen0.5b", "run.name=half"], "run half holds pretrain"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_model_is_refused_naming_both_and_the_ways_out(case, typed, tutorial, tmp_path):
    words, way_out = REFUSED[case]
    finished(tmp_path, "half", "pretrain", TINY)
    code, _, message, cfg = typed(*words)
    assert (code, cfg) == (2, None), message
    assert len(message.splitlines()) == 1, message
    for part in ("model=tiny", "run.name=<new>", way_out):
        assert part in message, message


def test_a_hub_model_in_an_empty_run_starts_from_base(typed):
    code, out, message, cfg = typed("stage=dpo", "model=qwen0.5b", "data=hh_rlhf", "run.name=new")
    assert (code, cfg.model.path) == (0, "Qwen/Qwen2.5-0.5B"), message
    assert "dpo: starts from policy Qwen/Qwen2.5-0.5B; data=hh_rlhf; leaves its work in runs/new/dpo/" in out


def test_the_ways_out_lead_out(typed, tutorial):
    code, _, message, _ = typed("stage=dpo", "model=qwen0.5b", "inputs.policy=base")
    assert code == 0, message
    code, _, message, _ = typed("stage=rloo", "model=qwen0.5b", "inputs.policy=base", "inputs.reward_model=org/judge")
    assert code == 0, message


@pytest.mark.parametrize("stage", ["dpo", "evaluate"])
def test_a_command_that_names_neither_takes_the_runs_own(stage, typed, tmp_path):
    finished(tmp_path, "hh", "sft", QWEN, "alpaca")
    code, out, message, cfg = typed(
        f"stage={stage}", "run.name=hh", "model.dtype=bfloat16", "data.preferences.path=org/pairs", "reward=length"
    )
    assert code == 0, message
    assert (cfg.model.path, cfg.model.pad_token, cfg.model.init) == ("Qwen/Qwen2.5-0.5B", "<|pad|>", None)
    assert cfg.model.dtype == "bfloat16"
    assert (cfg.data.name, cfg.data.prompts.path, cfg.data.preferences.path) == ("alpaca", "alpaca", "org/pairs")
    assert f"{stage}: takes model=qwen0.5b and data=alpaca from " in out


def test_another_runs_policy_brings_its_own_model(typed, tmp_path):
    finished(tmp_path, "hh", "sft", QWEN, "hh_rlhf")
    _, out, message, cfg = typed("stage=dpo", "run.name=new", "inputs.policy=hh:sft")
    assert cfg is not None, message
    assert cfg.model.name == "qwen0.5b"
    assert "starts from policy sft (runs/hh/sft/model)" in out


def test_the_runs_own_model_may_be_named_by_its_path(typed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    finished(tmp_path, "x", "sft", {"name": "local", "path": "mine"})
    assert typed("stage=dpo", "run.name=x", "model.path=./mine/")[0] == 0
    assert typed("stage=dpo", "run.name=x", "run.overwrite=true", "model.path=runs/x/sft/model")[0] == 0


def test_a_model_of_a_path_is_called_by_it_whatever_preset_it_stood_in(typed, tmp_path):
    finished(tmp_path, "x", "sft", {"name": "tiny", "path": "mine"})
    assert "takes model.path=mine" in typed("stage=dpo", "run.name=x")[1]


def test_a_file_of_ones_own_in_the_embedded_domain_is_told(typed, tmp_path):
    finished(tmp_path, "x", "sft", QWEN, "embedded")
    hint = "for yours give data=local"
    assert hint in typed("stage=dpo", "run.name=new", "data.preferences.path=embedded")[1]
    assert hint not in typed("stage=dpo", "run.name=x", "data.preferences.path=embedded")[1]


def test_a_reward_model_of_another_base_serves_the_runs_policy(typed, tmp_path):
    finished(tmp_path, "x", "sft", QWEN)
    finished(tmp_path, "x", "reward", {"name": "opt350m", "path": "facebook/opt-350m"})
    assert typed("stage=ppo", "run.name=x", "model=qwen0.5b")[0] == 0


def test_another_data_set_is_refused_unless_a_recipe_says_so(typed, tutorial):
    code, _, message, _ = typed("stage=dpo", "data=hh_rlhf")
    assert code == 2
    assert "holds pretrain on data=embedded" in message
    assert "data=hh_rlhf; run.name=<new>" in message
    assert typed("stage=dpo", "data=hh_rlhf", "run.name=new", "run.parent=default")[0] == 0
    assert typed("stage=evaluate", "data=hh_rlhf")[0] == 0  # nothing is trained on it
    assert typed("stage=report")[0] == 0


def test_another_model_is_refused_before_the_hub_is_asked_for_the_data(typed, tutorial):
    def unreachable(*args, **kwargs):
        raise HubError("the hub cannot be reached")

    code, _, err, _ = typed("stage=dpo", "model=qwen0.5b", "data=ultrafeedback", check_data=unreachable)
    assert code == 2 and "holds" in err and "hub cannot be reached" not in err
