"""Several trainings of one recipe: over models, values of a setting, and seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from posttrain_helpers.errors import CourseError
from posttrain_helpers.stages.save import TRAINING_LOG
from posttrain_helpers.training.progress import MEASURES


def variants(models: Sequence[str], sweeps: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
    """Return the overrides of each training, in every combination; one without any if nothing varies.

    Args:
        models, seeds: of which each is taken.
        sweeps: as "args.learning_rate=1e-5,2e-5".

    Raises:
        CourseError: a sweep that names no value.
    """
    axes = [[f"model={model}" for model in models], *map(_values, sweeps), [f"seed={seed}" for seed in seeds]]
    return [list(choice) for choice in product(*filter(None, axes))]


def _values(sweep: str) -> list[str]:
    key, _, values = sweep.partition("=")
    chosen = [value.strip() for value in values.split(",") if value.strip()]
    if not key or not chosen:
        raise CourseError(
            f"--sweep needs a key and its values, as args.learning_rate=1e-5,2e-5, but found {sweep!r}."
        )
    return [f"{key}={value}" for value in chosen]


def last_measure(stage: Path) -> str:
    """Return the last reward or loss that a training logged, in words."""
    log = json.loads((stage / TRAINING_LOG).read_text(encoding="utf-8"))
    for name in MEASURES:
        if values := [entry[name] for entry in log if name in entry]:
            return f"{name} {values[-1]:.4f} at the end of the training"
    return "nothing was logged"
