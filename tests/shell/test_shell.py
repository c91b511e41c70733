"""The command line as a user meets it. Most cases run in this process, which saves half a second each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from rlhf_recipes.__main__ import groups, help_text, main, rewrite
from rlhf_recipes.config.paths import CONF, RECIPES, options

ROOT = Path(__file__).parents[2]


def shell(*args, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "rlhf_recipes", *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """here("stage=sft", ...) -> (exit code, what it wrote to stderr), in this process and in an empty folder."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["rlhf-recipes", *args])
        try:
            main()
        except SystemExit as exit_:
            return exit_.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    yield run
    HydraConfig.instance().cfg = None  # of the last command, which the next test has not typed


@pytest.fixture
def composed(here, capsys, monkeypatch):
    def composed(*args):
        monkeypatch.setattr(sys, "argv", ["rlhf-recipes", *args, "--cfg", "job"])
        main()
        return yaml.safe_load(capsys.readouterr().out)

    return composed


def test_help_lists_every_stage_model_dataset_and_recipe():
    text = help_text()
    for group in ("stage", "model", "data", "reward", "kl", "peft", "logger"):
        assert all(name in text for name in options(CONF / group))
    assert all(name in text for name in options(RECIPES))


@pytest.mark.parametrize("word", ["--cfg=job", "trainer.vf_coeff=0.2"])
def test_composing_and_a_typo_import_neither_torch_nor_trl(word):
    code = (
        f"import sys; sys.argv = ['x', 'stage=ppo', {word!r}]\nfrom rlhf_recipes.__main__ import main\n"
        "try: main()\nfinally: assert not {'torch', 'trl', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    expected = (0, "") if "cfg" in word else (2, "error: PPOConfig has no field vf_coeff; did you mean vf_coef?\n")
    assert (done.returncode, done.stderr) == expected


def test_plain_overrides_become_forced_ones_and_choices_stay():
    assert rewrite(["prompt=It's 5, isn't it?", "prompt='a'", "prompt=null"]) == [
        r"++prompt='It\'s 5, isn\'t it?'",
        "++prompt='a'",
        "++prompt=null",
    ]
    assert rewrite(["stage=ppo", "model=tiny", "trainer.vf_coef=0.2", "+a.b=1", "hydra.verbose=true", "-m"]) == [
        "stage=ppo",
        "model=tiny",
        "++trainer.vf_coef=0.2",
        "+a.b=1",
        "hydra.verbose=true",
        "-m",
    ]


def test_a_users_config_dir_adds_options_and_groups(tmp_path, composed):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine\npath: ./mine\n")
    (tmp_path / "extra").mkdir()
    assert "extra" in groups(["--config-dir", str(tmp_path)])
    assert composed("--config-dir", str(tmp_path), "stage=sft", "model=mine")["model"]["path"] == "./mine"


def test_the_shell_wins_over_the_recipe_over_the_stage_over_the_root(tmp_path, composed):
    folder = tmp_path / "recipes" / "probe"
    folder.mkdir(parents=True)
    (folder / "sft.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /stage: sft\n  - override /peft: lora\n"
        "seed: 7\ntrainer: {learning_rate: 0.5, max_length: 77}\n"
    )
    plain = composed("stage=sft")
    assert plain["trainer"]["learning_rate"] == "${tenfold_with_lora:2.0e-5}"  # the stage
    assert plain["seed"] == 0  # the root
    laid = composed("--config-dir", str(tmp_path), "recipes=probe/sft")
    assert (laid["stage"], laid["seed"], laid["trainer"]["learning_rate"], laid["peft"]["r"]) == ("sft", 7, 0.5, 16)
    over = composed("--config-dir", str(tmp_path), "recipes=probe/sft", "trainer.learning_rate=0.1", "peft=none")
    assert over["trainer"]["learning_rate"] == 0.1
    assert over["trainer"]["max_length"] == 77
    assert not over.get("peft")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    (folder / "columns.jsonl").write_text('{"ask": "a", "say": "b"}\n')
    (folder / "good.jsonl").write_text("".join(f'{{"prompt": "p{i}", "completion": " c"}}\n' for i in range(20)))
    return folder


# (arguments, what the one line must say)
BAD = {
    "unknown option": (["stage=sft", "model=quen0.5b"], ["model=quen0.5b", "did you mean", "qwen0.5b"]),
    "unknown stage": (["stage=sfft"], ["stage=sfft", "did you mean sft?"]),
    "unknown recipe": (["recipes=embeded/sft"], ["recipes=embeded/sft", "embedded/sft"]),
    "no stage": ([], ["no stage chosen", "stage="]),
    "misspelt key of ours": (["stage=sft", "run.nmae=x"], ["run.nmae", "did you mean run.name?"]),
    "misspelt root key": (["stage=sft", "modle.path=x"], ["modle", "did you mean model?"]),
    "misspelt TRL field": (
        ["stage=sft", "trainer.lerning_rate=1"],
        ["SFTConfig has no field lerning_rate", "learning_rate?"],
    ),
    "misspelt PPO field": (
        ["stage=ppo", "trainer.vf_coeff=0.2"],
        ["PPOConfig has no field vf_coeff; did you mean vf_coef?"],
    ),
    "misspelt PEFT field": (["stage=sft", "peft=lora", "peft.rank=4"], ["LoraConfig has no field rank"]),
    "wrong type": (["stage=sft", "trainer.learning_rate=fast"], ["trainer.learning_rate='fast'", "a number"]),
    "wrong type of ours": (["stage=sft", "seed=many"], ["seed=many: expected a whole number, e.g. seed=0"]),
    "wrong value": (["stage=sft", "trainer.eval_strategy=foo"], ["trainer.eval_strategy='foo'", "'epoch'"]),
    "wrong dtype": (["stage=sft", "model.dtype=flot32"], ["model.dtype=flot32", "float32"]),
    "misspelt group": (["stagee=sft"], ["stagee", "did you mean stage?"]),
    "misspelt recipes": (["recipe=gsm8k/grpo"], ["recipe", "did you mean recipes?"]),
    "misspelt input": (["stage=ppo", "inputs.polcy=sft"], ["inputs.polcy", "did you mean inputs.policy?"]),
    "another stage's input": (["stage=report", "inputs.policy=sft"], ["inputs.policy", "stage=report"]),
    "broken override": (["stage=sft", "trainer.x=[1"], ["trainer.x"]),
    "missing file": (["stage=sft", "data=local", "data.demos.path=nowhere.jsonl"], ["nowhere.jsonl"]),
    "empty file": (["stage=sft", "data=local", "data.demos.path={}/empty.jsonl"], ["empty"]),
    "broken line": (["stage=sft", "data=local", "data.demos.path={}/broken.jsonl"], ["broken.jsonl", "line 2"]),
    "missing column": (["stage=sft", "data=local", "data.demos.path={}/columns.jsonl"], ["ask", "say", "prompt"]),
    "kind lacking": (["stage=reward", "data=alpaca"], ["data=alpaca", "preferences", "data=hh_rlhf"]),
    "no earlier stage": (["stage=ppo"], ["stage=sft", "run.name=default"]),
    "controller key": (["stage=ppo", "kl.targt=5"], ["AdaptiveKL has no setting targt", "kl.target?"]),
    "controller type": (["stage=ppo", "kl.target=abc"], ["kl.target='abc'", "a number"]),
    "reward key": (["stage=ppo", "reward.functons.x.path=a:b"], ["reward.functons", "reward.functions?"]),
    "reward model key": (["stage=ppo", "reward.models.learned.lable=1"], ["reward.models.learned.lable", "label?"]),
    "reward without path": (["stage=ppo", "reward.models.mine.weight=1"], ["reward.models.mine has no path"]),
    "reward function key": (
        ["stage=grpo", "reward.functions.mine.pth=./a.py:f"],
        ["reward.functions.mine.pth", "did you mean path?"],
    ),
    "choice": (["stage=collect", "collect.keep=foo"], ["collect.keep=foo", "best_worst"]),
    "range": (["stage=collect", "collect.answers=1"], ["collect.answers=1", "at least 2"]),
    "logger": (["stage=sft", "logger.report_to=foo"], ["logger.report_to=foo", "wandb"]),
    "score file": (["stage=score", "reward=gsm8k", "score.file=nope"], ["score.file=nope"]),
    "nothing to compare": (["stage=evaluate"], ["no model to compare"]),
    "null input": (["stage=sft", "inputs.policy=null"], ["inputs.policy=null"]),
    "no key": (["stage=sft", "=3"], ["=3", "key=value"]),
    "a whole node": (["stage=sft", "trainer=foo"], ["trainer=foo"]),
    "parent": (["stage=ppo", "run.parent=nope"], ["run.parent=nope"]),
    "a model's folder": (["stage=sft", "model=./folder"], ["model=./folder", "model.path=./folder"]),
    "a data file": (["stage=reward", "data=my.json"], ["data=local data.preferences.path=my.json"]),
    "a reward's file": (["stage=ppo", "reward=./r.py"], ["reward.functions.mine.path=./r.py:<function>"]),
    "a bare stage": (["sft"], ["did you mean stage=sft?"]),
    "a bare misspelt stage": (["evalute", "model=tiny"], ["did you mean stage=evaluate?"]),
    "another stage's recipe": (["stage=ppo", "recipes=gsm8k/grpo"], ["stage=grpo", "recipes=<recipe>/ppo"]),
    "a misspelt stage to start from": (["stage=dpo", "inputs.policy=stf"], ["inputs.policy=stf", "did you mean sft?"]),
    "a misspelt stage to talk with": (
        ["stage=chat", "chat.models=[evaluat,pretrian]"],
        ["chat.models=", "did you mean"],
    ),
    "no such model folder": (
        ["stage=sft", "model.path=./nowhere", "data=local", "data.demos.path={}/good.jsonl"],
        ["./nowhere"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(case, files, here, tmp_path):
    arguments, expected = BAD[case]
    code, message = here(*[a.format(files) for a in arguments])
    assert code == 2, message
    assert len(message.strip().splitlines()) == 1, message
    for part in expected:
        assert part in message, message
    assert not list(tmp_path.iterdir())


def test_the_traceback_is_there_on_request(tmp_path):
    done = shell("stage=sft", "run.nmae=x", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


def test_an_unreachable_hub_is_told_before_torch_is_imported_and_leaves_nothing(files, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "torch.py").write_text("raise RuntimeError('torch is imported')")
    done = shell(
        "stage=sft",
        "model=qwen0.5b",
        "data=local",
        f"data.demos.path={files}/good.jsonl",
        cwd=tmp_path,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "cache"),
        PYTHONPATH=f"{tmp_path}/none:{ROOT}",
    )
    assert done.returncode == 2, done.stderr
    assert "model.path=" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_outside_the_environment_one_line_says_how_to_enter_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "-m", "rlhf_recipes", "stage=sft"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "source .venv/bin/activate" in done.stderr and len(done.stderr.splitlines()) == 1


def test_completion_is_hydras_own():
    done = shell("-sc", "install=bash")
    assert done.returncode == 0
    assert "complete" in done.stdout


def test_version_is_the_packages():
    from rlhf_recipes import __version__

    assert shell("--version").stdout.strip() == f"rlhf-recipes {__version__}"


def test_a_folder_that_was_downloaded_cannot_let_its_own_code_run(tmp_path):
    """Its config.yaml asks for it. Only the shell and conf/ may."""
    stage = tmp_path / "theirs" / "ppo"
    (stage / "model").mkdir(parents=True)
    (stage / "config.yaml").write_text(yaml.safe_dump({"model": {"name": "x", "path": "x", "trust_remote_code": True}}))
    (stage / "summary.json").write_text("{}")
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "code.Odd", "AutoModelForCausalLM": "code.Odd"}}
    (stage / "model" / "config.json").write_text(json.dumps(config))
    (stage / "model" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Odd: pass\n")
    (stage / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for words in (["stage=chat", "prompt=hi", f"chat.models=[{stage}]"], ["stage=export", f"export.model={stage}"]):
        done = shell(*words, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "ran").exists()
