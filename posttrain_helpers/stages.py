"""Stages: trained models on disk, whole or absent, built on demand.

A stage is the directory `<output>/<profile>/stages/<name>`. It is written beside its place and renamed, its
`manifest.json` last of all, and it is loaded only with a manifest. The manifest tells from which recipe and
which parent the stage was made, so that a stage whose recipe or parent has changed is built again.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.hub import hub_snapshot
from posttrain_helpers.profiles import READY_MADE, Profile, get_profile
from posttrain_helpers.recipes import Recipe, load_recipe, stage_recipes
from posttrain_helpers.reward_functions import reward_models
from posttrain_helpers.runtime import current_runtime, preserved_random_state
from posttrain_helpers.storage import atomic_directory, output_root, write_json_atomic
from posttrain_helpers.suggestions import closest
from posttrain_helpers.weights import sha256, weight_files, weights_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

BASE = "base"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def stage_path(name: str, profile: str | Profile | None = None) -> Path:
    """Return the directory of a stage, whether or not it exists.

    Raises:
        CourseError: the name is that of a ready-made model ("base", "instruct", "ready_made_sft") or holds
            more than letters, digits, "_" and "-".
    """
    if not _NAME.fullmatch(name) or name == BASE or name in READY_MADE:
        raise CourseError(
            f"{name!r} cannot name a stage; use letters, digits, '_' and '-', and none of "
            f"{', '.join(map(repr, (BASE, *READY_MADE)))}, which are ready-made models."
        )
    return output_root() / get_profile(profile).name / "stages" / name


def save_stage(
    trainer_or_model: Trainer | PreTrainedModel,
    name: str,
    recipe: Recipe,
    metrics: dict[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Save a trained model as a stage, whole or not at all.

    Args:
        trainer_or_model: a trainer after `train()`, or a model.
        name: of the stage; an older one of this name is replaced.
        recipe: what it was trained with.
        metrics: numbers to keep; None takes the trainer's final ones.
        tokenizer: needed with a model; a trainer has its own.

    Returns:
        The stage's directory.

    Raises:
        CourseError: a bad name, no tokenizer, or a disk that is full or read-only: then nothing is left
            behind.
    """
    from safetensors import SafetensorError

    from posttrain_helpers.repairs import repair_generation_config

    target = stage_path(name, recipe.profile)
    is_trainer = hasattr(trainer_or_model, "save_model")
    model = trainer_or_model.model if is_trainer else trainer_or_model
    tokenizer = tokenizer or getattr(trainer_or_model, "processing_class", None)
    if tokenizer is None:
        raise CourseError(f"the stage {name!r} needs a tokenizer beside the model; pass tokenizer=...")
    model.eval()
    repair_generation_config(model, tokenizer)
    if metrics is None and is_trainer:
        metrics = next((dict(log) for log in reversed(trainer_or_model.state.log_history)), None)
    try:
        with _stage_lock(target), atomic_directory(target) as directory:
            if is_trainer:
                trainer_or_model.save_model(str(directory))
                # A pickle, and the manifest says more.
                (directory / "training_args.bin").unlink(missing_ok=True)
                # The frozen copy of the adapter that a trainer adds to be its reference; nothing loads it.
                if (directory / "ref").is_dir():
                    shutil.rmtree(directory / "ref")
            else:
                model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            write_json_atomic(directory / MANIFEST, _manifest(directory, name, recipe, metrics))
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(_existing(target)).free
        raise CourseError(
            f"the stage {name!r} could not be written to {target} ({error}; {free / 1e9:.1f} GB are free), "
            "and nothing of it was kept; make room, or name another place in POSTTRAIN_OUTPUT."
        ) from error
    return target


def is_complete(path: str | Path) -> bool:
    """Say whether a directory holds a stage with manifest and weights files of the recorded sizes."""
    try:
        weights = _read_manifest(Path(path))["weights"]
    except (CourseError, FileNotFoundError):
        return False
    return all(_has_size(Path(path) / name, entry["bytes"]) for name, entry in weights.items())


