"""Save a trained model as a stage, whole or not at all, and never over what the reader made.

A stage is written beside its place and renamed, its manifest last of all. The manifest tells who made it: a
shipped recipe, which can make it again, or the reader, by an override, a recipe or a trainer of their own.
What the reader made is never replaced: it moves aside to `<name>-kept-1`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.public.files import local_file
from posttrain_helpers.environment.paths import atomic_directory, write_json_atomic
from posttrain_helpers.environment.processes import is_main_process, shared_state_kept, wait_for_all
from posttrain_helpers.environment.profiles import PROFILES, get_profile
from posttrain_helpers.environment.runtime import current_runtime, display_path
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import (
    MANIFEST,
    is_complete,
    location,
    model_identity,
    read_manifest,
    stage_path,
)
from posttrain_helpers.models.repairs import repair_generation_config
from posttrain_helpers.models.weights import sha256, weight_files, weights_identity
from posttrain_helpers.recipes import Recipe, load_recipe, stage_recipes
from posttrain_helpers.recipes.methods import METHODS, config_class
from posttrain_helpers.recipes.sources import is_built_in
from posttrain_helpers.rewards.verifiers import NO_MODEL, reward_models
from posttrain_helpers.training.state import check_trained, check_weights_are_sound

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

TRAINING_LOG = "training_log.json"  # the loss curve, one entry for each log of the trainer
# Who made a stage.
_RECIPE, _READER = "recipe", "reader"


def save_stage(
    trainer_or_model: Trainer | PreTrainedModel,
    name: str,
    recipe: Recipe,
    metrics: dict[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    as_it_is: bool = False,
    say: Callable[[str], None] = print,
    data_files: dict[str, str] | None = None,
) -> Path:
    """Save a trained model as a stage, whole or not at all, and return its directory.

    A former stage of this name is replaced if a shipped recipe made it. If the reader made it, it moves aside
    first, and one line says to where.

    Args:
        trainer_or_model: a trainer after `train()`, or a model.
        name: of the stage.
        recipe: what it was trained with.
        metrics: numbers to keep; None takes the trainer's final ones.
        tokenizer: needed with a model; a trainer has its own.
        as_it_is: also save a model whose training was interrupted, or that was trained before.
        say: gets that line.
        data_files: what the files of its rows held when they were read, as `data_identities` gives it; None
            reads them now.

    Raises:
        CourseError: a bad name, no tokenizer, a training that `training.state.check_trained` refuses or
            that went without the recipe's reference model, weights that are not finite, or a disk that is
            full or read-only: then nothing is left behind.
    """
    from safetensors import SafetensorError

    target = stage_path(name, recipe.profile)
    trainer = trainer_or_model if hasattr(trainer_or_model, "save_model") else None
    model = trainer_or_model if trainer is None else trainer.model
    tokenizer = tokenizer or getattr(trainer_or_model, "processing_class", None)
    if tokenizer is None:
        raise CourseError(f"the stage {name!r} needs a tokenizer beside the model; pass tokenizer=...")
    if trainer is not None:
        check_trained(trainer, as_it_is)
        if recipe.reference and getattr(trainer, "given_reference", None) is None:
            raise CourseError(
                f"the recipe {recipe.name!r} names the reference {recipe.reference!r}, but the trainer "
                "was made without it; make it with make_trainer(recipe, ...), or remove reference."
            )
    check_weights_are_sound(model)
    model.eval()
    repair_generation_config(model, tokenizer)
    if metrics is None and trainer is not None and trainer.state.log_history:
        metrics = trainer.state.log_history[-1]
    if not is_main_process():
        # Hands its shards of the weights over, where they are sharded, and writes nothing.
        trainer.save_model(str(target))
        wait_for_all()
        return target
    try:
        with stage_lock(target), atomic_directory(target) as directory:
            if trainer is not None:
                trainer.save_model(str(directory))
                # A pickle, and the manifest says more.
                (directory / "training_args.bin").unlink(missing_ok=True)
                # The frozen copy of the adapter that a trainer adds to be its reference; nothing loads it.
                if (directory / "ref").is_dir():
                    shutil.rmtree(directory / "ref")
                write_json_atomic(
                    directory / TRAINING_LOG, list(map(_plain_numbers, trainer.state.log_history))
                )
            else:
                model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            manifest = _manifest(directory, name, recipe, metrics, data_files)
            manifest["made_by"] = _maker(trainer, name, recipe)
            write_json_atomic(directory / MANIFEST, manifest)
            kept = _keep_aside(target, manifest["identity"])
    except (OSError, SafetensorError) as error:
        existing = next(place for place in (target, *target.parents) if place.exists())
        free = shutil.disk_usage(existing).free
        raise CourseError(
            f"the stage {name!r} could not be written to {target} ({error}; {free / 1e9:.1f} GB are free), "
            "and nothing of it was kept; make room, or name another place in POSTTRAIN_OUTPUT."
        ) from error
    if kept is not None:
        say(
            f"the former stage {name!r} was your own and is now {kept.name!r} (delete {display_path(kept)} "
            "when you need it no more)"
        )
    wait_for_all()
    return target


def other_models(recipe: Recipe) -> list[str]:
    """Return the models that a recipe learns from beside its parent: for rewards, as teacher or reference."""
    scorer = recipe.data.get("scorer", "gold")
    chooser = [] if scorer in NO_MODEL else [scorer]
    return [*reward_models([*recipe.rewards, *chooser]), *filter(None, (recipe.teacher, recipe.reference))]


def data_identities(recipe: Recipe) -> dict[str, str]:
    """Return what the files hold that a recipe's rows come from, by key: its hash knows their names only."""
    found = {}
    for key in ("source", "dev"):
        name = recipe.data.get(key)
        if isinstance(name, str) and not is_built_in(name):
            with suppress(CourseError):  # a file that is gone says nothing about what was read of it
                if path := local_file(name):
                    found[f"data.{key}"] = sha256(path)
    return found


