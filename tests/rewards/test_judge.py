"""The judge against a server on loopback that answers, stalls, fails and counts."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("openai", reason="an extra: pip install 'rlhf-recipes[rewards]'")

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import judge
from rlhf_recipes.rewards.judge_client import Endpoint, ask_all


class Judge(ThreadingHTTPServer):
    """Replies with what `reply(question)` gives; an int is an HTTP status, "hang" a reply that never comes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = lambda question: "Rating: 7"
        self.requests, self.headers_seen = [], []
        self.under_way, self.most = 0, 0
        self.lock, self.barrier, self.leave = threading.Lock(), None, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(body)
            server.headers_seen.append({k.title(): v for k, v in self.headers.items()} | {"path": self.path})
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        if server.barrier is not None:
            server.barrier.wait(timeout=10)
        reply = server.reply(body["messages"][0]["content"])
        with server.lock:
            server.under_way -= 1
        if reply == "hang":
            server.leave.wait(timeout=10)
            return
        if isinstance(reply, int):
            self.send_response(reply)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(b'{"error": "not now"}')
            return
        raw = reply if isinstance(reply, bytes) else json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Judge()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.leave.set()
    server.shutdown()
    server.server_close()


def ask(server, questions=("q",), **settings):
    return ask_all(list(questions), Endpoint(server.url, "m", **({"backoff": 0.0, "timeout": 10} | settings)))


def rate(server, texts, **settings):
    return judge.rating(["p"] * len(texts), texts, url=server.url, model="m", **({"backoff": 0.0} | settings))


def test_rating_and_what_is_sent(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    prompt = [{"role": "user", "content": "How {many}?"}]
    scores = judge.rating([prompt], ["72 {x}"], url=server.url + "/", model="m", api_key_env="MY_KEY", backoff=0.0)
    assert scores == [pytest.approx(6 / 9)]
    (request,), (headers,) = server.requests, server.headers_seen
    assert headers["path"] == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.0, 512)
    assert "user: How {many}?" in request["messages"][0]["content"]
    assert "72 {x}" in request["messages"][0]["content"]


