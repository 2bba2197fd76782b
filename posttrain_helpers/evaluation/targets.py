"""What an evaluation is about: which models, under which labels, and what identifies their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import record_path
from posttrain_helpers.wording import closest


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

    stages = [name for name in saved_stages(profile) if name != "judge"]
    return [BASE, *(name for name in stages if head_of(stage_path(name, profile)) == "language")]


def label_of(source: str | Path) -> str:
    """Return the label of a model that was given none: its name, in characters that a file name may have."""
    path = Path(source).expanduser()
    return _as_label(path.resolve().name if path.exists() else str(source))


def labels_of(sources: Sequence[str | Path], profile: str | Profile) -> list[str]:
    """Return the labels of models that were given none.

    Where the name of a directory is that of a stage or of another directory, its parent's name stands before
    it: the record of "checkpoints/sft" must not replace that of the stage "sft".

    Args:
        sources: as in the list of `runner.evaluate`.
        profile: what "base" and stages refer to.
    """
    from posttrain_helpers.models.manifest import BASE, saved_stages, stage_path
    from posttrain_helpers.recipes import stage_recipes

    labels, saved = [label_of(source) for source in sources], saved_stages(profile)
    own = {stage_path(name, profile).resolve() for name in saved}
    known = {BASE, *stage_recipes(), *saved}
    for place, source in enumerate(sources):
        path = Path(source).expanduser()
        ambiguous = labels[place] in known or sum(label_of(other) == labels[place] for other in sources) > 1
        if ambiguous and str(source) not in known and path.exists() and path.resolve() not in own:
            labels[place] = _as_label("-".join(path.resolve().parts[-2:]))
    return labels


def _as_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"


def targets_of(models: Any, profile: Profile) -> list[Target]:
    """Return what is to be evaluated; a stage that is missing is built.

    Args:
        models: as for `runner.evaluate`.
        profile: what "base" and stages refer to.

    Raises:
        CourseError: no model, two of one label, a label that cannot be a file name, a source that is no
            model, or a reward model.
    """
    if isinstance(models, Mapping):
        named = list(models.items())
    else:
        models = [models] if isinstance(models, (str, Path)) else list(models)
        named = list(zip(labels_of(models, profile), models, strict=True))
    if not named:
        raise CourseError("there is no model to evaluate; name at least one, such as 'base'.")
    labels = [label for label, _ in named]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise CourseError(
            f"two models have the label {twice[0]!r}; name each once, or call evaluate() with labels of your "
            "own: {label: model, ...}."
        )
    return [_target(label, str(source), profile) for label, source in named]


def _target(label: str, source: str, profile: Profile) -> Target:
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
