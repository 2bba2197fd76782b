"""Stages: trained models on disk, whole or absent, built on demand.

A stage is the directory `<output>/<profile>/stages/<name>`. It is written beside its place and renamed, its
`manifest.json` last of all, and it is loaded only with a manifest. The manifest tells from which recipe and
which parent the stage was made, so that a stage whose recipe or parent has changed is built again.

It also tells who made the stage: a shipped recipe, which can make it again, or the reader, by an override, a
recipe or a trainer of their own. What the reader made is never replaced: it moves aside to `<name>-kept-1`.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.hub import hub_snapshot
from posttrain_helpers.profiles import PROFILES, READY_MADE, Profile, get_profile
from posttrain_helpers.progress import Progress
from posttrain_helpers.recipes import Recipe, load_recipe, stage_recipes
from posttrain_helpers.recipes.methods import METHODS, config_class
from posttrain_helpers.runtime import current_runtime, display_path, preserved_random_state
from posttrain_helpers.storage import atomic_directory, output_root, read_json, write_json_atomic
from posttrain_helpers.suggestions import closest
from posttrain_helpers.training_state import check_trained, check_weights_are_sound
from posttrain_helpers.verifiers import reward_models
from posttrain_helpers.weights import sha256, weight_files, weights_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

BASE = "base"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Who made a stage.
_RECIPE, _READER = "recipe", "reader"


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
    as_it_is: bool = False,
) -> Path:
    """Save a trained model as a stage, whole or not at all.

    A former stage of this name is replaced if a shipped recipe made it. If the reader made it, it moves aside
    first, and one printed line says to where.

    Args:
        trainer_or_model: a trainer after `train()`, or a model.
        name: of the stage.
        recipe: what it was trained with.
        metrics: numbers to keep; None takes the trainer's final ones.
        tokenizer: needed with a model; a trainer has its own.
        as_it_is: also save a model whose training was interrupted, or that was trained before.

    Returns:
        The stage's directory.

    Raises:
        CourseError: a bad name, no tokenizer, a training that `training_state.check_trained` refuses, weights
            that are not finite, or a disk that is full or read-only: then nothing is left behind.
    """
    target, kept = _save(trainer_or_model, name, recipe, metrics, tokenizer, as_it_is)
    if kept is not None:
        print(_kept_sentence(name, kept))
    return target


def _save(
    trainer_or_model: Trainer | PreTrainedModel,
    name: str,
    recipe: Recipe,
    metrics: dict[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    as_it_is: bool = False,
) -> tuple[Path, Path | None]:
    """Save a stage; return its directory, and where the reader's former one is now."""
    from safetensors import SafetensorError

    from posttrain_helpers.repairs import repair_generation_config

    target = stage_path(name, recipe.profile)
    trainer = trainer_or_model if hasattr(trainer_or_model, "save_model") else None
    model = trainer_or_model if trainer is None else trainer.model
    tokenizer = tokenizer or getattr(trainer_or_model, "processing_class", None)
    if tokenizer is None:
        raise CourseError(f"the stage {name!r} needs a tokenizer beside the model; pass tokenizer=...")
    if trainer is not None:
        check_trained(trainer, as_it_is)
    check_weights_are_sound(model)
    model.eval()
    repair_generation_config(model, tokenizer)
    if metrics is None and trainer is not None:
        metrics = next((dict(log) for log in reversed(trainer.state.log_history)), None)
    try:
        with _stage_lock(target), atomic_directory(target) as directory:
            if trainer is not None:
                trainer.save_model(str(directory))
                # A pickle, and the manifest says more.
                (directory / "training_args.bin").unlink(missing_ok=True)
                # The frozen copy of the adapter that a trainer adds to be its reference; nothing loads it.
                if (directory / "ref").is_dir():
                    shutil.rmtree(directory / "ref")
            else:
                model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            manifest = _manifest(directory, name, recipe, metrics)
            manifest["made_by"] = _maker(trainer, name, recipe)
            write_json_atomic(directory / MANIFEST, manifest)
            kept = _keep_aside(target, manifest["identity"])
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(_existing(target)).free
        raise CourseError(
            f"the stage {name!r} could not be written to {target} ({error}; {free / 1e9:.1f} GB are free), "
            "and nothing of it was kept; make room, or name another place in POSTTRAIN_OUTPUT."
        ) from error
    return target, kept


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


