"""`export.push_to_hub`: whether it can work, asked before anything is built; then one repository with one commit."""

from pathlib import Path

from rlhf_recipes.data.hub_datasets import TRANSPORTS
from rlhf_recipes.errors import UserError


def check(repo: str) -> None:
    """Raise unless the hub answers within three seconds and knows who we are.

    Raises:
        UserError: no such name, offline, unreachable, or not logged in.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import get_session, validate_repo_id

    asked = f"export.push_to_hub={repo}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{asked}: expected <owner>/<name> ({error})") from error
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{asked}: HF_HUB_OFFLINE=1; leave one of the two out")
    try:
        get_session().head(constants.ENDPOINT, timeout=3)  # a request of the API would be tried for minutes
        HfApi().whoami()
    except LocalTokenNotFoundError as error:
        raise UserError(f"{asked}: not logged in; run hf auth login, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(f"{asked}: the hub refuses the token (status {status}); run hf auth login") from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in TRANSPORTS:
            raise
        raise UserError(
            f"{asked}: the hub cannot be reached at {constants.ENDPOINT} ({type(error).__name__}); leave it out, and "
            "upload the folder later with hf upload"
        ) from error


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
