"""Where an export goes, and that the hub is asked before anything is built."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.export import card, place


def test_an_empty_or_absent_folder_may_be_written(tmp_path):
    place.check_folder(tmp_path, "runs/x/sft/model", overwrite=False)
    place.check_folder(tmp_path / "new" / "one", "runs/x/sft/model", overwrite=False)


def test_only_an_earlier_export_is_ever_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite, words in ((False, "is not empty"), (True, "something else than an export")):
        with pytest.raises(UserError, match=words):
            place.check_folder(tmp_path, "org/model", overwrite)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("x")
    place.check_folder(tmp_path, "org/model", overwrite=True)


def test_the_model_itself_is_no_place_to_go(tmp_path):
    model = tmp_path / "sft" / "model"
    model.mkdir(parents=True)
    for to in (model, model / "out", tmp_path / "sft"):
        with pytest.raises(UserError, match="lie in one another"):
            place.check_folder(to, str(model), overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        place.check_folder(tmp_path / "file", str(model), overwrite=True)


def test_a_failure_leaves_the_old_export_as_it_was(tmp_path):
    to = tmp_path / "out"
    with place.filled(to) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), place.filled(to) as folder:
        (folder / "a").write_text("new")
        raise RuntimeError
    assert (to / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def endpoint(monkeypatch):
    """Points the hub client at a server on loopback that answers with (status, body) by path; records what came."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    came, answers = [], {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append((self.command, self.path))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.path, (404, {}))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(place, "HfApi", lambda: HfApi(endpoint=address, token="hf_made_up"))
    yield answers, came
    server.shutdown()


def test_a_hub_that_knows_us_is_fine_and_one_that_does_not_is_told(endpoint):
    answers, came = endpoint
    answers["/api/whoami-v2"] = (200, {"name": "me", "auth": {}})
    place.check_hub("me/model")
    assert ("GET", "/api/whoami-v2") in came
    answers["/api/whoami-v2"] = (401, {"error": "no"})
    with pytest.raises(UserError, match="refuses the token"):
        place.check_hub("me/model")


def test_pushing_makes_a_private_repository_and_says_where_the_folder_is_when_it_may_not(endpoint, tmp_path):
    answers, came = endpoint
    answers["/api/repos/create"] = (403, {"error": "no right to write there"})
    with pytest.raises(UserError, match=f"hf upload me/model {tmp_path}"):
        place.push(tmp_path, "me/model", private=True)
    assert came[0] == ("POST", "/api/repos/create")
    assert not any("upload" in path or "commit" in path for _, path in came)


def test_a_pushed_export_is_one_commit_of_the_whole_folder_in_a_private_repository(
    export, endpoint, monkeypatch, tmp_path, capsys
):
    """The hub's side is a stand-in: its client asks for leave, then gets a repository and one folder."""
    answers, _ = endpoint
    answers["/"] = (200, {})
    asked = []

    class Api:
        def whoami(self):
            asked.append(("whoami",))

        def create_repo(self, repo, *, private, exist_ok):
            asked.append(("create_repo", repo, private, exist_ok))
            return f"https://hub.example/{repo}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            asked.append(("upload_folder", repo_id, sorted(file.name for file in folder_path.iterdir())))

    monkeypatch.setattr(place, "HfApi", Api)
    export("export.model=sft", "export.push_to_hub=me/model", f"export.to={tmp_path}/out")
    assert asked[:2] == [("whoami",), ("create_repo", "me/model", True, True)]
    name, repo, files = asked[2]
    assert (name, repo, len(asked)) == ("upload_folder", "me/model", 3)
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert "export: https://hub.example/me/model" in capsys.readouterr().out
    assert "me/model" in (tmp_path / "out" / "README.md").read_text()


def test_an_unreachable_hub_is_told_before_anything_is_built(export, made, monkeypatch, tmp_path):
    from huggingface_hub import constants

    from rlhf_recipes import models

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(models, "load_tokenizer", lambda *args: pytest.fail("something was loaded"))
    with pytest.raises(UserError, match="the hub cannot be reached") as error:
        export("export.push_to_hub=me/model", f"export.to={tmp_path}/out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_none_and_offline_are_told(monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(UserError, match="expected <owner>/<name>"):
        place.check_hub("a/b/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1"):
        place.check_hub("me/model")


@pytest.mark.parametrize(
    ("merged", "path", "named"),
    [("Qwen/Qwen2.5-0.5B", None, True), ("runs/x/sft/model", "Qwen/Qwen2.5-0.5B", True), ("./mine", "./mine", False)],
)
def test_the_card_names_a_base_model_of_the_hub(merged, path, named):
    from rlhf_recipes.export.weights import Merged
    from rlhf_recipes.runs.resolve import ModelSource

    source = ModelSource("ppo", "runs/x/ppo/model", config={"model": {"path": path}})
    facts = card.Facts(source, Merged(None, ("runs/x/ppo/model",), 0.0, merged), "float32", "hh", ["</s>"])
    assert ("base_model: Qwen/Qwen2.5-0.5B" in card.front_matter(facts)) == named


def test_sources_of_a_domain_are_named_on_the_card():
    config = {"data": {"demos": {"path": "a/set"}, "prompts": "mine.jsonl", "corpus": None}}
    config["data"]["preferences"] = {"path": None, "sources": [{"path": "b/one"}, {"path": "c/two"}]}
    assert card.sources(config) == [
        ("demos", "a/set"),
        ("preferences", "b/one"),
        ("preferences", "c/two"),
        ("prompts", "mine.jsonl"),
    ]
