"""stage=evaluate with everything it can be asked for, on the tiny run: endpoints, checkpoints, votes, other runs."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_recipes.evaluation.answers import Draw, generate
from rlhf_recipes.report import trust
from rlhf_recipes.report.run import read


class Endpoint(BaseHTTPRequestHandler):
    """Answers everything with a word; asked to compare, it prefers the answer that holds that word."""

    asked: list[dict] = []  # noqa: RUF012 (the server makes a handler a request)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.asked.append(body)
        question = body["messages"][-1]["content"]
        said = "marvellous"
        if "<answer_a>" in question:
            first = question.partition("<answer_a>")[2].partition("</answer_a>")[0]
            second = question.partition("<answer_b>")[2].partition("</answer_b>")[0]
            said = f"Verdict: {'A' if said in first else 'B' if said in second else 'tie'}"
        raw = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_endpoints_checkpoints_votes_and_another_run_side_by_side(made, house, url, tmp_path, capsys):
    (tmp_path / "first").symlink_to(made[0] / "default")
    metrics, _ = house(
        "evaluate",
        f"run.root={tmp_path}",
        "run.name=second",
        *[f"inputs.{name}=[none]" for name in ("base", "dpo", "grpo")],
        "inputs.sft=first:sft",
        "inputs.ppo=first:ppo",
        "inputs.reward_model=first:reward",
        f"evaluate.endpoints.far={{url: '{url}', model: big}}",
        f"evaluate.judge={{url: '{url}', model: big}}",
        "evaluate.checkpoints=true",
        "evaluate.majority=2",
        "evaluate.pairs=[far_vs_sft,ppo_vs_sft]",
        "evaluate.corpus_rows=4",
    )
    along = [name for name in metrics["models"] if "@" in name]
    assert len(along) == 2 and set(metrics["models"]) == {"sft", "ppo", "far", *along}
    far, ppo = metrics["models"]["far"], metrics["models"]["ppo"]
    assert far["kl"] is None and far["ppl"] is None and far["words"] == 1.0
    assert "far is an endpoint: no log-probabilities" in capsys.readouterr().out
    assert {"corpus_ppl", "majority_at_2", "reward/learned", "accuracy"} <= ppo.keys()
    assert metrics["models"][along[-1]]["kl"] == pytest.approx(ppo["kl"])  # the last checkpoint is the model
    assert metrics["judge"] == "judge"
    assert metrics["win_rate"]["far_vs_sft"]["win"] == 1.0
    assert metrics["win_rate"]["ppo_vs_sft"]["tie"] == 1.0
    assert set(metrics["win_rate"]) == {"far_vs_sft", "ppo_vs_sft"}  # a paid judge is asked about the pairs alone
    plain = [body for body in Endpoint.asked if "<answer_a>" not in body["messages"][-1]["content"]]
    assert plain[0]["max_tokens"] == 12 and plain[0]["model"] == "big"
    rows = [json.loads(line) for line in (tmp_path / "second" / "evaluate" / "samples.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {"sft", "ppo", "far"}

    (tmp_path / "second" / "ppo").symlink_to(tmp_path / "first" / "ppo")
    assert len(trust.frontier(read(tmp_path / "second"), "gold")) == 4  # sft, two checkpoints, ppo


def test_the_score_decides_where_it_is_asked_to_with_a_tie_band(made, house, tmp_path):
    (tmp_path / "x").symlink_to(made[0] / "default")
    given = [f"run.root={tmp_path}", "run.name=y", "run.parent=x", "inputs.dpo=[none]", "inputs.grpo=[none]"]
    given += ["evaluate.pairs=[ppo_vs_sft]", "evaluate.ppl_rows=0", "evaluate.corpus_rows=0", "evaluate.ref=base"]
    metrics, _ = house("evaluate", *given, "evaluate.judge=learned", "evaluate.tie=1e6")
    assert metrics["judge"] == "learned"
    assert metrics["win_rate"] == {"ppo_vs_sft": metrics["win_rate"]["ppo_vs_sft"] | {"tie": 1.0}}
    assert metrics["models"]["base"]["kl"] == 0.0 and metrics["ref"] == "base"
    assert metrics["models"]["ppo"]["ppl"] is None and metrics["models"]["ppo"]["corpus_ppl"] is None


def test_a_benchmark_of_ones_own_runs_through_the_stage_and_onto_the_page(made, house, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="no lm-eval here: pip install 'rlhf-recipes[eval]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = [{"question": f"{n} and one is", "choices": [" more", " less"], "answer": n % 2} for n in range(4)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tasks}/rows.jsonl}}}}\n"
        "test_split: test\nfewshot_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: choices\ndoc_to_target: answer\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "x").symlink_to(made[0] / "default")
    given = [f"run.root={tmp_path}", "run.name=y", "run.parent=x", "evaluate.prompts=1", "evaluate.ppl_rows=0"]
    given += [f"inputs.{name}=[none]" for name in ("base", "ppo", "dpo", "grpo")] + ["evaluate.corpus_rows=0"]
    harness = [f"evaluate.harness.include_path={tasks}", "evaluate.harness.num_fewshot=1", "evaluate.harness.limit=2"]
    metrics, _ = house("evaluate", *given, "evaluate.benchmarks=[sums]", *harness)
    found = metrics["models"]["sft"]["benchmarks"]["sums"]
    assert found["acc"] in (0.0, 0.5, 1.0) and "acc_stderr" in found
    house("report", f"run.root={tmp_path}", "run.name=y")
    page = (tmp_path / "y" / "report.html").read_text()
    assert '<td class="text">sums' in page and "Benchmarks" in page


def test_two_runs_share_a_page_in_the_folder_that_holds_them(made, house, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluate").symlink_to(made[0] / "default" / "evaluate")
    house("report", f"run.root={tmp_path}", f"report.runs=[{tmp_path}/a,b]")
    assert "2 runs compared" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.md").is_file()
    assert f"report: {tmp_path}/report.html" in capsys.readouterr().out


def stopping_at(made, root, **stops):
    """The tiny run's PPO as if it had been trained with these stops: root/first/ppo."""
    stage, copy = made[0] / "default" / "ppo", root / "first" / "ppo"
    copy.mkdir(parents=True)
    (root / "first" / "sft").symlink_to(made[0] / "default" / "sft")
    for name in ("model", "checkpoints", "summary.json"):
        (copy / name).symlink_to(stage / name)
    config = OmegaConf.load(stage / "config.yaml")
    config.trainer.update(stops)
    OmegaConf.save(config, copy / "config.yaml")


