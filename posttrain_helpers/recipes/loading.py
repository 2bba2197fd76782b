"""From a YAML file to a recipe.

Four things say what a recipe sets. Later wins, key by key: the keys that all profiles share, the section of
the profile, the changes of a call or of the command line, and the reader's own for every run
(`POSTTRAIN_OVERRIDES`). What was said about one data source has no meaning for another, so another
`data.source` drops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.paths import output_root
from posttrain_helpers.environment.processes import process_count, shared_batch
from posttrain_helpers.environment.profiles import OVERRIDES_VARIABLE, Profile, get_profile
from posttrain_helpers.environment.runtime import current_runtime, trainer_defaults
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes.checks import (
    best_kept,
    check_keys,
    check_reference_name,
    check_rewards,
    check_settings,
    check_teacher,
)
from posttrain_helpers.recipes.methods import config_class
from posttrain_helpers.recipes.overrides import SECTIONS, VALUES, parsed_overrides, readers_changes
from posttrain_helpers.recipes.recipe import Recipe
from posttrain_helpers.recipes.shipped import check_parents, recipe_names, recipe_path, stage_name
from posttrain_helpers.recipes.sources import PLACE_KEYS, data_types
from posttrain_helpers.recipes.yaml_files import read_yaml
from posttrain_helpers.wording import suggestion

_EXAMPLES = {"data": "data.source=rows.jsonl", "args": "args.learning_rate=1e-3", "lora": "lora.r=8"}


def load_recipe(
    name_or_path: str | Path,
    profile: str | Profile | None = None,
    overrides: Mapping[str, Any] | Iterable[str] | None = None,
) -> Recipe:
    """Load and check a recipe.

    Args:
        name_or_path: the name of a shipped recipe, or a path that ends with .yaml or .yml.
        profile: None takes `POSTTRAIN_PROFILE`, else "tiny".
        overrides: changes by dotted key, as {"args.learning_rate": 1e-3} or as texts
            "args.learning_rate=1e-3". Those of `POSTTRAIN_OVERRIDES` come after them.

    Returns:
        The recipe; `trl.SFTConfig(**recipe.args)` and its like accept its arguments.

    Raises:
        CourseError: no such recipe or profile section, not valid YAML, or an unknown key; the sentence names
            the closest known one.
    """
    profile = get_profile(profile)
    path = recipe_path(name_or_path)
    where = f"recipe {path.stem!r}"
    settings = _settings(path, profile, parsed_overrides(overrides))
    check_settings(settings, where)
    check_parents(settings, path)
    seed = settings.get("seed")
    seed = current_runtime(profile).seed if seed is None else seed
    return Recipe(
        name=path.stem,
        method=settings["method"],
        parent=settings["parent"],
        profile=profile.name,
        model=settings.get("model") or settings["parent"],
        data=settings["data"],
        args={
            **trainer_defaults(profile),
            "seed": seed,
            "output_dir": str(output_root() / profile.name / "runs" / path.stem),
            **(best_kept(settings["method"]) if settings.get("early_stopping") else {}),
            **settings["args"],
            **_shared_among_processes(settings),
        },
        lora=settings["lora"] or None,
        quantization=settings.get("quantization"),
        seed=settings["args"].get("seed", seed),
        path=path,
        stage=stage_name(settings, path.stem),
        description=settings.get("description", ""),
        own_args=settings["args"],
        rewards=check_rewards(settings.get("rewards"), settings["method"], profile, where),
        teacher=check_teacher(settings.get("teacher"), settings["method"], where),
        reference=check_reference_name(settings, path.stem, profile, where),
        models=tuple(settings.get("models") or ()),
        early_stopping=settings.get("early_stopping"),
    )


def _shared_among_processes(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of the batch for one of several processes: what a recipe says is for all of them."""
    if process_count() == 1:
        return {}
    defaults = {item.name: item.default for item in fields(config_class(settings["method"]))}
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
    return shared_batch(*(settings["args"].get(name, defaults.get(name)) for name in names))


