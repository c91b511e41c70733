"""lm-evaluation-harness on a task of our own: no network, real figures."""

import json
import math

import pytest

from rlhf_recipes.errors import UserError

pytest.importorskip("lm_eval", reason="no lm-eval here: pip install 'rlhf-recipes[eval]'")

ROWS = [("the cat", " sat", " mat"), ("a big dog", " ran", " red"), ("home", " away", " the"), ("small", " cat", " on")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A multiple-choice task in a folder: which of two words follows."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": q, "choices": [a, b], "answer": i % 2} for i, (q, a, b) in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "next_word.yaml").write_text(
        f"""task: next_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
    )
    return folder


def test_accuracy_is_that_of_the_likelier_choice(tasks, make_model, tokenizer, monkeypatch, tmp_path):
    from rlhf_recipes.evaluation import benchmarks, likelihood

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    measure = benchmarks.prepare(["next_word"], include_path=str(tasks), batch_size=2)
    model = make_model(seed=4)
    found = measure(model, tokenizer)["next_word"]

    def logprob(question, word):
        ids, start = tokenizer(question + word)["input_ids"], len(tokenizer(question)["input_ids"])
        return likelihood.logprobs(model, [(ids[:start], ids[start:])])[0].sum()

    right = [[logprob(q, a) > logprob(q, b), logprob(q, b) > logprob(q, a)][i % 2] for i, (q, a, b) in enumerate(ROWS)]
    share = sum(right) / len(right)
    assert found["acc"] == share
    assert found["acc_stderr"] == pytest.approx(math.sqrt(share * (1 - share) / (len(ROWS) - 1)))
    of_one = benchmarks.prepare(["next_word"], include_path=str(tasks), limit=1)
    assert of_one(model, tokenizer)["next_word"]["acc"] == float(right[0])


def test_examples_stand_before_each_question_where_they_are_asked_for(
    tasks, make_model, tokenizer, monkeypatch, tmp_path
):
    from lm_eval.models.huggingface import HFLM

    from rlhf_recipes.evaluation import benchmarks

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    asked, whole = [], HFLM.loglikelihood
    monkeypatch.setattr(
        HFLM, "loglikelihood", lambda self, requests, **_: asked.append(requests) or whole(self, requests)
    )
    for shots in (None, 1):
        benchmarks.prepare(["next_word"], include_path=str(tasks), num_fewshot=shots, limit=2)(make_model(), tokenizer)
    plain, shown = ([request.args[0] for request in requests] for requests in asked)
    questions, answered = [q for q, _, _ in ROWS], [q + (a, b)[i % 2] for i, (q, a, b) in enumerate(ROWS)]
    assert set(plain) == set(questions[:2])
    assert all(text.startswith(tuple(answered)) and text.endswith(tuple(questions[:2])) for text in shown)


def test_an_unknown_task_is_told_before_a_model_is_loaded(tasks, monkeypatch):
    from lm_eval import tasks as harness

    from rlhf_recipes.evaluation import benchmarks

    only_ours = harness.TaskManager  # reading the harness's own ten thousand takes ten seconds
    monkeypatch.setattr(harness, "TaskManager", lambda include_path, **_: only_ours(None, include_path, False))

    with pytest.raises(UserError, match=r"no task next_wrod; did you mean next_word\?"):
        benchmarks.prepare(["next_wrod"], include_path=str(tasks))
