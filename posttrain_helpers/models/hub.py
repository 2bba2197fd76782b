"""Models and data sets of the Hugging Face Hub, as local directories.

A copy in the cache is used without asking the network; else the Hub is asked once, with a short time limit,
before anything is downloaded. So a Hub that cannot be reached is one sentence after seconds, not minutes of
retries, and what a download costs and under which licence it comes is printed before it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.weights import has_tokenizer, weight_files
from posttrain_helpers.wording import readable_size

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

TIMEOUT_S = 10
_LABELS = {"model": "model", "dataset": "data set"}
_PATTERNS = {
    # No pickled weights (.bin, .pt) and no code (.py).
    "model": ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
    "dataset": ["*.json", "*.jsonl", "*.parquet", "*.csv", "*.gz", "*.zst", "README.md"],
}


def hub_snapshot(
    repo_id: str, repo_type: str = "model", revision: str | None = None, folder: str | None = None
) -> Path:
    """Return a directory with the files of a Hub repository, from the cache or downloaded.

    Before a download it prints one line with licence, size and place.

    Args:
        repo_id: "owner/name" (or the name alone for very old models).
        repo_type: "model" or "dataset".
        revision: a commit, branch or tag; None takes the cached copy of the main branch, else its newest
            commit.
        folder: only what is below this folder of the repository, such as "data/rl".

    Returns:
        The snapshot directory of the repository in the Hugging Face cache.

    Raises:
        CourseError: no such repository or folder, not reachable, without safetensors, restricted, or a full
            disk.
    """
    from huggingface_hub import snapshot_download

    arguments = _arguments(repo_id, repo_type, revision, folder)
    cache = arguments["cache_dir"]
    cached = _cached_snapshot(arguments, folder)
    if cached is not None:
        return cached
    info = _ask_hub(repo_id, repo_type, revision, cache)
    names = [sibling.rfilename for sibling in info.siblings or []]
    if folder is not None and not any(name.startswith(f"{folder}/") for name in names):
        folders = sorted({name.rpartition("/")[0] for name in names} - {""})
        raise CourseError(
            f"the {_LABELS[repo_type]} {repo_id!r} has no folder {folder!r}; its folders are "
            f"{', '.join(folders) or 'none'}."
        )
    print(_announcement(info, repo_id, repo_type, cache, arguments["allow_patterns"]), flush=True)
    try:
        return Path(snapshot_download(**arguments))
    except OSError as error:
        raise CourseError(
            f"the download of the {_LABELS[repo_type]} {repo_id!r} to {cache} broke off: {error}; run the "
            "cell again (what arrived is kept), or set HF_HOME to a disk with more space."
        ) from error


def cached_model(repo_id: str, revision: str | None = None) -> Path | None:
    """Return the directory of a model in the cache, None if it is not there; the network is not asked."""
    return _cached_snapshot(_arguments(repo_id, "model", revision, None), None)


def _arguments(repo_id: str, repo_type: str, revision: str | None, folder: str | None) -> dict[str, Any]:
    from huggingface_hub import constants

    return {
        "repo_id": repo_id,
        "repo_type": repo_type,
        "revision": revision,
        "cache_dir": Path(constants.HF_HUB_CACHE),
        "allow_patterns": _patterns(repo_type, folder),
    }


def _patterns(repo_type: str, folder: str | None) -> list[str]:
    if folder is None:
        return _PATTERNS[repo_type]
    return [pattern if pattern == "README.md" else f"{folder}/{pattern}" for pattern in _PATTERNS[repo_type]]


def _cached_snapshot(arguments: dict[str, Any], folder: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
    )

    try:
        directory = Path(snapshot_download(**arguments, local_files_only=True))
    except IncompleteSnapshotError as error:
        directory = Path(error.snapshot_path)
        if (
            arguments["repo_type"] == "dataset"
        ):  # files that are not there cannot be told from files not needed
            return None
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise CourseError(
            f"{arguments['repo_id']!r} is no stage, no existing directory and no possible Hub id; correct "
            "the name."
        ) from error
    if arguments["repo_type"] == "dataset":
        return directory if folder is None or (directory / folder).is_dir() else None
    if not weight_files(directory):
        return None
    # An adapter's base has a tokenizer. A copy without one was broken off, or fetched for the weights alone.
    is_adapter = (directory / "adapter_config.json").is_file()
    is_model = (directory / "config.json").is_file() and has_tokenizer(directory)
    return directory if is_adapter or is_model else None


def _announcement(
    info: ModelInfo | DatasetInfo, repo_id: str, repo_type: str, cache: Path, patterns: list[str]
) -> str:
    """Return the line that a reader sees before a download starts."""
    from huggingface_hub.utils import filter_repo_objects

    files = filter_repo_objects(info.siblings or [], allow_patterns=patterns, key=lambda file: file.rfilename)
    sizes = [file.size for file in files]
    size = f"{readable_size(sum(sizes))} at most" if sizes and None not in sizes else "of unknown size"
    licence = getattr(info.card_data, "license", None) or "not stated on its card"
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    return (
        f"downloading the {_LABELS[repo_type]} {repo_id!r} once, {size}, licence: {licence}, to {cache} "
        "(HF_HOME names another place) …"
    )


def _ask_hub(repo_id: str, repo_type: str, revision: str | None, cache: Path) -> ModelInfo | DatasetInfo:
    """Ask the Hub about the repository once; the library's own downloads retry for half a minute per file."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    label = f"the {_LABELS[repo_type]} {repo_id!r}"
    at = f" at revision {revision!r}" if revision else ""
    try:
        info = HfApi().repo_info(
            repo_id, repo_type=repo_type, revision=revision, timeout=TIMEOUT_S, files_metadata=True
        )
    except GatedRepoError as error:
        raise CourseError(
            f"{label} asks for permission; accept its terms on the Hub and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CourseError(
            f"{label} does not exist on the Hub{at}, or is private; check the spelling."
        ) from error
    except (OSError, HTTPError) as error:
        reason = "offline mode" if constants.HF_HUB_OFFLINE else type(error).__name__
        place = f"{cache}{at}"
        raise CourseError(
            f"{label} is not in the cache {place} and the Hub cannot be reached ({reason}); go online once "
            "with HF_HUB_OFFLINE=0, give a local directory, or use the offline profile 'tiny'."
        ) from error
    names = [sibling.rfilename for sibling in info.siblings or []]
    if repo_type == "model" and not any(name.endswith(".safetensors") for name in names):
        raise CourseError(
            f"{label} has no safetensors weights on the Hub, and pickled weights are not loaded; choose "
            "another revision or another model."
        )
    return info
