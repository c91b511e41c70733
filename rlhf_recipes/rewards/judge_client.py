"""Questions to an OpenAI-compatible endpoint: many at once, patient, and none asked twice. Standard library only."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import RowError, UserError

_OF_ONE_QUESTION = {400, 413, 422}  # too long, or not to the endpoint's taste: another may pass
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Args:
        url: base address, as in http://localhost:8000/v1; `/chat/completions` is added.
        model: the name the endpoint knows it by.
        parameters: further fields of the request (temperature, max_tokens ...).
        api_key_env: environment variable with the key; it may be unset for a server of one's own.
        timeout: seconds for one request.
        retries: further attempts where the network fails or the server is busy (408, 429, 5xx).
        backoff: seconds before the first of them, doubled each time, unless the server names its own wait.
        concurrency: requests under way at once.
        cache: JSONL file that keeps the replies for the next run; empty keeps them for this one only.
    """

    url: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    concurrency: int = 8
    cache: str = ""


def ask_all(questions: list[str | list[dict]], endpoint: Endpoint) -> list[str]:
    """The reply to each question (N,). Equal questions are asked once, known ones not at all.

    Args:
        questions: a text, sent as one user message, or messages [{"role", "content"}], sent as they are.
        endpoint: whom to ask.

    Raises:
        RowError: the endpoint refuses one question.
        UserError: it refuses them all, or still fails after all attempts.
    """
    replies = _replies(endpoint.cache)
    keys = [_body(question, endpoint) for question in questions]
    new = [key for key in dict.fromkeys(keys) if not replies.knows(endpoint.url, key)]
    if new:
        down = threading.Event()

        def ask(key: str) -> None:
            if down.is_set():  # the one that found out is raised
                return
            try:
                replies.add(endpoint.url, key, _ask(key, endpoint))
            except UserError:
                down.set()
                raise

        with ThreadPoolExecutor(max_workers=min(endpoint.concurrency, len(new))) as pool:
            list(pool.map(ask, new))
    return [replies.get(endpoint.url, key) for key in keys]


class _Replies:
    """Replies by endpoint and request, and in a file if there is one."""

    def __init__(self, path: str):
        self._known: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._path = Path(path).expanduser() if path else None
        if self._path is not None and self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self._known[row["url"], row["request"]] = row["reply"]
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut short when the run before was killed

    def knows(self, url: str, key: str) -> bool:
        return (url, key) in self._known

    def get(self, url: str, key: str) -> str:
        return self._known[url, key]

    def add(self, url: str, key: str, reply: str) -> None:
        with self._lock:
            self._known[url, key] = reply
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"url": url, "request": key, "reply": reply}) + "\n")


@lru_cache(maxsize=8)
def _replies(path: str) -> _Replies:
    return _Replies(path)


def _body(question: str | list[dict], endpoint: Endpoint) -> str:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    request = {"model": endpoint.model, "messages": messages, **endpoint.parameters}
    return json.dumps(request, sort_keys=True)


def _ask(body: str, endpoint: Endpoint) -> str:
    address = endpoint.url.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(endpoint.api_key_env):
        headers["Authorization"] = f"Bearer {key}"
    wait, problem, kind = endpoint.backoff, "", UserError
    for attempt in range(endpoint.retries + 1):
        if attempt:
            time.sleep(min(wait, _LONGEST_WAIT))
            wait = endpoint.backoff * 2**attempt
        try:
            request = urllib.request.Request(address, data=body.encode(), headers=headers)
            with urllib.request.urlopen(request, timeout=endpoint.timeout) as response:
                return str(json.load(response)["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}: {error.read(300).decode('utf-8', 'replace')}"
            if error.code not in _RETRIED:
                kind = RowError if error.code in _OF_ONE_QUESTION else UserError
                break
            wait = max(wait, _seconds(error.headers.get("Retry-After")))
        except ValueError as error:
            if not isinstance(error, json.JSONDecodeError):  # no URL at all
                problem = str(error)
                break
            problem = "the reply is no JSON"
        except (KeyError, IndexError, TypeError):
            problem = "the reply has no choices[0].message.content"
        except OSError as error:  # refused, reset, timed out
            problem = f"{type(error).__name__}: {error}"
    raise kind(
        f"the endpoint {address} (model {endpoint.model}) gave no reply after {attempt + 1} attempts: "
        f"{' '.join(problem.split())}. Check its url and model, and the key in ${endpoint.api_key_env}."
    )


def _seconds(header: str | None) -> float:
    try:
        return float(header or 0)
    except ValueError:
        return 0.0  # a date: our own wait serves
