"""Stages: trained models on disk, whole or absent, built on demand.

The manifest of a stage tells from which recipe and which parent it was made, so that a stage whose recipe or
parent has changed is built again, its parents before it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.environment.imports import importing_libraries
from posttrain_helpers.environment.paths import output_root
from posttrain_helpers.environment.processes import (
    is_main_process,
    main_process_first,
    process_count,
    sharded_by,
)
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.environment.runtime import current_runtime, prepare_trainers, preserved_random_state
from posttrain_helpers.environment.training_watch import uncounted_training
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.loading import model_directory
from posttrain_helpers.models.manifest import (
    BASE,
    MANIFEST,
    STAGE_NAME,
    base_of_adapter,
    model_identity,
    read_manifest,
    saved_stages,
    stage_path,
    verify,
)
from posttrain_helpers.recipes import Recipe, load_recipe, stage_recipes
from posttrain_helpers.recipes.methods import METHODS
from posttrain_helpers.stages.save import (
    data_identities,
    free_place,
    is_readers,
    other_models,
    save_stage,
    stage_lock,
)
from posttrain_helpers.stages.unfinished import Run
from posttrain_helpers.training.checkpoints import checkpoint_callback, progress_of
from posttrain_helpers.training.progress import Progress
from posttrain_helpers.wording import suggestion

if TYPE_CHECKING:
    from transformers import TrainerCallback


# Stages that are being made here, the outermost first.
_underway: list[str] = []


@contextmanager
def _making(stage: str) -> Iterator[None]:
    """Refuse to make a stage in order to make it: not only a parent can lead back to it."""
    if stage in _underway:
        raise CourseError(
            f"the stage {stage!r} is needed to make itself: {' needs '.join([*_underway, stage])}; correct "
            "the teacher, reference, rewards or data.policy of one of their recipes."
        )
    _underway.append(stage)
    try:
        yield
    finally:
        _underway.pop()


def load_stage(name: str, profile: str | Profile | None = None, rebuild: bool = False) -> Path:
    """Return the directory of a stage; build it first, parents before it, if it is missing or out of date.

    Args:
        name: "base" or another ready-made model of the profile, a stage that a recipe makes, or one that was
            saved under a name of its own.
        profile: None takes the profile in use.
        rebuild: build it even if it is there.

    Raises:
        CourseError: no such stage, or one that is there but damaged.
    """
    profile = get_profile(profile)
    if (model := profile.model_named(name)) is not None:
        return model_directory(model, None, profile)
    target = stage_path(name, profile)
    recipes = stage_recipes()
    if name not in recipes:
        if not target.is_dir():
            raise CourseError(f"the stage {name!r} does not exist{_known_stages(name, recipes, profile)}")
        verify(target)
        return target
    recipe = load_recipe(recipes[name], profile)
    with _making(name):
        parent, others = resolve_model(recipe.model, profile), _resolved_others(recipe)
        reason = "rebuild asked for" if rebuild else _out_of_date(target, recipe, parent, others)
        if reason and process_count() > 1:
            raise CourseError(
                f"the stage {name!r} is needed, and {reason}; build it first: python -m posttrain_helpers "
                f"train {recipes[name]} --profile {profile.name}, in one process or started as this one."
            )
        if not reason:
            verify(target)
            return target
        with stage_lock(target):
            # Another kernel may have built it while this one waited for the lock.
            if rebuild or _out_of_date(target, recipe, parent, others):
                build_stage(recipe, reason)
        return target


def resolve_model(name: str, profile: str | Profile | None = None) -> str:
    """Return what to load for a name: "base" and stages have a place; anything else passes through.

    Args:
        name: as for `load_model_and_tokenizer`; the stage that an adapter stands on is built, too.
        profile: None takes the profile in use.
    """
    profile = get_profile(profile)
    if (model := profile.model_named(name)) is not None:
        return model
    recipes = stage_recipes()
    known = name in recipes or name in recipes.values()
    if STAGE_NAME.fullmatch(name) and (known or stage_path(name, profile).is_dir()):
        name = str(load_stage(name, profile))
    directory = Path(name).expanduser()
    if (directory / "adapter_config.json").is_file() and (base := base_of_adapter(directory, profile)):
        resolve_model(base, profile)
    return name


def build_stage(
    recipe: Recipe,
    reason: str = "asked for",
    verbose: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    checkpoint: Path | None = None,
) -> Path:
    """Train what a recipe describes, save it as the stage that the recipe names, and return its directory.

    Args:
        recipe: its parent is built first if need be.
        reason: why, for the one line that is printed.
        verbose: also print what was loaded, and which rows are left out or cut.
        callbacks: more callbacks of the trainer.
        checkpoint: the directory of one to go on from.

    Raises:
        CourseError: whatever is wrong with model, data, arguments, memory or disk, in one sentence.
    """
    with importing_libraries():
        from transformers import EarlyStoppingCallback, set_seed

        prepare_trainers()

    from posttrain_helpers.data.loading import load_rows
    from posttrain_helpers.models.loading import load_repaired, with_all_weights_trained
    from posttrain_helpers.training.trainer import make_trainer, train

    target = stage_path(recipe.stage, recipe.profile)
    parent = resolve_model(recipe.model, recipe.profile)
    _resolved_others(recipe)  # built now, not when the trainer first asks for them
    with stage_lock(target), preserved_random_state():
        started = time.perf_counter()
        if is_main_process():
            _remove_leftovers(target)
        progress = Progress(
            f"building stage {recipe.stage!r} from {recipe.model!r} ({reason}) …", own_line=verbose
        )
        set_seed(recipe.seed)  # a fresh score head or adapter draws its weights before the trainer seeds
        model, tokenizer, _ = load_repaired(
            parent,
            # Weights that are shared out need not fit into one GPU.
            "cpu" if sharded_by() else current_runtime(recipe.profile).device,
            lora=recipe.lora,
            quantization=recipe.quantization,
            head=METHODS[recipe.method].head,
            profile=recipe.profile,
        )
        if recipe.lora is None:
            model = with_all_weights_trained(model)
        files = data_identities(recipe)  # now: what is changed while it trains was not trained on
        with main_process_first():
            rows, dev, _ = load_rows(recipe, verbose=verbose, tokenizer=tokenizer)
        trainer = make_trainer(recipe, model, tokenizer, rows, callbacks, verbose=verbose, eval_dataset=dev)
        if recipe.early_stopping:
            trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping))
        trainer.add_callback(progress.callback())
        with uncounted_training():
            metrics = train(trainer, checkpoint)
        notes, state = [], trainer.state
        if recipe.early_stopping and state.best_global_step:
            notes.append(
                f"ended after step {state.global_step:,} of {state.max_steps:,} and kept the weights of step "
                f"{state.best_global_step:,}, the best on dev"
            )
        save_stage(trainer, recipe.stage, recipe, metrics, say=notes.append, data_files=files)
        progress.done("; ".join([f"done in {time.perf_counter() - started:.0f} s", *notes]))
    return target


def train_stage(
    recipe: Recipe, rebuild: bool = False, resume: bool = False, save_steps: int | None = None
) -> Path:
    """Build the stage that a recipe names, unless it is there already, and return its directory.

    Args:
        recipe: as for `build_stage`.
        rebuild: build it even if it is there, and drop an unfinished run.
        resume: go on with an unfinished run.
        save_steps: how often the run is saved; None makes ten checkpoints, 0 none.

    Raises:
        CourseError: the reader made the stage that is there in another way, another process trains it, or
            there is an unfinished run and nothing was said about it; or as `build_stage`.
    """
    from posttrain_helpers.data.loading import check_source

    check_source(recipe)  # before a model is downloaded or a parent is built
    with _making(recipe.stage):
        target = stage_path(recipe.stage, recipe.profile)
        parent, others = resolve_model(recipe.model, recipe.profile), _resolved_others(recipe)
        with stage_lock(target, wait=False):
            reason = "rebuild asked for" if rebuild else _out_of_date(target, recipe, parent, others)
            if not reason:
                verify(target)
                print(
                    f"the stage {recipe.stage!r} is already there, made by this recipe from this model; "
                    "--rebuild trains it again."
                )
                return target
            if not rebuild and is_readers(target):
                raise CourseError(
                    f"there is a stage {recipe.stage!r} already that you made in another way ({reason}); "
                    f"choose another name with --name, or train again with --rebuild, which keeps the former "
                    f"one as {free_place(target).name!r}."
                )
            origin = {"recipe": recipe.hash, "model": model_identity(parent)}
            for name, place in others.items():
                origin[f"{_kind(recipe, name)} {name!r}"] = model_identity(place)
            origin |= {f"file of {key}": identity for key, identity in data_identities(recipe).items()}
            run = Run(output_root() / recipe.profile / "runs" / recipe.stage, origin)
            checkpoint = run.start(resume, rebuild)
            if checkpoint is not None:
                reason = f"it goes on after step {progress_of(checkpoint)[0]:,}"
            callbacks = [] if save_steps == 0 else [checkpoint_callback(save_steps)]
            build_stage(run.trainer_arguments(recipe), reason, True, callbacks, checkpoint)
            if is_main_process():
                run.drop()
            return target


def _known_stages(name: str, recipes: dict[str, str], profile: Profile) -> str:
    for stage, recipe in recipes.items():
        if recipe == name:
            return f"; the recipe {name!r} makes the stage {stage!r}; load that."
    known = [BASE, *recipes, *saved_stages(profile)]
    return f"{suggestion(name, known)}Known are {', '.join(known)}."


def _resolved_others(recipe: Recipe) -> dict[str, str]:
    """Return what to load for each other model that a recipe learns from; its stage is built if missing."""
    return {name: resolve_model(name, recipe.profile) for name in other_models(recipe)}


def _kind(recipe: Recipe, name: str) -> str:
    """Say what another model is to a recipe."""
    return {recipe.teacher: "teacher", recipe.reference: "reference"}.get(name, "reward model")


def _out_of_date(target: Path, recipe: Recipe, parent: str, others: dict[str, str]) -> str:
    """Return why a stage must be built, an empty text if it need not be."""
    if not (target / MANIFEST).is_file():
        return "it is incomplete" if target.exists() else "it does not exist yet"
    manifest = read_manifest(target)
    if manifest["recipe_hash"] != recipe.hash:
        return "its recipe has changed"
    if manifest["parent_identity"] != model_identity(parent):
        return f"{recipe.model!r} has changed"
    for name, place in others.items():
        if manifest.get("reward_identities", {}).get(name) != model_identity(place):
            return f"the {_kind(recipe, name)} {name!r} has changed"
    for key, identity in data_identities(recipe).items():
        if manifest.get("data_identities", {}).get(key, identity) != identity:
            return f"the file of {key} has changed"
    return ""


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed process left beside a stage; the caller holds the stage's lock."""
    for pattern in (f".{target.name}.*.tmp", f".{target.name}.*.old"):
        for path in target.parent.glob(pattern):
            shutil.rmtree(path)
