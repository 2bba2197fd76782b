"""Where the models are that `python -m posttrain_helpers fetch` has put beside the runs."""

from __future__ import annotations

from pathlib import Path

from posttrain_helpers.environment.paths import output_root, repository_root

# The file that says where the model in a directory comes from.
PROVENANCE = "fetched.json"
# Ids on the Hub, and the names under which `fetch` knows them.
FETCHABLE = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2"}


def models_root() -> Path:
    """Return the directory for models that are no stages."""
    return output_root() / "models"


def fetched_directory(model: str) -> Path | None:
    """Return the directory of a model that was fetched, None if it was not.

    A model lies in the repository's `trainer_output` for every output directory, so that a trial with one of
    its own needs no second copy.

    Args:
        model: an id on the Hub, or anything else that names a model.
    """
    if model not in FETCHABLE:
        return None
    for root in dict.fromkeys((models_root(), repository_root() / "trainer_output" / "models")):
        directory = root / model.rpartition("/")[2]
        if (directory / PROVENANCE).is_file():
            return directory
    return None


def fetch_command(model: str) -> str:
    """Return the command that fetches a model of `FETCHABLE`."""
    return f"python -m posttrain_helpers fetch {FETCHABLE[model]}"