def _settings(
    path: Path, profile: Profile, overrides: Mapping[str, Any], taken_by: str | None = None
) -> dict[str, Any]:
    """Return what a recipe sets for a profile, after every change; `taken_by` takes its data."""
    where = f"recipe {path.stem!r}"
    shared, own = _changes_of_file(read_yaml(path), profile, where)
    other = own.pop("data.same_as", shared.pop("data.same_as", None))
    settings: dict[str, Any] = {section: {} for section in SECTIONS}
    if other is not None:
        if taken_by:
            raise CourseError(
                f"{taken_by}: data.same_as names {path.stem!r}, which has data.same_as itself; name its "
                "source."
            )
        settings["data"] = _data_of(other, profile, where)
    _lay_over(settings, shared, where)
    _lay_over(settings, own, where)
    _lay_over(settings, overrides, where)
    changes = readers_changes(profile, path.stem, recipe_names())
    _lay_over(settings, changes, f"{where}, {OVERRIDES_VARIABLE}")
    return settings


def _changes_of_file(
    document: dict[str, Any], profile: Profile, where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what all profiles share and what the section of one adds, each by dotted key."""
    sections = document.pop("profiles", None) or {}
    if not isinstance(sections, dict):
        raise CourseError(f"{where}: profiles must map a profile's name to its settings.")
    if sections and profile.name not in sections:
        raise CourseError(
            f"{where} has no section for the profile {profile.name!r}; it has "
            f"{', '.join(map(str, sections))}: add one, or choose one of these."
        )
    for name, section in sections.items():
        if not isinstance(section or {}, dict):
            raise CourseError(
                f"{where}, profile {name}: keys and values such as args and data are expected, but "
                f"{section!r} was found."
            )
    keys = [*VALUES, *SECTIONS]
    shared = _by_dotted_key(document, [*keys, "profiles"], where)
    # A stage is found by its name in every profile, so no profile may change it.
    keys.remove("stage")
    return shared, _by_dotted_key(sections.get(profile.name) or {}, keys, f"{where}, profile {profile.name}")


def _by_dotted_key(part: dict[str, Any], keys: list[str], where: str) -> dict[str, Any]:
    check_keys(part, keys, "", where)
    if part.get("model") and part.get("models"):
        raise CourseError(f"{where}: model and models both say what to start from; keep one of them.")
    changes: dict[str, Any] = {}
    for key, value in part.items():
        if key not in SECTIONS:
            changes[key] = value
        elif isinstance(value or {}, dict):
            changes |= {f"{key}.{inner}": setting for inner, setting in (value or {}).items()}
        else:
            raise CourseError(f"{where}: {key} must hold keys and values, but it is {value!r}.")
    return changes


def _data_of(recipe: Any, profile: Profile, where: str) -> dict[str, Any]:
    names = recipe_names()
    if recipe not in names:
        raise CourseError(
            f"{where}: data.same_as must name a recipe, but it is {recipe!r}{suggestion(recipe, names)}The "
            f"recipes are {', '.join(names)}."
        )
    return _settings(recipe_path(recipe), profile, {}, taken_by=where)["data"]


def _lay_over(settings: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    """Change settings by dotted key."""
    before = settings["data"].get("source")
    source = changes.get("data.source", before)
    if before is not None and source != before:
        known = data_types(source).keys() - PLACE_KEYS
        settings["data"] = {key: value for key, value in settings["data"].items() if key in known}
    if "model" in changes:  # what says one model says it in place of several
        settings.pop("models", None)
        changes = {key: value for key, value in changes.items() if key != "models"}
    for key, value in changes.items():
        section, dot, inner = key.partition(".")
        if dot and section in SECTIONS:
            settings[section][inner] = value
        elif key in VALUES:
            settings[key] = value
        elif key in SECTIONS:
            raise CourseError(
                f"{where}: {key!r} is a section of settings, and an override changes one of them; write "
                f"{key}.<name>=<value>, such as {_EXAMPLES[key]}."
            )
        else:
            known_keys = [*VALUES, *(f"{name}.…" for name in SECTIONS)]
            raise CourseError(
                f"{where}: the override {key!r} does not exist"
                f"{suggestion(section, (*VALUES, *SECTIONS))}Known: {', '.join(known_keys)}."
            )
