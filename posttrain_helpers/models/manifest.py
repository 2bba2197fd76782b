"""What is on disk: where stages stand, what their manifests say, and whether a stage is whole.

A stage is the directory `<output>/<profile>/stages/<name>`, and it loads only with its `manifest.json`.
Nothing here builds or loads a model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.fetched import FETCHABLE, fetched_directory
from posttrain_helpers.environment.paths import output_root, read_json
from posttrain_helpers.environment.profiles import READY_MADE, Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.gguf import is_gguf_file
from posttrain_helpers.models.weights import sha256, weight_files, weights_identity
from posttrain_helpers.wording import suggestion

BASE = "base"
MANIFEST = "manifest.json"
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def stage_path(name: str, profile: str | Profile | None = None) -> Path:
    """Return the directory of a stage, whether or not it exists.

    Raises:
        CourseError: the name is that of a ready-made model ("base", "instruct", "ready_made_sft") or holds
            more than letters, digits, "_" and "-".
    """
    if not STAGE_NAME.fullmatch(name) or name == BASE or name in READY_MADE:
        raise CourseError(
            f"{name!r} cannot name a stage; use letters, digits, '_' and '-', and none of "
            f"{', '.join(map(repr, (BASE, *READY_MADE)))}, which are ready-made models."
        )
    return output_root() / get_profile(profile).name / "stages" / name


def is_complete(path: str | Path) -> bool:
    """Say whether a directory holds a stage with manifest and weights files of the recorded sizes."""
    try:
        weights = read_manifest(Path(path))["weights"]
    except (CourseError, FileNotFoundError):
        return False
    return all(_has_size(Path(path) / name, entry["bytes"]) for name, entry in weights.items())


def saved_stages(profile: str | Profile | None = None) -> list[str]:
    """Return the names of the complete stages of a profile."""
    root = output_root() / get_profile(profile).name / "stages"
    return sorted(
        path.name for path in root.glob("*") if STAGE_NAME.fullmatch(path.name) and is_complete(path)
    )


def finished_stage(name: str, profile: str | Profile | None = None) -> Path:
    """Return the directory of a stage that is there and whole; none is built.

    Raises:
        CourseError: there is no such stage, or it is damaged.
    """
    stage = stage_path(name, profile)
    if not stage.is_dir():
        saved = saved_stages(profile)
        raise CourseError(
            f"the stage {name!r} is not there{suggestion(name, saved)}Finished are "
            f"{', '.join(saved) or 'none'}; make it with `python -m posttrain_helpers train`."
        )
    verify(stage)
    return stage


def parent_of(directory: Path) -> str | None:
    """Return what the stage in a directory was trained from, None if the directory is no stage."""
    try:
        return read_manifest(directory)["model"]
    except FileNotFoundError:
        return None


def base_of_adapter(directory: Path, profile: str | Profile | None = None) -> str | None:
    """Return the model that the adapter in a stage was trained on, None if the directory is no stage.

    Args:
        directory: of the stage.
        profile: None takes the profile in use.

    Raises:
        CourseError: another model has its name now, and the former one was not kept.
    """
    if not (directory / MANIFEST).is_file():
        return None
    manifest = read_manifest(directory)
    profile = get_profile(profile)
    name, identity = manifest["model"], manifest["parent_identity"]
    place = location(name, profile)
    known = Path(place).expanduser().exists() or place in FETCHABLE
    if not known or model_identity(place) == identity:
        return name
    for other in saved_stages(profile):
        if model_identity(str(stage_path(other, profile))) == identity:
            return other
    raise CourseError(
        f"the adapter {directory} was trained on another {name!r} than there is now, and does not fit "
        "this one; train it again."
    )


def model_identity(model: str) -> str:
    """Return what changes when a model changes: the identity of its weights, or the Hub id itself.

    Args:
        model: a directory, as `resolve_model` returns it, a GGUF file, or a Hub id.
    """
    if is_gguf_file(model):
        return weights_identity({"": sha256(Path(model).expanduser())})
    directory = fetched_directory(model) or Path(model).expanduser()
    if not directory.is_dir():
        return model
    if (directory / MANIFEST).is_file():
        return read_manifest(directory)["identity"]
    return weights_identity({path.name: sha256(path) for path in weight_files(directory)})


def location(name: str, profile: str | Profile) -> str:
    """Return where a model is now; unlike `resolve_model` this builds nothing."""
    profile = get_profile(profile)
    if (model := profile.model_named(name)) is not None:
        return model
    if STAGE_NAME.fullmatch(name) and stage_path(name, profile).is_dir():
        return str(stage_path(name, profile))
    return name


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of the stage in a directory.

    Raises:
        FileNotFoundError: the directory is no stage.
        CourseError: the manifest is damaged.
    """
    path = directory / MANIFEST
    manifest = read_json(path, _remedy(directory))
    texts = {"recipe_hash", "parent_identity", "identity", "model"}
    if missing := sorted({*texts, "weights"} - set(manifest)):
        raise CourseError(f"{path} lacks {', '.join(missing)}; {_remedy(directory)}.")
    wrong = sorted(key for key in texts if not isinstance(manifest[key], str))
    if not _names_weights(manifest["weights"]):
        wrong.append("weights")
    groups = ("reward_identities", "data_identities")
    wrong += [key for key in groups if not isinstance(manifest.get(key, {}), dict)]
    if wrong:
        raise CourseError(
            f"{path} is damaged: {', '.join(wrong)} is not what was written; {_remedy(directory)}."
        )
    return manifest


def verify(directory: Path) -> None:
    """Check that the stage in a directory is whole: every weights file is what its manifest says.

    Raises:
        CourseError: it is not; the sentence says what is wrong and how to mend it.
    """
    if not (directory / MANIFEST).is_file():
        raise CourseError(
            f"{directory} has no {MANIFEST}, so it was not written to the end; {_remedy(directory)}."
        )
    for name, entry in read_manifest(directory)["weights"].items():
        path = directory / name
        if not path.is_file():
            raise CourseError(
                f"the stage in {directory} lacks its weights file {name}; {_remedy(directory)}."
            )
        if not _has_size(path, entry["bytes"]):
            raise CourseError(
                f"{path} has {path.stat().st_size:,} bytes, but {entry['bytes']:,} were written; "
                f"{_remedy(directory)}."
            )
        if sha256(path) != entry["sha256"]:
            raise CourseError(f"{path} is not what was written (its SHA-256 differs); {_remedy(directory)}.")


def _names_weights(weights: Any) -> bool:
    return (
        isinstance(weights, dict)
        and bool(weights)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("bytes"), int)
            and isinstance(entry.get("sha256"), str)
            for entry in weights.values()
        )
    )


def _remedy(directory: Path) -> str:
    return f"delete {directory}, or call load_stage({directory.name!r}, rebuild=True)"


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
