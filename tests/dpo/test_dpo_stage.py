"""stage=dpo: losses by name, the reference, row formats, resuming."""

import json
import math
import re
import shutil

import pytest
import torch

from rlhf_recipes.errors import UserError
from rlhf_recipes.stages import dpo as stage


def log(tmp_path, run="default"):
    lines = (tmp_path / run / "dpo" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_the_losses_are_all_that_trl_has():
    import inspect

    from trl import DPOTrainer

    source = inspect.getsource(DPOTrainer._compute_loss)
    assert set(re.findall(r'loss_type == "(\w+)"', source)) == set(stage.LOSSES)


LOSS_AT_THE_START = {  # the policy is the reference, so every log-ratio is 0; beta is 0.1
    "sigmoid": math.log(2),
    "hinge": 1.0,
    "ipo": 25.0,  # (0 - 1 / (2 beta))^2
    "robust": math.log(2),
    "sigmoid_norm": math.log(2),
    "apo_zero": 1.0,
    "sppo_hard": 50.0,
}


@pytest.mark.parametrize("loss", LOSS_AT_THE_START)
def test_a_loss_is_chosen_by_name_from_the_shell(dpo, tmp_path, loss):
    smooth = ["trainer.label_smoothing=0.1"] if loss == "robust" else []
    dpo(f"trainer.loss_type={loss}", *smooth, "trainer.max_steps=1", "trainer.eval_strategy=no")
    assert log(tmp_path)[0]["loss"] == pytest.approx(LOSS_AT_THE_START[loss], rel=1e-4)


def test_losses_are_summed_and_beta_is_felt(dpo, tmp_path):
    given = ("trainer.loss_type=[sigmoid,ipo]", "trainer.loss_weights=[1.0,2.0]", "trainer.beta=0.5")
    dpo(*given, "trainer.max_steps=1", "trainer.eval_strategy=no")
    assert log(tmp_path)[0]["loss"] == pytest.approx(math.log(2) + 2 * 1.0, rel=1e-4)


def test_label_smoothing_changes_the_robust_loss(dpo, tmp_path):
    for smoothing in (0.1, 0.3):
        given = (f"run.name=s{smoothing}", f"trainer.label_smoothing={smoothing}", "trainer.max_steps=3")
        dpo("trainer.loss_type=robust", "trainer.eval_strategy=no", *given)
    first, second = (log(tmp_path, f"s{s}")[-1]["loss"] for s in (0.1, 0.3))
    assert abs(first - second) > 1e-4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.loss_type=sigmod"], "did you mean sigmoid"),
        (["trainer.loss_type=[ipo,hinged]"], "did you mean hinge"),
        (["trainer.label_smoothing=0.1"], "trainer.loss_type=robust"),
        (["trainer.loss_type=exo_pair"], "1e-3"),
        (["trainer.loss_type=robust", "trainer.label_smoothing=0.5"], "below 0.5"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_before_trl_is_imported(dpo, tmp_path, overrides, said, monkeypatch):
    monkeypatch.setattr("rlhf_recipes.stages.dpo.run", None)
    with pytest.raises(UserError, match=said):
        dpo(*overrides)
    assert not list(tmp_path.iterdir())


REFERENCES = {
    "copy": [],
    "adapter": ["peft=lora", "peft.r=4", "trainer.learning_rate=1e-2"],
    "precomputed": ["trainer.precompute_ref_log_probs=true"],
}


@pytest.mark.parametrize("how", REFERENCES)
def test_the_reference_is_the_start(dpo, tmp_path, how, monkeypatch):
    from rlhf_recipes import models

    loaded = []
    load = models.load_policy
    monkeypatch.setattr(models, "load_policy", lambda *a, **k: loaded.append(k.get("frozen", False)) or load(*a, **k))
    metrics = dpo(*REFERENCES[how])
    assert loaded.count(True) == (how == "copy")
    rows = log(tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert rows[-1]["rewards/margins"] != 0  # the policy moved, the reference did not
    assert 0 < metrics["eval_accuracy"] < 1
    assert metrics["eval_margin"] != 0


def test_held_out_figures_do_not_depend_on_the_batches_they_were_measured_in(dpo):
    def figures(size):
        given = ("trainer.max_steps=2", "trainer.save_strategy=no", "data.eval_fraction=0.2", "data.max_eval=15")
        metrics = dpo(f"run.name=b{size}", f"trainer.per_device_eval_batch_size={size}", *given)
        return [metrics[name] for name in ("eval_loss", "eval_accuracy", "eval_margin")]

    whole = figures(15)
    assert round(15 * whole[1], 4).is_integer()
    assert figures(14) == pytest.approx(whole, rel=1e-4)  # the last batch is one pair


def test_precomputed_and_copied_references_train_alike(dpo, tmp_path):
    one = dpo("run.name=copy", *REFERENCES["copy"])
    two = dpo("run.name=precomputed", *REFERENCES["precomputed"])
    for name in ("eval_loss", "eval_accuracy", "eval_margin"):
        # a margin is a difference of sums of about 50 nats, in float32
        assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5)


def talk(*said):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def hh(answer):
    return f"\n\nHuman: Which is # more?\n\nAssistant: {answer}"


FORMATS = {
    "preference": {"prompt": "Question #:", "chosen": " Yes.", "rejected": " No."},
    "preference, implicit prompt": {"chosen": "Question # is yes.", "rejected": "Question # is no."},
    "preference, conversational": {"chosen": talk("What is #?", "Yes."), "rejected": talk("What is #?", "No.")},
    "hh": {"chosen": hh("This."), "rejected": hh("That.")},
    "question_pair": {"question": "What is #?", "chosen": "Yes.", "rejected": "No."},
    "alpaca_pair": {"instruction": "Say # times.", "input": "yes", "chosen": "Yes.", "rejected": "No."},
    "shp": {"history": "Is # much?", "human_ref_A": "Yes.", "human_ref_B": "No.", "labels": 1},
    "ranked": {"prompt": "What is #?", "completions": ["Yes.", "Perhaps.", "No."], "ranks": [0, 1, 2]},
    "oasst1": None,
}


QUICK = [
    "data.eval_fraction=0.2",
    "trainer.max_steps=8",
    "trainer.learning_rate=5e-3",
    "trainer.max_length=256",
    "trainer.save_strategy=no",
    "trainer.eval_strategy=no",  # the stage evaluates at its end
]


def tree(i):
    """A question and two answers, a message a row."""
    root = {"message_id": f"{i}", "parent_id": None, "text": f"What is {i}?", "role": "prompter", "rank": None}
    said = [
        {"message_id": f"{i}-{rank}", "parent_id": f"{i}", "text": text, "role": "assistant", "rank": rank}
        for rank, text in enumerate(("Yes.", "No."))
    ]
    return [row | {"message_tree_id": f"{i}", "lang": "en"} for row in (root, *said)]


@pytest.mark.parametrize("name", FORMATS)
def test_preferences_are_taken_in_every_row_format(dpo, tmp_path, name):
    if name == "oasst1":
        rows = [row for i in range(24) for row in tree(i)]
    else:
        rows = [json.loads(json.dumps(FORMATS[name]).replace("#", str(i))) for i in range(24)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = name.partition(",")[0]
    group = ["data.preferences.group=message_tree_id"] if name == "oasst1" else []
    template = "hh" if name == "hh" else "alpaca" if name == "alpaca_pair" else "plain"
    given = ["data=local", f"data.template={template}", f"data.preferences.path={file}", *group]
    metrics = dpo(*given, f"data.preferences.format={kind}", *QUICK)
    assert metrics["eval_accuracy"] == 1.0  # one answer is always the better: eight steps are enough to see it
    assert metrics["eval_margin"] > 0


def test_conversations_go_through_the_chat_template(dpo, tmp_path):
    rows = [json.loads(json.dumps(FORMATS["preference, conversational"]).replace("#", str(i))) for i in range(24)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    given = ["data=local", "data.template=chat", f"model.chat_template={template}", f"data.preferences.path={file}"]
    metrics = dpo(*given, *QUICK)
    assert metrics["eval_accuracy"] == 1.0


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("how", ["copy", "precomputed"])
def test_an_interrupted_run_ends_where_a_whole_one_does(dpo, tmp_path, how):
    given = ("trainer.save_total_limit=3", *REFERENCES[how])
    whole = dpo(*given)
    folder = tmp_path / "default" / "dpo"
    expected = weights(folder / "model")
    for name in ("model", "checkpoints/checkpoint-4"):  # as if it had been killed at step 3
        shutil.rmtree(folder / name)
    (folder / "summary.json").unlink()
    again = dpo(*given)
    for name, value in weights(folder / "model").items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4]
    assert again["eval_margin"] == pytest.approx(whole["eval_margin"], rel=1e-4)