def test_no_key_no_header(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rate(server, ["a"])
    assert "Authorization" not in server.headers_seen[0]


def test_parameters_and_template_are_the_callers(server):
    rate(server, ["a"], parameters={"seed": 3}, template="{prompt}|{completion}")
    assert server.requests[0]["seed"] == 3
    assert "max_tokens" not in server.requests[0]
    assert server.requests[0]["messages"][0]["content"] == "p|a"
    with pytest.raises(UserError, match=r"no \{completion\}"):
        rate(server, ["a"], template="{prompt}")


RATINGS = [
    ("Rating: 1", 0.0),
    ("Rating: 10", 1.0),
    ("I first thought Rating: 2.\n**Rating:** 5.5", 0.5),
    (" 10 \n", 1.0),
    ("Rating: 0", None),
    ("Rating: 11", None),
    ("Rating (1-10): 7", 6 / 9),
    ("Rating (out of 10): **7**/10", 6 / 9),
    ("Rating - 7", 6 / 9),
    ("Rating: 7 - 2 slips", 6 / 9),
    ("Rating = [[7.0]].", 6 / 9),
    ("_Rating_: 7", 6 / 9),
    ("Rating: -3", None),
    ("Rating: \u22123", None),
    ("Rating (1-10): many", None),
    ("Rating: <1 to 10>", None),
    ("Operating: 7", None),
    ("Rating: many", None),
    ("It has 7 words.", None),
    ("", None),
]
VERDICTS = [
    ("Verdict: A", "A"),
    ("Verdict: A, since B is wrong.", "A"),
    ("Verdict: A\nB rambles.", "A"),
    ("Verdict: [[b]]", "B"),
    ("Verdict: **Answer B**", "B"),
    ("**Verdict:** the answer A.", "A"),
    ("Verdict: answer_b", "B"),
    ("First I thought verdict: A.\nVerdict: Tie", "TIE"),
    ("Verdict: A tie", "TIE"),
    ("Verdict: It's a tie.", "TIE"),
    ("Verdict: A is better than B", "A"),
    ("Verdict: a clear win for B", None),
    ("Verdict: A or B", None),
    ("Verdict: <A, B or tie>", None),
    ("Verdict: A/B", None),
    ("Verdict: Both", None),
    ("Verdict: tied up", None),
]


def test_the_rating_and_the_verdict_in_a_judges_words(server):
    assert [judge.rating_in(reply) for reply, _ in RATINGS] == [
        score if score is None else pytest.approx(score) for _, score in RATINGS
    ]
    assert [judge.verdict_in(reply) for reply, _ in VERDICTS] == [verdict for _, verdict in VERDICTS]
    server.reply = lambda question: "It has 7 words."
    assert rate(server, ["a"]) == [None]


def winner(better):
    """A judge that prefers the answer with `better` in it."""

    def reply(question):
        a, b = question.partition("<answer_b>")[0], question.partition("<answer_b>")[2]
        return "Verdict: A" if better in a else "Verdict: B" if better in b else "Verdict: tie"

    return reply


def prefer(server, completions, references, **settings):
    prompts = ["p"] * len(completions)
    settings = {"backoff": 0.0} | settings
    return judge.preference(prompts, completions, url=server.url, model="m", reference=references, **settings)


def test_preference(server):
    server.reply = winner("good")
    assert prefer(server, ["good 1", "x", "y", "z"], ["x", "good 2", "w", None]) == [1.0, 0.0, 0.5, None]
    assert len(server.requests) == 6  # three rows, both ways round


def test_swapping_places_cancels_a_bias_for_the_first(server):
    server.reply = lambda question: "Verdict: A"
    assert prefer(server, ["good", "bad"], ["bad", "good"]) == [0.5, 0.5]
    assert prefer(server, ["good", "bad"], ["bad", "good"], swap=False) == [1.0, 1.0]


def test_a_verdict_that_is_missing_one_way_round(server):
    """One order alone would let a bias for a place through."""
    server.reply = lambda question: "Verdict: B" if question.index("ours") > question.index("theirs") else "Hm."
    assert prefer(server, ["ours"], ["theirs"]) == [None]
    server.reply = lambda question: "Hm."
    assert prefer(server, ["ours again"], ["theirs"]) == [None]
    assert prefer(server, ["ours once"], ["theirs"], swap=False) == [None]


def test_the_reference_column_is_the_callers(server):
    server.reply = winner("good")
    score = judge.preference(["p"], ["good"], url=server.url, model="m", column="chosen", chosen=["x"], backoff=0.0)
    assert score == [1.0]
    with pytest.raises(UserError, match="no column 'reference'"):
        judge.preference(["p"], ["good"], url=server.url, model="m", chosen=["x"])


def test_equal_questions_are_asked_once(server):
    assert ask(server, ["a", "b", "a"]) == ["Rating: 7"] * 3
    assert len(server.requests) == 2
    ask(server, ["a", "c"])
    assert len(server.requests) == 3
    ask(server, ["a"], parameters={"seed": 1})  # another question, as the judge may answer otherwise
    assert len(server.requests) == 4


def test_replies_are_kept_in_a_file(server, tmp_path):
    from rlhf_recipes.rewards import judge_client

    file = tmp_path / "folder/replies.jsonl"
    ask(server, ["a", "b"], cache=str(file))
    file.write_text(file.read_text(encoding="utf-8") + '{"url": "cut sho', encoding="utf-8")
    judge_client._replies.cache_clear()  # as in a new process
    server.reply = lambda question: 500
    assert ask(server, ["b", "a"], cache=str(file)) == ["Rating: 7"] * 2
    assert len(server.requests) == 2
    assert "secret" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("trouble", [429, 500, 503, b"<html>", b'{"choices": []}', "hang"])
def test_trouble_that_passes_is_waited_out(server, trouble):
    replies = [trouble, trouble, "fine"]
    server.reply = lambda question: replies.pop(0)
    assert ask(server, [f"q {trouble}"], timeout=0.2) == ["fine"]
    assert len(server.requests) == 3


def test_trouble_that_stays_is_told(server):
    server.reply = lambda question: 503
    with pytest.raises(UserError, match=r"after 3 attempts: HTTP 503: .*not now.*Check its url") as caught:
        ask(server, retries=2)
    assert "\n" not in str(caught.value)


def scored(server, tmp_path, rows, **settings):
    """The summary of a file of answers "0", "1", ... scored by the judge alone."""
    from rlhf_recipes.rewards import RewardFunctions
    from rlhf_recipes.rewards.score import score_file

    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"prompt": "p", "completion": str(i)}) + "\n" for i in range(rows)))
    kwargs = {"url": server.url, "model": "m", "backoff": 0.0, **settings}
    rewards = RewardFunctions({"judge": {"path": "rlhf_recipes.rewards.judge:rating", "kwargs": kwargs}})
    return score_file(rewards, file, tmp_path / "scores.jsonl")["functions"]["judge"]


