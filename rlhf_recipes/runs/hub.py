"""Whether the hub answers, asked before a library waits for it: its client retries for minutes."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlhf_recipes.errors import UserError

CONNECT = 1.5  # seconds to look up the hub's name and connect
ANSWER = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "10"))  # seconds for its answer then, as the client has it
# Where transport errors come from: the client's HTTP library, which has changed before.
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def no_answer(call: Callable | None = None, *args, **keywords) -> Exception | None:
    """What keeps the hub from answering; None where it answers.

    Args:
        call: a request of the hub's client, made once the hub can be connected to; None: connecting is enough.
        args, keywords: of the call.

    Raises:
        Exception: what the hub answered (no such repository, a gated one, not logged in), or a bug in the client.
    """
    from huggingface_hub import constants, errors

    error = _within(CONNECT, _connect, _address(constants.ENDPOINT))
    if error is None and call is not None:
        error = _within(ANSWER, call, *args, **keywords)
        if isinstance(error, errors.HfHubHTTPError | errors.HFValidationError | errors.LocalTokenNotFoundError):
            raise error
    if error is None or isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
        return error
    raise error


def reach_hub(place: str, setting: str = "model.path") -> None:
    """Raise unless `place` is a file or folder, or in the local cache, or the hub answers.

    Args:
        place: a path or a hub id.
        setting: the setting that gave it, for the message.

    Raises:
        UserError: none of these; or it is no hub id at all.
    """
    if Path(place).expanduser().exists():
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        held = [try_to_load_from_cache(place, file) for file in ("config.json", "tokenizer_config.json")]
    except HFValidationError as error:
        raise UserError(f"{setting}={place}: no such folder, and no hub id (owner/name) either") from error
    if any(isinstance(file, str) for file in held):
        return
    fix = f"give {setting}=<a folder>, or download {place} first (hf download {place})"
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError(f"{place} is not in the local cache and HF_HUB_OFFLINE=1; {fix}")
    if error := no_answer():
        raise UserError(f"the hub cannot be reached to load {place} ({type(error).__name__}); {fix}") from error


def _connect(address: tuple[str, int]) -> None:
    socket.create_connection(address, CONNECT).close()


def _address(endpoint: str) -> tuple[str, int]:
    """Host and port that a request to the hub goes to first: the proxy's where there is one."""
    hub = urlsplit(endpoint)
    proxy = None if proxy_bypass(hub.hostname) else getproxies().get(hub.scheme)
    first = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else hub
    return first.hostname, first.port or (443 if first.scheme == "https" else 80)


def _within(seconds: float, call: Callable, *args, **keywords) -> Exception | None:
    """What a call raises, TimeoutError where it is not back in time: a name lookup obeys no other limit."""
    raised: list[Exception | None] = [TimeoutError(f"no answer in {seconds:g} s")]

    def run() -> None:
        try:
            call(*args, **keywords)
            raised[0] = None
        except Exception as error:
            raised[0] = error

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 0.1)
    return raised[0]
