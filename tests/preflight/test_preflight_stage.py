"""preflight=true, and the brief form at the start of a stage, on a tiny model."""

import json
import re

import pytest

from rlhf_recipes import stages
from rlhf_recipes.errors import UserError
from rlhf_recipes.preflight import check, rows
from rlhf_recipes.preflight.machine import Machine
from rlhf_recipes.preflight.shapes import shape_of

TINY = Machine("cpu", "RAM", 1e6, 1e6, 1e6)
FEW = ["data.demos.limit=60", "data.preferences.limit=60", "data.prompts.limit=60"]


def ppo(folders):
    names = {"policy": "policy", "reward_model": "reward", "value_model": "reward"}
    return ["stage=ppo", *FEW, *(f"inputs.{name}={folders[folder]}" for name, folder in names.items())]


def run(house, *overrides):
    return stages.run(house(*overrides)[0])


def test_everything_is_told_and_nothing_is_written(house, folders, tmp_path, capsys):
    root = tmp_path / "runs"
    assert run(house, *ppo(folders), "preflight=true", f"run.root={root}", "trainer.response_length=16") == {}
    said = capsys.readouterr().out
    for part in ("libraries", "policy", "reference", "critic", "reward", "gradients", "optimizer"):
        assert f"\n  {part} " in said
    assert all(part in said for part in ("activations", "KV cache", "logits", "by moment"))
    assert "prompts: 60 read" in said and "dropped" not in said
    assert "EOS '<|eos|>'" in said and "the policy's vocabulary" in said
    assert "held-out pairs; mean score" in said and "disk: " in said
    assert "verdict: fits" in said
    assert not root.exists()


