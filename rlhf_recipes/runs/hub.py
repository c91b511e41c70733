"""The hub, asked before a library waits for it."""

import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rlhf_recipes.errors import UserError


def reach_hub(place: str, setting: str = "model.path") -> None:
    """Raise unless `place` is a file or folder, or in the local cache, or the hub answers within three seconds.

    The hub client retries for minutes; a person at the shell wants to know now.

    Args:
        place: a path or a hub id.
        setting: what names it, for the fix that is told.

    Raises:
        UserError: none of these; or it is no hub id at all.
    """
    if Path(place).expanduser().exists():
        return
    from huggingface_hub import constants, try_to_load_from_cache
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
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=3).close()
    except HTTPError:
        return  # it answered
    except OSError as error:
        raise UserError(f"the hub cannot be reached to load {place} ({type(error).__name__}); {fix}") from error
