"""Datasets of the hub, and folders that `datasets` saved. A hub that cannot be reached is reported at once."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rlhf_recipes.data.files import Located, indexed
from rlhf_recipes.errors import HubError, UserError
from rlhf_recipes.runs.hub import ANSWER, no_answer


def probe(source) -> None:
    """Raise unless the set is in the local cache or the hub answers for it. Imports the hub client, not `datasets`.

    Raises:
        UserError: no network, no such set, no such revision, or a set that asks for a login.
    """
    if not cached(source) and (trouble := _ask(source)):
        raise HubError(trouble)


def cached(source) -> bool:
    """Whether `datasets` has this set on disk already."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE", f"{home}/datasets")).expanduser()
    owner, _, name = source.path.rpartition("/")
    # datasets/naming.py: HelpSteer2 lies in nvidia___help_steer2
    name = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)).lower()
    return (cache / (f"{owner}___{name}" if owner else name)).is_dir()


def rows(source) -> Iterator[Located]:
    """The rows of a hub set's split.

    Raises:
        UserError: not there, not reachable, or no such configuration or split.
    """
    import datasets
    from huggingface_hub import constants

    if trouble := _ask(source):
        if not cached(source):
            raise UserError(trouble)
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True  # else it retries for 23 s before the cache
    which = {"revision": source.revision, "split": source.split or "train", "data_files": source.data_files or None}
    try:
        loaded = datasets.load_dataset(source.path, source.config, **which)
    except (ConnectionError, TimeoutError) as error:
        raise UserError(_unreachable(source, error)) from error
    except (ValueError, RuntimeError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"{source.label}: {first}") from error
    return _sampled(loaded, source)


def saved(source) -> Iterator[Located]:
    """The rows of a folder written by `save_to_disk`: a Dataset, or a DatasetDict's split."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(Path(source.path).expanduser()))
    except Exception as error:
        raise UserError(f"{source.label}: a saved dataset that cannot be read ({error})") from error
    if isinstance(loaded, dict):
        loaded = loaded[split_of(source, list(loaded))]
    return _sampled(loaded, source)


def saved_columns(source) -> list[str]:
    """Columns of a `save_to_disk` folder from its own dataset_info.json; no rows are read."""
    folder = Path(source.path).expanduser()
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        folder = folder / split_of(source, splits)
    return list(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")).get("features") or {})


def _sampled(loaded, source) -> Iterator[Located]:
    """All rows, or under a limit a fixed sample: the first of FLAN's rows are all of one task."""
    import numpy

    if source.limit is None or source.limit >= len(loaded) or source.group:
        return indexed(loaded)
    sample = numpy.random.default_rng(0).permutation(len(loaded))[: source.limit]
    return indexed(loaded.select(sample), sample)


def split_of(source, splits: list[str]) -> str:
    """The split asked for, or train, or the only one there is.

    Raises:
        UserError: there is no such split, with those there are.
    """
    wanted = source.split or (splits[0] if len(splits) == 1 else "train")
    if wanted not in splits:
        raise UserError(f"{source.where}.split={wanted}: {source.path} has the splits {', '.join(splits)}")
    return wanted


def _ask(source) -> str | None:
    """None where the hub knows the set; the line to print where it does not answer.

    Raises:
        UserError: it answers, and the set is not to be had.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return _unreachable(source, "HF_HUB_OFFLINE is set")
    try:
        error = no_answer(HfApi().dataset_info, source.path, revision=source.revision, timeout=ANSWER)
    except errors.GatedRepoError as gated:
        raise HubError(f"{source.label}: its terms must be accepted on the hub first; then `hf auth login`") from gated
    except errors.RevisionNotFoundError as missing:
        raise HubError(f"{source.where}.revision={source.revision}: {source.path} has no such revision") from missing
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as missing:
        raise HubError(
            f"{source.label}: no such file or folder here and no such set on the hub (a private one needs "
            f"`hf auth login`); give {source.where}.{source.key}=<file>"
        ) from missing
    return _unreachable(source, error) if error else None


def _unreachable(source, why: object) -> str:
    what = " ".join(str(why).split())[:120] or type(why).__name__
    return (
        f"{source.label} is no file or folder here and the hub cannot be reached ({what}); give "
        f"{source.where}.{source.key}=<file>, or fetch it elsewhere: "
        f"hf download --repo-type dataset {source.path} --local-dir <folder>"
    )