def is_as_written(recipe: Recipe) -> bool:
    """Say whether a recipe is what its file says, whatever the seed, for the base model of its profile."""
    own = PROFILES[recipe.profile]
    return get_profile(own.name).base_model == own.base_model and _same(recipe, recipe.path)


def is_of_the_course(recipe: Recipe) -> bool:
    """Say whether a recipe is one that the course ships, as it is written."""
    return recipe.name in stage_recipes().values() and is_as_written(recipe) and _same(recipe, recipe.name)


def is_readers(directory: Path) -> bool:
    """Say whether a stage may be the reader's: made by them, or nothing tells that a recipe made it."""
    if not (directory / MANIFEST).is_file():
        return directory.is_dir() and any(directory.iterdir())
    try:
        manifest = read_manifest(directory)
    except CourseError:
        return False  # a manifest that is damaged loads no more, and is replaced only when that is asked for
    return manifest.get("made_by") != _RECIPE


def free_place(target: Path) -> Path:
    """Return the first free directory beside a stage for a former one of its name."""
    places = (target.with_name(f"{target.name}-kept-{number}") for number in count(1))
    return next(place for place in places if not place.exists())


@contextmanager
def stage_lock(target: Path, wait: bool = True) -> Iterator[None]:
    """Let one process at a time build or write a stage; of several that train together the main one for all.

    Raises:
        CourseError: another process has the lock, and this one is not to wait.
    """
    from filelock import FileLock, Timeout

    if not is_main_process():
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A singleton may be taken again by the process that holds it: building a stage ends with saving it.
    lock = FileLock(target.with_name(f".{target.name}.lock"), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise CourseError(
                f"another process trains the stage {target.name!r} at this moment; wait until it is done, or "
                "choose another name with --name."
            ) from None
        print(f"waiting: another process builds the stage {target.name!r} …", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _manifest(
    directory: Path, name: str, recipe: Recipe, metrics: dict[str, Any] | None, files: dict[str, str] | None
) -> dict[str, Any]:
    weights = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in weight_files(directory)
    }
    if not weights:
        raise CourseError(f"nothing was saved for the stage {name!r}: the model wrote no safetensors file.")
    others = {name: model_identity(location(name, recipe.profile)) for name in other_models(recipe)}
    files = data_identities(recipe) if files is None else files
    return {
        "stage": name,
        "profile": recipe.profile,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "settings": recipe.content(),
        "model": recipe.model,
        "parent_identity": model_identity(location(recipe.model, recipe.profile)),
        **({"reward_identities": others} if others else {}),
        **({"data_identities": files} if files else {}),
        "identity": weights_identity({file: entry["sha256"] for file, entry in weights.items()}),
        "seed": recipe.seed,
        "versions": current_runtime(recipe.profile).versions,
        "metrics": _plain_numbers(metrics or {}),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": weights,
    }


def _same(recipe: Recipe, name_or_path: str | Path) -> bool:
    return load_recipe(name_or_path, PROFILES[recipe.profile]).hash == recipe.hash


def _maker(trainer: Trainer | None, name: str, recipe: Recipe) -> str:
    """Return who made a stage: the recipe only where it can certainly make the same again."""
    parent = Path(location(recipe.model, recipe.profile))
    of_the_course = (
        trainer is not None
        and name == recipe.stage
        and is_of_the_course(recipe)
        and _follows(trainer, recipe)
        and not ((parent / MANIFEST).is_file() and is_readers(parent))
    )
    return _RECIPE if of_the_course else _READER


def _follows(trainer: Trainer, recipe: Recipe) -> bool:
    """Say whether a trainer has the arguments that a recipe sets, and made all steps."""
    with shared_state_kept():
        expected = config_class(recipe.method)(**{**METHODS[recipe.method].arguments, **recipe.args})
    keys = {*recipe.own_args, "learning_rate", "num_train_epochs", "max_steps"}
    if recipe.method == "ppo":  # it computes this one from the others
        keys -= {"max_steps"} - set(recipe.own_args)
    same = all(getattr(trainer.args, key) == getattr(expected, key) for key in keys)
    return same and trainer.state.global_step == trainer.state.max_steps


def _keep_aside(target: Path, identity: str) -> Path | None:
    """Move the reader's stage away where other weights will stand; return where it is now."""
    if not is_readers(target):
        return None
    place = free_place(target)
    if not (target / MANIFEST).is_file():
        target.rename(place)
        return place
    manifest = read_manifest(target)
    if manifest["identity"] == identity:
        return None
    for former in target.parent.glob(f"{target.name}-kept-*"):
        if is_complete(former) and read_manifest(former)["identity"] == manifest["identity"]:
            return former
    target.rename(place)
    write_json_atomic(place / MANIFEST, {**manifest, "stage": place.name, "made_by": _READER})
    return place


def _plain_numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