def test_it_will_not_fit_exits_with_1_and_says_what_would(house, folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        run(house, *ppo(folders), "preflight=true", "preflight_gb=0.001", f"run.root={tmp_path / 'runs'}")
    said = capsys.readouterr().out
    assert left.value.code == 1 and "verdict: WILL NOT FIT" in said
    assert "trainer.per_device_train_batch_size=1" in said
    assert not (tmp_path / "runs").exists()


def test_truncation_is_counted_before_it_happens(house, folders, tmp_path, capsys):
    words = ["stage=sft", *FEW, f"inputs.policy={folders['policy']}", f"run.root={tmp_path}", "preflight=true"]
    run(house, *words, "trainer.max_length=48", "data.eval_fraction=0.2")
    assert "cut at 48 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "grpo", "collect", "evaluate"])
def test_every_stage_has_an_answer(house, folders, tmp_path, capsys, stage):
    name = "mine" if stage == "evaluate" else "policy"
    more = [] if stage == "pretrain" else [f"inputs.{name}={folders['policy']}"]
    more += ["model.path=null"] if stage == "pretrain" else []
    more += ["reward=gold", "data.corpus.limit=60"]
    if stage in ("collect", "evaluate"):
        more.append(f"{stage}.max_new_tokens=16")
    if stage == "grpo":
        more.append("trainer.max_completion_length=16")
    assert run(house, f"stage={stage}", *FEW, *more, "preflight=true", f"run.root={tmp_path / 'runs'}") == {}
    assert "verdict: fits" in capsys.readouterr().out and not (tmp_path / "runs").exists()


@pytest.fixture
def others(house, folders, tmp_path):
    """others(stage, *overrides): preflight of a stage that leaves nothing a later one starts from."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q {i}", "completion": " a" * i}) + "\n" for i in range(9)))
    given = {"chat": f"chat.models={folders['policy']}", "score": f"score.file={file}", "report": "seed=0"}
    given["export"] = f"export.model={folders['policy']}"

    def run_it(stage, *overrides):
        known = {word.partition("=")[0] for word in overrides}
        words = [w for w in (f"stage={stage}", given[stage]) if w.partition("=")[0] not in known]
        return run(house, *words, f"run.root={tmp_path / 'runs'}", "preflight=true", *overrides)

    return run_it


def test_report_and_a_score_by_functions_load_no_model(others, capsys):
    assert others("report") == {} and others("score", "reward=length") == {}
    said = capsys.readouterr().out
    assert said.count("no model is loaded") == 2 and said.count("verdict: fits") == 2


def test_score_is_sized_by_its_rows_and_tells_the_reward_models_tokens(others, folders, capsys):
    others("score", f"inputs.reward_model={folders['reward']}")
    said = capsys.readouterr().out
    assert "scoring the answers" in said and "(9 looked at)" in said
    assert "reward model learned: EOS '<|eos|>' (2), pad '<|pad|>' (0), no chat template" in said


def test_a_talk_is_as_long_as_the_model_reads_and_one_question_as_it_is(others, folders, capsys):
    others("chat", "chat.max_new_tokens=32")
    talk = capsys.readouterr().out
    assert "a talk of 256 tokens; it reads 256" in talk and "KV cache" in talk
    assert "policy: EOS '<|eos|>' (2)" in talk and "stops on '<|eos|>'" in talk
    others("chat", "prompt=hello there", "chat.max_new_tokens=8")
    asked = capsys.readouterr().out
    assert "a talk of 256 tokens" not in asked and "KV cache" in asked
    with pytest.raises(UserError, match="is a reward model: it scores"):
        others("chat", f"chat.models={folders['reward']}")


def test_an_export_is_counted_as_it_is_made_in_float32_and_in_ram(others, folders, capsys):
    with pytest.raises(SystemExit):
        others("export", "model.dtype=bfloat16", "preflight_gb=0.001")
    said = capsys.readouterr().out
    assert "parameters of 4 bytes, frozen" in said and "checking the merge" in said
    assert "no setting makes it smaller; the libraries alone are too much" in said  # model.dtype is not read
    others("export", f"export.model={folders['reward']}")
    said = capsys.readouterr().out
    assert "LlamaForSequenceClassification" in said and "reward model: EOS '<|eos|>' (2)" in said


def test_a_disk_that_is_too_small_exits_with_1_and_says_what_would_fit(others, house, folders, monkeypatch, capsys):
    size = 4 * shape_of(house("stage=chat")[0].model, folders["policy"]).parameters
    monkeypatch.setattr(check, "free_disk", lambda place: 0.6 * size)
    with pytest.raises(SystemExit) as left:
        others("export")
    said = capsys.readouterr().out
    assert left.value.code == 1 and "verdict: fits" in said and said.count("THE DISK WILL NOT HOLD IT") == 1
    assert "fits     export.dtype=bfloat16\n  or another disk: export.to=<folder>" in said
    others("export", "export.dtype=bfloat16")
    capsys.readouterr()
    monkeypatch.setattr(check, "free_disk", lambda place: 9 * size)  # three checkpoints of 12 bytes, a model of 4
    words = ["stage=sft", *FEW, f"inputs.policy={folders['policy']}", "preflight=true", "trainer.max_length=64"]
    with pytest.raises(SystemExit) as left:
        run(house, *words, "trainer.max_steps=100", "trainer.save_steps=10", "trainer.save_total_limit=2")
    said = capsys.readouterr().out
    assert left.value.code == 1 and "or another disk: run.root=<folder>" in said
    assert said.count("fits     ") == 3 and "fits     trainer.save_total_limit=1\n" in said


@pytest.fixture(scope="module")
def stranger(folders, tmp_path_factory):
    """A reward model of another tokenizer, that reads 40 tokens at once."""
    from transformers import AutoTokenizer, LlamaConfig

    folder = tmp_path_factory.mktemp("stranger")
    config = LlamaConfig.from_pretrained(folders["reward"], max_position_embeddings=40)
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folders["reward"])
    tokenizer.add_tokens(["<|other|>"])
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_every_model_of_the_reward_is_held_against_the_policy(house, folders, stranger, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check.scores, "told_apart", lambda cfg, run: "reward: not asked here")
    words = ["stage=ppo", *FEW, f"inputs.policy={folders['policy']}", "inputs.value_model=none", "preflight=true"]
    words += ["trainer.response_length=32", f"run.root={tmp_path}", "reward=ensemble"]
    both = f"reward.models.learned.path=[{folders['reward']},{stranger}]"
    judge = "{path: 'rlhf_recipes.rewards.classifier:label_score', weight: 1.0, kwargs: {model: '%s', label: 0}}"
    run(house, *words, both, f"++reward.functions.mood={judge % stranger}")
    said = capsys.readouterr().out
    assert "reward model learned#1: the policy's vocabulary" in said
    assert "reward model learned#2: another vocabulary" in said and "cannot be the critic" not in said
    assert "WRONG reward model learned#2: reads 40 tokens, and a prompt with its answer has up to" in said
    assert "reward model mood: a vocabulary of its own" in said and "learned#1: reads" not in said


def test_a_stage_whose_input_is_not_made_says_what_makes_it(house, tmp_path):
    with pytest.raises(UserError, match="make it first: python -m rlhf_recipes stage=sft"):
        run(house, "stage=reward", "preflight=true", f"run.root={tmp_path}")


def test_a_limit_must_be_a_size(house, folders, tmp_path):
    with pytest.raises(UserError, match="expected gigabytes above 0"):
        run(house, *ppo(folders), "preflight=true", "preflight_gb=-1", f"run.root={tmp_path}")


def test_a_training_stage_begins_with_the_estimate_and_ends_with_both(house, folders, tmp_path, capsys):
    steps = ["trainer.max_steps=1", "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"]
    steps += ["trainer.gradient_checkpointing=false", "trainer.max_length=64", "trainer.eval_strategy=no"]
    words = ["stage=sft", *FEW, f"inputs.policy={folders['policy']}", f"run.root={tmp_path}", *steps]
    run(house, *words, "preflight_gb=0.001")  # it goes on all the same
    said = capsys.readouterr().out
    assert said.startswith("preflight: ") and "at the peak" in said.splitlines()[0]
    assert "THIS WILL NOT FIT" in said.splitlines()[1]
    summary = json.loads((tmp_path / "default" / "sft" / "summary.json").read_text())
    assert summary["preflight"]["measured_mb"] == summary["peak_rss_mb"]
    assert summary["preflight"]["estimate_mb"] > 0
    assert stages.run(house(*words)[0]) == {}  # preflight_gb does not make it another run


def test_evaluate_begins_with_the_estimate_too_and_ends_with_both(house, folders, tmp_path, capsys):
    words = ["stage=evaluate", *FEW, f"inputs.mine={folders['policy']}", f"run.root={tmp_path}", "reward=length"]
    words += ["evaluate.prompts=2", "evaluate.max_new_tokens=2", "evaluate.ppl_rows=0", "evaluate.corpus_rows=0"]
    run(house, *words)
    assert capsys.readouterr().out.startswith("preflight: ")
    summary = json.loads((tmp_path / "default" / "evaluate" / "summary.json").read_text())
    assert summary["preflight"]["estimate_mb"] > 0
    assert summary["preflight"]["measured_mb"] == summary["peak_rss_mb"]


def test_the_estimate_failing_does_not_stop_the_stage(house, folders, monkeypatch, capsys):
    cfg, stage_run = house("stage=sft", *FEW, f"inputs.policy={folders['policy']}")
    monkeypatch.setattr(check, "settle", lambda *a: (_ for _ in ()).throw(UserError("a model like no other")))
    assert check.brief(cfg, stage_run, TINY) is None
    assert "a model like no other" in capsys.readouterr().out


@pytest.mark.parametrize("error", [TypeError("no // for None"), AssertionError(), RuntimeError("\nlater")])
def test_a_model_that_cannot_be_measured_is_told_and_keeps_no_stage_from_running(
    house, folders, monkeypatch, capsys, error
):
    def strange(*args, **kwargs):
        raise error

    monkeypatch.setattr("rlhf_recipes.preflight.shapes._measure", strange)
    monkeypatch.setattr("rlhf_recipes.preflight.shapes._KNOWN", {})
    cfg, stage_run = house("stage=sft", *FEW, f"inputs.policy={folders['policy']}")
    assert check.brief(cfg, stage_run, TINY) is None
    why = f"{type(error).__name__}: {str(error).strip()}".removesuffix(": ")
    assert capsys.readouterr().out == f"preflight: no estimate of the memory ({why})\n"
    with pytest.raises(UserError, match=re.escape(f"the memory of stage=sft cannot be estimated ({why}); without")):
        check.run(cfg, stage_run, TINY)


def test_the_brief_form_reads_the_first_rows_only(house, folders, monkeypatch):
    from transformers import AutoTokenizer

    cfg, _ = house("stage=sft", "data.demos.limit=1000", f"inputs.policy={folders['policy']}")
    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    found = rows.sample(cfg.data, "demos", tokenizer)
    assert found.seen == rows.SAMPLE and 0 < found.prompt < found.whole


def test_lengths_are_of_the_longest_row_with_its_end(folders):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["policy"])
    ids = len(tokenizer("one two")["input_ids"])
    pairs = [{"prompt": "one", "chosen": " two", "rejected": ""}, {"prompt": "one", "chosen": "", "rejected": ""}]
    found = rows.measure(pairs, "preferences", tokenizer)
    assert found == rows.Rows(prompt=len(tokenizer("one")["input_ids"]), whole=ids + 1, seen=2)
