"""Trackers of trainings by name: whether one is installed, where it writes, and its keys.

Keys come from the environment or from a file `.env` (of the working directory or the repository), and go
nowhere else: no recipe, log or manifest has a place for them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError

# Where each writes, unless the reader says otherwise: beside the checkpoints, not in the working directory.
TRACKERS = {
    "tensorboard": "TENSORBOARD_LOGGING_DIR",
    "wandb": "WANDB_DIR",
    "mlflow": "MLFLOW_TRACKING_URI",
    "trackio": "TRACKIO_DIR",
}


def prepare_tracker(name: str, directory: Path) -> None:
    """Let a tracker find its keys and write into a directory.

    Args:
        name: of `TRACKERS`.
        directory: made if need be.

    Raises:
        CourseError: it is not installed.
    """
    if find_spec(name) is None:
        raise CourseError(
            f"the tracker {name} is not installed; install it (`python -m pip install {name}`), or leave "
            "--track out."
        )
    read_keys()
    directory.mkdir(parents=True, exist_ok=True)
    place = f"sqlite:///{directory / 'mlflow.db'}" if name == "mlflow" else str(directory)
    os.environ.setdefault(TRACKERS[name], place)
    os.environ.setdefault("WANDB_PROJECT", "posttrain")
    os.environ.setdefault("WANDB_LOG_MODEL", "false")  # uploads nothing but numbers


def read_keys() -> None:
    """Add the lines KEY=VALUE of `.env` to the environment, where they are not set."""
    for directory in dict.fromkeys((Path.cwd(), repository_root())):
        file = directory / ".env"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            key, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and not key.startswith("#"):
                os.environ.setdefault(key.strip(), value.strip().strip("\"'"))