def test_a_judge_that_is_down_is_found_out_once(server, tmp_path):
    server.reply = lambda question: 503
    judged = scored(server, tmp_path, rows=40, retries=1, concurrency=2)
    assert len(server.requests) <= 2 * 2
    assert (judged["failures"], judged["count"]) == (40, 0)
    assert "HTTP 503" in judged["stopped"]


def test_a_judge_that_goes_down_half_way_leaves_what_it_gave(server, tmp_path):
    server.reply = lambda question: 503 if len(server.requests) > 20 else "Rating: 10"
    judged = scored(server, tmp_path, rows=40, retries=0, concurrency=1)
    assert (judged["failures"], judged["count"]) == (24, 16)


def test_a_question_that_is_refused_alone_fails_its_row(server, tmp_path):
    server.reply = lambda question: 400 if "<answer>\n7\n" in question else "Rating: 10"
    judged = scored(server, tmp_path, rows=20)
    assert (judged["failures"], judged["count"], judged["stopped"]) == (1, 19, None)
    assert "HTTP 400" in judged["first_failure"]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_asked_again(server, status):
    server.reply = lambda question: status
    with pytest.raises(UserError, match=f"after 1 attempts: HTTP {status}"):
        ask(server)
    assert len(server.requests) == 1


def test_no_server_and_no_url(server):
    server.server_close()
    with pytest.raises(UserError, match=r"after 2 attempts: .*refused"):
        ask(server, ["nobody there"], retries=1)
    with pytest.raises(UserError, match="after 1 attempts"):
        ask_all(["q"], Endpoint("not a url", "m"))


def test_without_the_client_the_extra_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"package openai.*pip install 'rlhf-recipes\[rewards\]'"):
        ask(server, ["not asked before"])


def test_many_at_once_but_not_too_many(server):
    server.barrier = threading.Barrier(3)  # each request waits until three are under way
    ask(server, [f"q{i}" for i in range(9)], concurrency=3)
    assert server.most == 3


def test_the_preference_config_asks_both_ways_round(server):
    from pathlib import Path

    from omegaconf import OmegaConf

    from rlhf_recipes.rewards import RewardFunctions

    file = Path(__file__).parents[2] / "conf/reward/judge_preference.yaml"
    functions = OmegaConf.to_container(OmegaConf.load(file))["functions"]
    functions["preference"]["kwargs"]["url"] = server.url
    server.reply = lambda question: "Verdict: A"  # whoever comes first
    scores, _ = RewardFunctions(functions)(["p"] * 2, ["good", "best"], {"reference": ["bad", None]})
    assert scores == [0.5, None]
    assert len(server.requests) == 2
