"""Changes of a recipe by dotted key: those of a call, and the reader's own for every recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain_helpers.environment.profiles import OVERRIDES_VARIABLE, Profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes.yaml_files import parsed_yaml
from posttrain_helpers.wording import suggestion

# `data`, `args` and `lora` are merged key by key; of the others the more specific value wins.
SECTIONS = ("data", "args", "lora")
VALUES = ("description", "method", "stage", "parent", "model", "models", "seed", "quantization")
VALUES += ("rewards", "teacher", "reference", "early_stopping")


def parsed_overrides(overrides: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """Return overrides as a dictionary from dotted key to value.

    Args:
        overrides: such a dictionary, or texts "key=value" whose value is read as YAML.

    Raises:
        CourseError: a text without key or equals sign, or whose value is no YAML.
    """
    if overrides is None or isinstance(overrides, Mapping):
        return dict(overrides or {})
    parsed = {}
    for text in [overrides] if isinstance(overrides, str) else overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise CourseError(f"an override looks like 'args.learning_rate=1e-3', but {text!r} was given.")
        parsed[key.strip()] = parsed_yaml(value, f"the value of the override {text!r}")
    return parsed


def readers_changes(profile: Profile, recipe: str, names: Iterable[str]) -> dict[str, Any]:
    """Return what `POSTTRAIN_OVERRIDES` changes in a recipe.

    A change behind the recipe's name wins over one for every recipe.

    Args:
        names: of all recipes.

    Returns:
        Overrides by dotted key, without the recipe's name.

    Raises:
        CourseError: a change that begins with neither a recipe's name nor a key of recipes.
    """
    names = {*names, recipe}
    shared, own = {}, {}
    for key, value in parsed_overrides(profile.changes).items():
        first, dot, rest = key.partition(".")
        if dot and first in names:
            if first == recipe:
                own[rest] = value
        elif first in (*SECTIONS, *VALUES):
            shared[key] = value
        else:
            raise CourseError(
                f"{OVERRIDES_VARIABLE}: {key!r} changes nothing"
                f"{suggestion(first, (*SECTIONS, *VALUES, *names))}Begin with a key of recipes "
                f"({', '.join((*SECTIONS, *VALUES))}), or with the name of one recipe "
                f"({', '.join(sorted(names))})."
            )
    return {**shared, **own}