def load_stage(name: str, profile: str | Profile | None = None, rebuild: bool = False) -> Path:
    """Return the directory of a stage; build it first, parents before it, if it is missing or out of date.

    Args:
        name: "base" or another ready-made model of the profile, a stage that a recipe makes, or one that was
            saved under a name of its own.
        profile: None takes the profile in use.
        rebuild: build it even if it is there.

    Returns:
        The directory.

    Raises:
        CourseError: no such stage, or one that is there but damaged.
    """
    profile = get_profile(profile)
    if (model := profile.model_named(name)) is not None:
        directory = Path(model)
        return directory if directory.is_dir() else hub_snapshot(model, revision=profile.revision_of(model))
    target = stage_path(name, profile)
    recipes = stage_recipes()
    if name not in recipes:
        if not target.is_dir():
            raise CourseError(f"the stage {name!r} does not exist; {_known_stages(name, recipes, profile)}")
        _verify(target)
        return target
    recipe = load_recipe(recipes[name], profile)
    parent, rewards = resolve_model(recipe.model, profile), _resolved_rewards(recipe)
    reason = "rebuild asked for" if rebuild else _out_of_date(target, recipe, parent, rewards)
    if reason:
        with _stage_lock(target):
            # Another kernel may have built it while this one waited for the lock.
            if rebuild or _out_of_date(target, recipe, parent, rewards):
                build_stage(recipe, reason)
    else:
        _verify(target)
    return target


def build_stage(recipe: Recipe, reason: str = "asked for") -> Path:
    """Train what a recipe describes and save it as the stage that the recipe names.

    Args:
        recipe: its parent is built first if need be.
        reason: why, for the one line that is printed.

    Returns:
        The stage's directory.

    Raises:
        CourseError: whatever is wrong with model, data, arguments, memory or disk, in one sentence.
    """
    from transformers import set_seed

    from posttrain_helpers.data import load_data
    from posttrain_helpers.models import load_model_and_tokenizer
    from posttrain_helpers.training import METHODS, make_trainer, train

    target = stage_path(recipe.stage, recipe.profile)
    parent = resolve_model(recipe.model, recipe.profile)
    _resolved_rewards(recipe)  # built now, not when the trainer first asks for them
    with _stage_lock(target), preserved_random_state():
        started = time.perf_counter()
        _remove_leftovers(target)
        print(f"building stage {recipe.stage!r} from {recipe.model!r} ({reason}) …", end=" ", flush=True)
        set_seed(recipe.seed)  # a fresh score head or adapter draws its weights before the trainer seeds
        model, tokenizer = load_model_and_tokenizer(
            parent,
            lora=recipe.lora,
            quantization=recipe.quantization,
            head=METHODS[recipe.method].head,
            profile=recipe.profile,
            verbose=False,
        )
        rows, _ = load_data(recipe, verbose=False)
        trainer = make_trainer(recipe, model, tokenizer, rows, verbose=False)
        metrics = train(trainer)
        save_stage(trainer, recipe.stage, recipe, metrics=metrics)
        print(f"done in {time.perf_counter() - started:.0f} s", flush=True)
    return target


def resolve_model(name: str, profile: str | Profile | None = None) -> str:
    """Return what to load for a name: "base" and stages have a place; anything else passes through.

    Args:
        name: "base" or another ready-made model of the profile ("instruct", "ready_made_sft"), a stage (built
            if it is missing), a directory, or a Hub id.
        profile: None takes the profile in use.
    """
    profile = get_profile(profile)
    if (model := profile.model_named(name)) is not None:
        return model
    recipes = stage_recipes()
    known = name in recipes or name in recipes.values()
    if _NAME.fullmatch(name) and (known or stage_path(name, profile).is_dir()):
        return str(load_stage(name, profile))
    return name


def saved_stages(profile: str | Profile | None = None) -> list[str]:
    """Return the names of the complete stages of a profile."""
    root = output_root() / get_profile(profile).name / "stages"
    return sorted(path.name for path in root.glob("*") if _NAME.fullmatch(path.name) and is_complete(path))


def parent_of(directory: Path) -> str | None:
    """Return what the stage in a directory was trained from, None if the directory is no stage."""
    try:
        return _read_manifest(directory)["model"]
    except FileNotFoundError:
        return None


def model_identity(model: str) -> str:
    """Return what changes when a model changes: the identity of its weights, or the Hub id itself.

    Args:
        model: a directory, as `resolve_model` returns it, or a Hub id.
    """
    directory = Path(model)
    if not directory.is_dir():
        return model
    if (directory / MANIFEST).is_file():
        return _read_manifest(directory)["identity"]
    return weights_identity({path.name: sha256(path) for path in weight_files(directory)})


