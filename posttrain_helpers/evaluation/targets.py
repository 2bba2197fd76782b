"""What an evaluation is about: which models, under which labels, and what identifies their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import record_path
from posttrain_helpers.wording import closest

_JUDGES = ("judge",)


@dataclass(frozen=True)
class Target:
    """One model to evaluate.

    Attributes:
        label: its name in tables and on disk.
        source: what it was called by: "base", a stage, a directory or a Hub id.
        directory: where its files are.
        identity: changes when its weights change.
        parent: what it was trained from, None where nothing tells.
    """

    label: str
    source: str
    directory: Path
    identity: str
    parent: str | None


def finished_models(profile: str | Profile | None = None) -> list[str]:
    """Return "base" and the complete stages of a profile that reply to people; a judge says letters only."""
    from posttrain_helpers.models.loading import head_of
    from posttrain_helpers.models.manifest import BASE, saved_stages, stage_path

    stages = [name for name in saved_stages(profile) if name not in _JUDGES]
    return [BASE, *(name for name in stages if head_of(stage_path(name, profile)) == "language")]


def label_of(source: str | Path) -> str:
    """Return the label of a model that was given none: its name, in characters that a file name may have."""
    name = Path(source).expanduser().resolve().name if Path(source).expanduser().exists() else str(source)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"


def targets_of(models: Any, profile: Profile) -> list[Target]:
    """Return what is to be evaluated; a stage that is missing is built.

    Args:
        models: as for `runner.evaluate`.
        profile: what "base" and stages refer to.

    Raises:
        CourseError: as `runner.evaluate`.
    """
    if isinstance(models, (str, Path)):
        models = [models]
    named = list(models.items()) if isinstance(models, Mapping) else [(label_of(m), m) for m in models]
    if not named:
        raise CourseError("there is no model to evaluate; name at least one, such as 'base'.")
    labels = [label for label, _ in named]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise CourseError(
            f"two models have the label {twice[0]!r}; name each once, or give labels of your own: "
            "{label: model, ...}."
        )
    return [target_of(label, str(source), profile) for label, source in named]


def target_of(label: str, source: str, profile: Profile) -> Target:
    """Return one model to evaluate under a label.

    Raises:
        CourseError: the label cannot be a file name, the source is no model, or a reward model.
    """
    from posttrain_helpers.models.loading import head_of, model_directory
    from posttrain_helpers.models.manifest import BASE, model_identity, parent_of, saved_stages
    from posttrain_helpers.recipes import stage_recipes
    from posttrain_helpers.stages.build import resolve_model

    record_path(label, profile.name)  # refuses a label that cannot be a file name
    try:
        directory = model_directory(resolve_model(source, profile), None, profile)
    except CourseError as error:
        known = [BASE, *stage_recipes(), *saved_stages(profile)]
        if source in known or not (hint := closest(source, known)):
            raise
        raise CourseError(f"{source!r} is no stage; {hint}Otherwise: {error}") from error
    if head_of(directory) == "reward":
        raise CourseError(
            f"{source!r} is a reward model: it has a score head and cannot answer; evaluate a language "
            "model, and use this one as a judge of replies."
        )
    return Target(label, source, directory, model_identity(str(directory)), parent_of(directory))
