"""Trackers of trainings by name: whether one is installed, where it writes, and its keys.

Keys come from the environment or from a file `.env` (of the working directory or the repository), and go
nowhere else: no recipe, log or manifest has a place for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from posttrain_helpers.environment.imports import is_installed
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError

# Where each writes, unless the reader says otherwise: beside the checkpoints, not in the working directory.
TRACKERS = {
    "tensorboard": "TENSORBOARD_LOGGING_DIR",
    "wandb": "WANDB_DIR",
    "mlflow": "MLFLOW_TRACKING_URI",
    "trackio": "TRACKIO_DIR",
}


def check_tracker(name: str) -> None:
    """Check that a tracker of `TRACKERS` is there.

    Raises:
        CourseError: it is not installed.
    """
    if not is_installed(name):
        raise CourseError(
            f"the tracker {name} is not installed; install it (`python -m pip install {name}`), or leave "
            "--track out."
        )


def prepare_tracker(name: str, directory: Path) -> None:
    """Let a tracker find its keys and write into a directory.

    Args:
        name: of `TRACKERS`.
        directory: made if need be.
    """
    read_keys()
    directory.mkdir(parents=True, exist_ok=True)
    place = f"sqlite:///{directory / 'mlflow.db'}" if name == "mlflow" else str(directory)
    os.environ.setdefault(TRACKERS[name], place)
    os.environ.setdefault("WANDB_PROJECT", "posttrain")
    os.environ.setdefault("WANDB_LOG_MODEL", "false")  # uploads nothing but numbers


def read_keys() -> None:
    """Add the lines KEY=VALUE of `.env` to the environment, where they are not set.

    Raises:
        CourseError: a file is not in UTF-8.
    """
    for directory in dict.fromkeys((Path.cwd(), repository_root())):
        file = directory / ".env"
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else ()
        except UnicodeDecodeError as error:
            raise CourseError(f"{file} is not in UTF-8; save it as such.") from error
        for line in lines:
            key, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and not key.startswith("#"):
                os.environ.setdefault(key.strip(), _unquoted(value))


def _unquoted(value: str) -> str:
    """Return a value without its quotation marks, or without the remark behind it."""
    bare = value.strip()
    if bare.startswith(("'", '"')):
        return bare[1:].partition(bare[0])[0]
    return re.split(r"\s#", value)[0].strip()