def build_stage(recipe: Recipe, reason: str = "asked for", verbose: bool = False) -> Path:
    """Train what a recipe describes and save it as the stage that the recipe names.

    Args:
        recipe: its parent is built first if need be.
        reason: why, for the one line that is printed.
        verbose: also print what was loaded, and which rows are left out or cut.

    Returns:
        The stage's directory.

    Raises:
        CourseError: whatever is wrong with model, data, arguments, memory or disk, in one sentence.
    """
    from transformers import set_seed

    from posttrain_helpers.data import load_data
    from posttrain_helpers.models import load_model_and_tokenizer, with_all_weights_trained
    from posttrain_helpers.training import make_trainer, train

    target = stage_path(recipe.stage, recipe.profile)
    parent = resolve_model(recipe.model, recipe.profile)
    _resolved_rewards(recipe)  # built now, not when the trainer first asks for them
    with _stage_lock(target), preserved_random_state():
        started = time.perf_counter()
        _remove_leftovers(target)
        progress = Progress(
            f"building stage {recipe.stage!r} from {recipe.model!r} ({reason}) …", own_line=verbose
        )
        set_seed(recipe.seed)  # a fresh score head or adapter draws its weights before the trainer seeds
        model, tokenizer = load_model_and_tokenizer(
            parent,
            lora=recipe.lora,
            quantization=recipe.quantization,
            head=METHODS[recipe.method].head,
            profile=recipe.profile,
            verbose=False,
        )
        if recipe.lora is None:
            model = with_all_weights_trained(model)
        rows, _ = load_data(recipe, verbose=verbose, tokenizer=tokenizer)
        trainer = make_trainer(recipe, model, tokenizer, rows, verbose=verbose)
        trainer.add_callback(progress.callback())
        metrics = train(trainer)
        _, kept = _save(trainer, recipe.stage, recipe, metrics=metrics)
        note = "" if kept is None else f"; {_kept_sentence(recipe.stage, kept)}"
        progress.done(f"done in {time.perf_counter() - started:.0f} s{note}")
    return target


def train_stage(recipe: Recipe, rebuild: bool = False) -> Path:
    """Build the stage that a recipe names, unless it is there already.

    Args:
        recipe: as for `build_stage`.
        rebuild: build it even if it is there.

    Returns:
        The stage's directory.

    Raises:
        CourseError: the reader made the stage that is there in another way; or as `build_stage`.
    """
    target = stage_path(recipe.stage, recipe.profile)
    parent, rewards = resolve_model(recipe.model, recipe.profile), _resolved_rewards(recipe)
    with _stage_lock(target):
        reason = "rebuild asked for" if rebuild else _out_of_date(target, recipe, parent, rewards)
        if not reason:
            _verify(target)
            print(
                f"the stage {recipe.stage!r} is already there, made by this recipe from this model; "
                "--rebuild trains it again."
            )
            return target
        if not rebuild and _is_readers(target):
            raise CourseError(
                f"there is a stage {recipe.stage!r} already that you made in another way ({reason}); choose "
                f"another name with --name, or train again with --rebuild, which keeps the former one as "
                f"{_free_place(target).name!r}."
            )
        return build_stage(recipe, reason, verbose=True)


def is_as_written(recipe: Recipe) -> bool:
    """Say whether a recipe is what its file says, for the base model of its profile.

    The seed that `setup` was given changes nothing; an override does, and so do `POSTTRAIN_OVERRIDES` and
    `POSTTRAIN_MODEL`.
    """
    own = PROFILES[recipe.profile]
    return get_profile(own.name).base_model == own.base_model and _same(recipe, recipe.path)


def is_of_the_course(recipe: Recipe) -> bool:
    """Say whether a recipe is one that the course ships, as it is written."""
    return recipe.name in stage_recipes().values() and is_as_written(recipe) and _same(recipe, recipe.name)


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
    manifest = _read_manifest(directory)
    profile = get_profile(profile)
    name, identity = manifest["model"], manifest["parent_identity"]
    place = Path(_location(name, profile.name))
    if not place.is_dir() or model_identity(str(place)) == identity:
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


