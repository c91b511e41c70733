"""Where an export goes: a folder, and on request a repository of the hub. Both are asked before anything is built."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.hub import no_answer


def check_folder(to: Path, source: str, overwrite: bool) -> None:
    """Raise unless the folder may be written.

    Args:
        source: the model's folder or hub id.
        overwrite: run.overwrite: an earlier export may be replaced. Nothing else ever is.

    Raises:
        UserError: something is there, or it holds the model itself.
    """
    to, model = to.resolve(), Path(source).expanduser().resolve()
    if model.exists() and (to == model or to in model.parents or model in to.parents):
        raise UserError(f"export.to={to} and the model in {model} lie in one another; choose another folder")
    if to.exists() and not to.is_dir():
        raise UserError(f"export.to={to} is a file; expected a folder")
    if not to.exists() or not any(to.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{to} is not empty; give run.overwrite=true to export again, or export.to=<folder>")
    if not (to / "config.json").is_file() or not (to / "README.md").is_file():
        raise UserError(f"{to} holds something else than an export (no config.json and README.md); remove it yourself")


@contextmanager
def filled(to: Path) -> Iterator[Path]:
    """A folder beside `to` that becomes `to` when the block ends well, and vanishes when it does not."""
    to = to.resolve()
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's folders are for their owner alone
        if to.exists():
            shutil.rmtree(to)
        os.replace(part, to)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_hub(repo: str) -> None:
    """Raise unless the hub answers and knows who we are.

    Raises:
        UserError: no such name, offline, unreachable, or not logged in.
    """
    setting = f"export.push_to_hub={repo}"
    try:
        validate_repo_id(repo)
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{setting}: HF_HUB_OFFLINE=1; leave one of the two out")
        unreachable = no_answer(HfApi().whoami)
    except HFValidationError as error:
        raise UserError(f"{setting}: expected <owner>/<name> ({error})") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"{setting}: not logged in; run hf auth login, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"{setting}: the hub refuses the token (status {status}); run hf auth login") from error
    if unreachable:
        raise UserError(
            f"{setting}: the hub cannot be reached at {constants.ENDPOINT} ({type(unreachable).__name__}); leave it "
            "out, and upload the folder later with hf upload"
        ) from unreachable


def push(folder: Path, repo: str, private: bool) -> str:
    """Uploads the folder; the repository is made where there is none. Returns its address.

    Raises:
        UserError: the token may not write there.
    """
    try:
        address = HfApi().create_repo(repo, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with rlhf_recipes")
    except HfHubHTTPError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"export.push_to_hub={repo}: {first}; the folder stands in {folder}: hf upload {repo} {folder}"
        ) from error
    return str(address)
