"""Questions to an OpenAI-compatible endpoint through the openai client: many at once, and none asked twice."""

import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.load import extra
from rlhf_recipes.runs.jsonl import read_jsonl

_OF_ONE_QUESTION = {400, 413, 422}  # too long, or refused for its content: another question may pass
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT = 60.0  # seconds
_LOCK = threading.Lock()  # of the replies and their file


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
    """The reply to each question (N,). Equal questions are sent once, and those with a known reply not at all.

    Args:
        questions: a text, sent as one user message, or messages [{"role", "content"}], sent as they are.
        endpoint: whom to ask.

    Raises:
        RowError: the endpoint refuses one question.
        UserError: it refuses them all, or still fails after all attempts; or the package openai is not installed.
    """
    known = _replies(endpoint.cache)
    keys = [(endpoint.url, _request(question, endpoint)) for question in questions]
    new = [key for key in dict.fromkeys(keys) if key not in known]
    if new:
        down = threading.Event()
        secret = os.environ.get(endpoint.api_key_env) or "none"
        client = extra("openai").OpenAI(base_url=endpoint.url, api_key=secret, timeout=endpoint.timeout, max_retries=0)

        def ask(key: tuple[str, str]) -> None:
            if down.is_set():  # another thread raises the error
                return
            try:
                _keep(known, key, _ask(client, json.loads(key[1]), endpoint), endpoint.cache)
            except UserError:
                down.set()
                raise

        with client, ThreadPoolExecutor(max_workers=min(endpoint.concurrency, len(new))) as pool:
            list(pool.map(ask, new))
    return [known[key] for key in keys]


@lru_cache(maxsize=8)
def _replies(path: str) -> dict[tuple[str, str], str]:
    """Replies by endpoint and request: those of the file, if there is one, and later those of this run."""
    rows = read_jsonl(Path(path).expanduser()) if path else []
    return {(row["url"], row["request"]): row["reply"] for row in rows if {"url", "request", "reply"} <= row.keys()}


def _keep(known: dict[tuple[str, str], str], key: tuple[str, str], reply: str, path: str) -> None:
    with _LOCK:
        known[key] = reply
        if path:
            file = Path(path).expanduser()
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"url": key[0], "request": key[1], "reply": reply}) + "\n")


def _request(question: str | list[dict], endpoint: Endpoint) -> str:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return json.dumps({"model": endpoint.model, "messages": messages, **endpoint.parameters}, sort_keys=True)


def _ask(client, request: dict[str, Any], endpoint: Endpoint) -> str:
    """One reply. The attempts are counted here: the client would not try again after a malformed reply."""
    openai = extra("openai")
    headers = {} if os.environ.get(endpoint.api_key_env) else {"Authorization": openai.Omit()}
    wait, kind = endpoint.backoff, UserError
    for attempt in range(endpoint.retries + 1):
        if attempt:
            time.sleep(min(wait, _LONGEST_WAIT))
            wait = endpoint.backoff * 2**attempt
        try:
            reply = client.chat.completions.create(
                model=request["model"], messages=request["messages"], extra_body=request, extra_headers=headers
            )
            if choices := getattr(reply, "choices", None):
                return str(choices[0].message.content or "")
            problem = "the reply has no choices[0].message.content"
        except openai.APIStatusError as error:
            problem = f"HTTP {error.status_code}: {error.response.text[:300]}"
            if error.status_code not in _RETRIED:
                kind = RowError if error.status_code in _OF_ONE_QUESTION else UserError
                break
            wait = max(wait, _seconds(error.response.headers.get("Retry-After")))
        except openai.APIConnectionError as error:  # refused, reset, timed out
            problem = f"{type(error).__name__}: {error.__cause__ or error}"
            if type(error.__cause__).__name__ == "UnsupportedProtocol":  # not a URL
                break
        except (json.JSONDecodeError, openai.APIResponseValidationError):
            problem = "the reply is not JSON"
    raise kind(
        f"the endpoint {endpoint.url} (model {endpoint.model}) gave no reply after {attempt + 1} attempts: "
        f"{' '.join(problem.split())}. Check its url and model, and the key in ${endpoint.api_key_env}."
    )


def _seconds(header: str | None) -> float:
    try:
        return float(header or 0)
    except ValueError:
        return 0.0  # a date; the wait of our own is used