@pytest.mark.parametrize("how", ["string", "token"])
def test_a_model_answers_to_where_its_own_training_stopped_and_others_run_on(made, house, tmp_path, how, capsys):
    def answered(root):
        lines = (root / "default" / "evaluate" / "samples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [{r["prompt"]: r["completion"] for r in rows if r["model"] == name} for name in ("sft", "ppo")]

    folder = made[0] / "default" / "ppo" / "model"
    tokenizer, (sft, ppo) = AutoTokenizer.from_pretrained(folder), answered(made[0])
    model = AutoModelForCausalLM.from_pretrained(folder)
    whole = generate(model, tokenizer, list(ppo), Draw(max_new_tokens=12))
    assert [answer.text for answer in whole] == list(ppo.values())  # the stage's own answers, with their tokens
    token = whole[0].ids[5]
    end = tokenizer.decode([token])
    given = {"stop_strings": [end]} if how == "string" else {"stop_token_id": token}
    stopping_at(made, tmp_path, stop_token=None, **given)
    others = [f"inputs.{name}=[none]" for name in ("base", "dpo", "grpo")]
    chosen = ["inputs.sft=first:sft", "inputs.ppo=first:ppo", "reward=exact", "evaluate.checkpoints=true"]
    metrics, _ = house("evaluate", f"run.root={tmp_path}", *others, *chosen)
    assert "ppo ends its answers as in its training: trainer.stop_token=None, trainer.stop_" in capsys.readouterr().out
    after_sft, after = answered(tmp_path)
    assert after_sft == sft
    prefixes = {a.text: [a.ids[: n + 1] for n in range(len(a.ids))] for a in whole}
    ended = 0
    for prompt, text in ppo.items():
        hit = (ids for ids in prefixes[text] if (ids[-1] == token if how == "token" else end in tokenizer.decode(ids)))
        upto = next(hit, None)
        ended += upto is not None
        if upto is None:
            assert after[prompt].startswith(text)  # this PPO was told to pass over EOS
        else:
            assert after[prompt] == tokenizer.decode(upto, skip_special_tokens=True)
    assert metrics["models"]["ppo"]["eos_rate"] >= ended / len(ppo) > 0
    along = [name for name in metrics["models"] if "@" in name]
    assert metrics["models"][along[-1]]["eos_rate"] == metrics["models"]["ppo"]["eos_rate"]  # its last checkpoint


def test_collect_stops_where_the_policys_training_did(made, house, tmp_path):
    stopping_at(made, tmp_path, stop_token=None, stop_strings=["e"])
    given = [f"run.root={tmp_path}", "inputs.policy=first:ppo", "reward=length", "collect.max_new_tokens=24"]
    house("collect", *given)
    pairs = (tmp_path / "default" / "collect" / "preferences.jsonl").read_text().splitlines()
    texts = [json.loads(line)[side] for line in pairs for side in ("chosen", "rejected")]
    rest = [text.partition("e")[2] for text in texts]  # of the token that brought it
    assert any("e" in text for text in texts) and max(map(len, rest)) < 12
    assert max(map(len, texts)) > 24
