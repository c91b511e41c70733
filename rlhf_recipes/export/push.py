"""`export.push_to_hub`: whether it can work, asked before anything is built; then one repository with one commit."""

from pathlib import Path

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.hub import no_answer


def check(repo: str) -> None:
    """Raise unless the hub answers and knows who we are.

    Raises:
        UserError: no such name, offline, unreachable, or not logged in.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    asked = f"export.push_to_hub={repo}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{asked}: expected <owner>/<name> ({error})") from error
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{asked}: HF_HUB_OFFLINE=1; leave one of the two out")
    try:
        unreachable = no_answer(HfApi().whoami)
    except LocalTokenNotFoundError as error:
        raise UserError(f"{asked}: not logged in; run hf auth login, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"{asked}: the hub refuses the token (status {status}); run hf auth login") from error
    if unreachable:
        raise UserError(
            f"{asked}: the hub cannot be reached at {constants.ENDPOINT} ({type(unreachable).__name__}); leave it out, "
            "and upload the folder later with hf upload"
        ) from unreachable


def push(folder: Path, repo: str, private: bool) -> str:
    """Uploads the folder; the repository is made where there is none. Returns its address.

    Raises:
        UserError: the token may not write there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with rlhf_recipes")
    except HfHubHTTPError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"export.push_to_hub={repo}: {first}; the folder stands in {folder}: hf upload {repo} {folder}"
        ) from error
    return str(address)