def _same(recipe: Recipe, name_or_path: str | Path) -> bool:
    return load_recipe(name_or_path, PROFILES[recipe.profile]).hash == recipe.hash


def _maker(trainer: Trainer | None, name: str, recipe: Recipe) -> str:
    """Return who made a stage: the recipe only where it can certainly make the same again."""
    parent = Path(_location(recipe.model, recipe.profile))
    of_the_course = (
        trainer is not None
        and name == recipe.stage
        and is_of_the_course(recipe)
        and _follows(trainer, recipe)
        and not ((parent / MANIFEST).is_file() and _is_readers(parent))
    )
    return _RECIPE if of_the_course else _READER


def _follows(trainer: Trainer, recipe: Recipe) -> bool:
    """Say whether a trainer has the arguments that a recipe sets, and made all steps."""
    expected = config_class(recipe.method)(**{**METHODS[recipe.method].arguments, **recipe.args})
    keys = {*recipe.own_args, "learning_rate", "num_train_epochs", "max_steps"}
    if recipe.method == "ppo":  # it computes this one from the others
        keys -= {"max_steps"} - set(recipe.own_args)
    same = all(getattr(trainer.args, key) == getattr(expected, key) for key in keys)
    return same and trainer.state.global_step == trainer.state.max_steps


def _is_readers(directory: Path) -> bool:
    """Say whether a stage may be the reader's: made by them, or nothing tells that a recipe made it."""
    if not (directory / MANIFEST).is_file():
        return directory.is_dir() and any(directory.iterdir())
    try:
        manifest = _read_manifest(directory)
    except CourseError:
        return False  # a manifest that is damaged loads no more, and is replaced only when that is asked for
    if "made_by" in manifest:
        return manifest["made_by"] != _RECIPE
    recipe = stage_recipes().get(directory.name)
    profile = PROFILES.get(manifest.get("profile"))
    return recipe is None or profile is None or manifest["recipe_hash"] != load_recipe(recipe, profile).hash


def _keep_aside(target: Path, identity: str) -> Path | None:
    """Move the reader's stage away from a place where another one will stand; return where it is now.

    Args:
        target: the place.
        identity: of the weights that will stand there.
    """
    if not _is_readers(target):
        return None
    place = _free_place(target)
    if not (target / MANIFEST).is_file():
        target.rename(place)
        return place
    manifest = _read_manifest(target)
    if manifest["identity"] == identity:
        return None
    for former in target.parent.glob(f"{target.name}-kept-*"):
        if is_complete(former) and _read_manifest(former)["identity"] == manifest["identity"]:
            return former
    target.rename(place)
    write_json_atomic(place / MANIFEST, {**manifest, "stage": place.name, "made_by": _READER})
    return place


def _free_place(target: Path) -> Path:
    places = (target.with_name(f"{target.name}-kept-{number}") for number in count(1))
    return next(place for place in places if not place.exists())


def _kept_sentence(name: str, kept: Path) -> str:
    return (
        f"the former stage {name!r} was your own and is now {kept.name!r} (delete {display_path(kept)} when "
        "you need it no more)"
    )


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
    manifest = read_json(path, _remedy(directory))
    texts = {"recipe_hash", "parent_identity", "identity", "model"}
    if missing := sorted({*texts, "weights"} - set(manifest)):
        raise CourseError(f"{path} lacks {', '.join(missing)}; {_remedy(directory)}.")
    wrong = sorted(key for key in texts if not isinstance(manifest[key], str))
    if not _names_weights(manifest["weights"]):
        wrong.append("weights")
    if not isinstance(manifest.get("reward_identities", {}), dict):
        wrong.append("reward_identities")
    if wrong:
        raise CourseError(
            f"{path} is damaged: {', '.join(wrong)} is not what was written; {_remedy(directory)}."
        )
    return manifest


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


def _verify(directory: Path) -> None:
    if not (directory / MANIFEST).is_file():
        raise CourseError(
            f"{directory} has no {MANIFEST}, so it was not written to the end; {_remedy(directory)}."
        )
    for name, entry in _read_manifest(directory)["weights"].items():
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


def _remedy(directory: Path) -> str:
    return f"delete {directory}, or call load_stage({directory.name!r}, rebuild=True)"


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