def _known_stages(name: str, recipes: dict[str, str], profile: Profile) -> str:
    for stage, recipe in recipes.items():
        if recipe == name:
            return f"the recipe {name!r} makes the stage {stage!r}; load that."
    known = [BASE, *recipes, *saved_stages(profile)]
    return f"{closest(name, known)}Known are {', '.join(known)}."


def _manifest(directory: Path, name: str, recipe: Recipe, metrics: dict[str, Any] | None) -> dict[str, Any]:
    weights = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in weight_files(directory)
    }
    if not weights:
        raise CourseError(f"nothing was saved for the stage {name!r}: the model wrote no safetensors file.")
    rewards = {
        reward: model_identity(_location(reward, recipe.profile)) for reward in reward_models(recipe.rewards)
    }
    return {
        "stage": name,
        "profile": recipe.profile,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "settings": recipe.content(),
        "model": recipe.model,
        "parent_identity": model_identity(_location(recipe.model, recipe.profile)),
        **({"reward_identities": rewards} if rewards else {}),
        "identity": weights_identity({file: entry["sha256"] for file, entry in weights.items()}),
        "seed": recipe.seed,
        "versions": current_runtime(recipe.profile).versions,
        "metrics": {key: value for key, value in (metrics or {}).items() if _is_plain_number(value)},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": weights,
    }


def _location(name: str, profile: str) -> str:
    """Return where a model is now; unlike `resolve_model` this builds nothing."""
    if (model := get_profile(profile).model_named(name)) is not None:
        return model
    if _NAME.fullmatch(name) and stage_path(name, profile).is_dir():
        return str(stage_path(name, profile))
    return name


def _resolved_rewards(recipe: Recipe) -> dict[str, str]:
    """Return what to load for each reward model of a recipe; its stage is built if it is missing."""
    return {name: resolve_model(name, recipe.profile) for name in reward_models(recipe.rewards)}


def _out_of_date(target: Path, recipe: Recipe, parent: str, rewards: dict[str, str]) -> str:
    """Return why a stage must be built, an empty text if it need not be."""
    if not (target / MANIFEST).is_file():
        return "it is incomplete" if target.exists() else "it does not exist yet"
    manifest = _read_manifest(target)
    if manifest["recipe_hash"] != recipe.hash:
        return "its recipe has changed"
    if manifest["parent_identity"] != model_identity(parent):
        return f"{recipe.model!r} has changed"
    for name, place in rewards.items():
        if manifest.get("reward_identities", {}).get(name) != model_identity(place):
            return f"the reward model {name!r} has changed"
    return ""


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    required = {"recipe_hash", "parent_identity", "identity", "model", "weights"}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is damaged ({error}); {_remedy(directory)}") from error
    if not isinstance(manifest, dict) or not required <= set(manifest):
        raise CourseError(f"{path} lacks {', '.join(sorted(required - set(manifest)))}; {_remedy(directory)}")
    return manifest


def _verify(directory: Path) -> None:
    if not (directory / MANIFEST).is_file():
        raise CourseError(
            f"{directory} has no {MANIFEST}, so it was not written to the end; {_remedy(directory)}"
        )
    for name, entry in _read_manifest(directory)["weights"].items():
        path = directory / name
        if not path.is_file():
            raise CourseError(f"the stage in {directory} lacks its weights file {name}; {_remedy(directory)}")
        if not _has_size(path, entry["bytes"]):
            raise CourseError(
                f"{path} has {path.stat().st_size:,} bytes, but {entry['bytes']:,} were written; "
                f"{_remedy(directory)}"
            )
        if sha256(path) != entry["sha256"]:
            raise CourseError(f"{path} is not what was written (its SHA-256 differs); {_remedy(directory)}")


def _remedy(directory: Path) -> str:
    return f"delete {directory}, or call load_stage({directory.name!r}, rebuild=True)."


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _stage_lock(target: Path) -> Iterator[None]:
    """Let one process at a time build or write a stage; the lock ends with its process, however that ends."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    # A singleton may be taken again by the process that holds it: building a stage ends with saving it.
    lock = FileLock(target.with_name(f".{target.name}.lock"), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting: another process builds the stage {target.name!r} …", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed process left beside a stage; the caller holds the stage's lock."""
    for pattern in (f".{target.name}.*.tmp", f".{target.name}.*.old"):
        for path in target.parent.glob(pattern):
            shutil.rmtree(path)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
