"""stage=kto: rows, the loss by hand, the reference, resuming, what is refused."""

import json
from itertools import pairwise

import pytest
import torch
from tiny_policy import log, run_stage, save_policy, trainer_of, whole_and_resumed

from rlhf_recipes import data
from rlhf_recipes.errors import UserError


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def kto(policy, tmp_path):
    """kto("trainer.beta=0.5", …) -> metrics of stage=kto on the tiny policy, in tmp_path/default/kto."""
    return lambda *overrides: run_stage("kto", f"run.root={tmp_path}", f"inputs.policy={policy}", *overrides)


def write(tmp_path, rows) -> str:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.unpaired.path={file}"


def logprob(model, prompt, completion):
    """Of one answer, summed over its tokens."""
    ids = torch.tensor([prompt + completion])
    every = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    return every[len(prompt) - 1 :].sum()


def test_the_loss_by_hand(policy, tmp_path):
    """1 - sigmoid(beta (r - z)) or, if bad, (z - r); z is the mean over each prompt with its neighbour's answer."""
    given = ("trainer.beta=0.3", "trainer.desirable_weight=2", "trainer.per_device_train_batch_size=4")
    trainer = trainer_of("kto", f"run.root={tmp_path}", f"inputs.policy={policy}", *given)
    rows = [trainer.train_dataset[i] for i in range(4)]
    model, reference = trainer.model.train(), trainer.ref_model
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        batch = trainer.data_collator(rows)
        loss = trainer.compute_loss(model, batch)

        def ratio(prompt, completion):
            return logprob(model, prompt, completion) - logprob(reference, prompt, completion)

        z = torch.stack([ratio(rows[i]["prompt_ids"], rows[i - 1]["completion_ids"]) for i in range(4)]).mean().clamp(0)
        r = torch.stack([ratio(row["prompt_ids"], row["completion_ids"]) for row in rows])
    signs = torch.tensor([1.0 if row["label"] else -1.0 for row in rows])
    weight = torch.tensor([2.0 if row["label"] else 1.0 for row in rows])
    assert signs.abs().sum() > signs.sum().abs(), "both labels"
    torch.testing.assert_close(loss, (weight * (1 - torch.sigmoid(0.3 * signs * (r - z)))).mean(), rtol=1e-4, atol=1e-6)


def test_a_pair_becomes_two_rows_and_its_answers_are_set_apart(policy, tmp_path):
    trainer = trainer_of("kto", f"run.root={tmp_path}", f"inputs.policy={policy}")
    labels = trainer.train_dataset["label"]
    assert sum(labels) == len(labels) / 2
    assert 0 < sum(labels[:40]) < 40, "TRL would have read the chosen answers first"
    rows = trainer.train_dataset.to_list()
    own = sum(a["prompt_ids"] == b["prompt_ids"] for a, b in pairwise(rows))
    assert own < len(rows) / 20, "an answer beside its own prompt says nothing of the KL"


LABELS = {"bool": (True, False), "number": (1, 0), "text": ("true", "False")}


@pytest.mark.parametrize("kind", LABELS)
def test_rows_with_labels_are_read_as_they_are_written(tmp_path, kind):
    good, bad = LABELS[kind]
    rows = [{"prompt": f"Question {i}:", "completion": " Yes.", "label": (good, bad)[i % 2]} for i in range(40)]
    rows.append({"prompt": "Question?", "completion": " Yes.", "label": "perhaps"})
    node = {"name": "local", "unpaired": write(tmp_path, rows).partition("=")[2]}
    split = data.load(node, "unpaired")
    assert split.counts["dropped"] == {"label is neither true nor false": 1}
    assert all(row["label"] == (int(row["prompt"].split()[1][:-1]) % 2 == 0) for row in split.train)


def test_conversations_and_rankings_are_rows_too(tmp_path):
    talk = [{"role": "user", "content": "#?"}, {"role": "assistant", "content": "Yes."}]
    rows = [json.loads(json.dumps({"messages": talk, "label": i % 2 == 0}).replace("#", str(i))) for i in range(20)]
    node = {"name": "local", "template": "chat", "eval_fraction": 0}
    split = data.load(node | {"unpaired": write(tmp_path, rows).partition("=")[2]}, "unpaired")
    assert split.train[0]["completion"] == [{"role": "assistant", "content": "Yes."}]
    rows = [{"prompt": f"{i}?", "completions": ["a", "b", "c"], "ranks": [0, 1, 2]} for i in range(9)]
    split = data.load(node | {"template": "plain", "ranked": write(tmp_path, rows).partition("=")[2]}, "unpaired")
    assert len(split.train) == 9 * 3 * 2


REFERENCES = {
    "copy": [],
    "adapter": ["peft=lora", "peft.r=4", "trainer.learning_rate=1e-2"],
    "precomputed": ["trainer.precompute_ref_log_probs=true"],
}


@pytest.mark.parametrize("how", REFERENCES)
def test_the_reference_is_the_start(kto, tmp_path, how):
    metrics = kto(*REFERENCES[how])
    assert log(tmp_path, "kto")[0]["loss"] == pytest.approx(0.5, rel=1e-4)  # all log-ratios and the KL are 0
    assert metrics["eval_margin"] != 0  # the policy moved, the reference did not
    assert None not in metrics.values()


def test_held_out_figures_do_not_depend_on_the_batches_they_were_measured_in(kto):
    def margin(size):
        given = ("trainer.max_steps=2", "trainer.save_strategy=no", "data.eval_fraction=0.2", "data.max_eval=15")
        return kto(f"run.name=b{size}", f"trainer.per_device_eval_batch_size={size}", *given)["eval_margin"]

    assert margin(4) == pytest.approx(margin(15), rel=1e-4)


def test_an_interrupted_run_ends_where_a_whole_one_does(kto, tmp_path):
    whole, again = whole_and_resumed(kto, tmp_path / "default" / "kto", ("trainer.save_total_limit=3",))
    assert again["eval_margin"] == pytest.approx(whole["eval_margin"], rel=1e-4)


def test_preview_shows_each_answer_with_its_label(kto, tmp_path, capsys):
    kto("preview=true", "preview_rows=8")
    shown = capsys.readouterr().out
    assert " desirable" in shown and "undesirable" in shown and "⟦" in shown
    assert not list(tmp_path.iterdir())


def test_labels_that_do_not_count_alike_are_reported(kto, tmp_path, capsys):
    rows = [{"prompt": f"Question {i}:", "completion": " Yes.", "label": i % 4 == 0} for i in range(80)]
    given = ("data=local", write(tmp_path, rows), "data.eval_fraction=0", "trainer.max_steps=1")
    kto(*given)
    assert "trainer.undesirable_weight=0.333 makes them even" in capsys.readouterr().out
    kto(*given, "run.name=even", "trainer.undesirable_weight=0.333")
    assert "makes them even" not in capsys.readouterr().out
    with pytest.raises(UserError, match="of both"):
        kto(*given, "run.name=one", write(tmp_path, [row for row in rows if row["label"]]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.loss_type=kot"], "did you mean kto"),
        (["trainer.per_device_train_batch_size=1"], "expected 2 or more"),
        (["trainer.train_sampling_strategy=random"], "needs sequential"),
        (["trainer.desirable_wight=2"], "did you mean desirable_weight"),
        (["data=gsm8k"], "stage=kto needs unpaired"),
        (["data=local"], "data.unpaired.path=<file>"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kto, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        kto(*overrides)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
