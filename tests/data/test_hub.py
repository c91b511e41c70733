"""The hub: not reachable, and one on loopback with its revisions, splits and configurations."""

import json
import os
import subprocess
import sys

import pytest
from hub_on_loopback import serve

from rlhf_recipes.data import hub_datasets
from rlhf_recipes.data.sources import Source
from rlhf_recipes.runs import hub


def rows(word: str, n: int) -> bytes:
    return b"".join(json.dumps({"prompt": f"{word} {i}?", "completion": "x"}).encode() + b"\n" for i in range(n))


CASES = {
    "eval_split": {"eval_split": "test"},
    "revision": {"revision": "v1", "split": "test"},
    "data_files": {"data_files": "test.jsonl"},
    "limit": {"limit": 10},
    "no revision": {"revision": "v2"},
    "no split": {"split": "nope"},
    "no config": {"config": "nope"},
    "no set": {"path": "owner/nothing"},
    "no format": {"format": "shp"},
}
PROGRAM = """
import json, sys
from rlhf_recipes import data
from rlhf_recipes.errors import UserError
for name, source in json.loads(sys.argv[1]).items():
    node = {"name": "x", "eval_fraction": 0, "demos": {"path": "owner/pairs"} | source}
    try:
        split = data.load(node, "demos")
        print(json.dumps([name, list(split.train["prompt"]), list(split.eval["prompt"])]))
    except UserError as error:
        print(json.dumps([name, str(error)]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    """What `load` gives for each case, and then for `eval_split` again with the hub gone."""
    home = tmp_path_factory.mktemp("hf")
    with serve("owner/pairs", {"train.jsonl": rows("train", 30), "test.jsonl": rows("test", 5)}, ("main", "v1")) as url:
        env = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        told = _run(CASES, env)
    return told | {"gone": _run({"eval_split": CASES["eval_split"], "no set": CASES["no set"]}, env)}


def _run(cases: dict, env: dict) -> dict:
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(cases)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: said[0] if isinstance(said[0], str) else said for name, *said in lines}


def test_splits_revisions_and_files(answers):
    train, test = [f"train {i}?" for i in range(30)], [f"test {i}?" for i in range(5)]
    assert answers["eval_split"] == [train, test]
    assert answers["revision"] == [test, []]
    assert answers["data_files"] == [test, []]
    assert len(set(answers["limit"][0])) == 10 and set(answers["limit"][0]) < set(train)
    assert answers["limit"][0] != train[:10]  # a sample, not the first


def test_what_the_hub_does_not_have(answers):
    assert answers["no revision"] == "data.demos.revision=v2: owner/pairs has no such revision"
    assert "Unknown split \"nope\". Should be one of ['train', 'test']" in answers["no split"]
    assert "'nope' not found. Available: ['default']" in answers["no config"]
    assert answers["no set"].startswith("data.demos.path=owner/nothing: no such file or folder here and no such set")
    assert "format=shp gives preferences, demos" in answers["no format"] or "needs history" in answers["no format"]


def test_a_set_in_the_cache_needs_no_hub(answers):
    assert answers["gone"]["eval_split"] == answers["eval_split"]
    assert "the hub cannot be reached" in answers["gone"]["no set"]


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError("no answer in 3 s"), OSError("no name")])
def test_an_unreachable_hub_names_the_way_out(error, monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(self, *args, **keywords):
        raise error

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "_connect", lambda address: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(hub_datasets.UserError) as caught:
        hub_datasets.probe(Source(where="data.preferences", path="Anthropic/hh-rlhf"))
    assert str(caught.value) == (
        "data.preferences.path=Anthropic/hh-rlhf is no file or folder here and the hub cannot be reached "
        f"({error}); give data.preferences.path=<file>, or fetch it elsewhere: "
        "hf download --repo-type dataset Anthropic/hh-rlhf --local-dir <folder>"
    )


def test_a_bug_in_the_client_is_not_called_a_bad_network(monkeypatch, tmp_path):
    import huggingface_hub

    def broken(self, *args, **keywords):
        raise ZeroDivisionError

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "_connect", lambda address: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", broken)
    with pytest.raises(ZeroDivisionError):
        hub_datasets.probe(Source(where="data.demos", path="owner/pairs"))


def test_a_name_that_is_not_found_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    with pytest.raises(hub_datasets.UserError, match=r"data\.demos\.path=owner/pairs .* the hub cannot be reached"):
        hub_datasets.probe(Source(where="data.demos", path="owner/pairs"))


@pytest.mark.parametrize(
    ("proxies", "address"),
    [
        ({}, ("huggingface.co", 443)),
        ({"https_proxy": "http://proxy.here:3128"}, ("proxy.here", 3128)),
        ({"https_proxy": "proxy.here:3128"}, ("proxy.here", 3128)),
        ({"https_proxy": "http://proxy.here:3128", "no_proxy": "huggingface.co"}, ("huggingface.co", 443)),
    ],
)
def test_a_proxy_is_asked_in_the_hubs_place(proxies, address, monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    assert hub._address("https://huggingface.co") == address


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("owner/name", "hub"),
        ("imdb", "hub"),
        ("pairs.jsonl", "files"),
        ("tests/data", "files"),
        ("tests/nothing_here", "files"),  # tests/ is a folder here: a mistyped path, not a hub id
        ("./mine", "files"),
        ("a/b/c", "files"),
        ("embedded", "embedded"),
    ],
)
def test_what_is_a_hub_id(path, place, monkeypatch):
    from rlhf_recipes.config.paths import HOUSE

    monkeypatch.chdir(HOUSE)
    assert Source(where="data.demos", path=path).place == place
