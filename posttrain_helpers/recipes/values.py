"""Whether the values of a recipe are of the types that the libraries declare, and in the ranges that matter.

The types are those of the config classes' fields and of the parameters of the built-in data sources, so a new
argument of a library is checked without a change here. TRL itself accepts `learning_rate="fast"` and fails
with a traceback in the optimizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from posttrain_helpers.data import built_in_function, is_built_in
from posttrain_helpers.errors import CourseError
from posttrain_helpers.suggestions import closest

_LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one
VALUE_TYPES = {"description": str, "model": str, "seed": int}

_DATA_TYPES = {
    **dict.fromkeys(("source", "adapter", "split", "subset", "revision", "answer_format"), str),
    **dict.fromkeys(("max_samples", "held_out_samples", "length_groups", "max_length"), int),
    "seed": int,
    "system_prompt": str,
    "columns": dict[str, Any],
    "held_out": str | list[str],
}
# What the libraries take beyond what they declare.
_ALSO_TAKEN = {"loss_type": str, "fsdp": bool | list[str]}
_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("gradient_accumulation_steps", "max_length", "max_completion_length"), 1),
    **dict.fromkeys(("learning_rate", "num_train_epochs", "seed", "data_seed"), 0),
}
_MOST = dict.fromkeys(("seed", "data_seed"), _LARGEST_SEED)
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    NoneType: "null",
}


def argument_types(config: type) -> dict[str, Any]:
    """Return the declared type of each field of a config class."""
    types = get_type_hints(config)
    return {key: kind | _ALSO_TAKEN[key] if key in _ALSO_TAKEN else kind for key, kind in types.items()}


def data_types(source: object) -> dict[str, Any]:
    """Return the type of each key of a data section with this source.

    Raises:
        CourseError: a built-in source that does not exist.
    """
    own = get_type_hints(built_in_function(source)) if is_built_in(source) else {}
    # Of a source's own settings null means "not set"; the seed is never left open.
    return {
        key: kind if key == "seed" else kind | None
        for key, kind in {**_DATA_TYPES, **own}.items()
        if key != "return"
    }


def check_values(found: Mapping[str, Any], types: Mapping[str, Any], prefix: str, where: str) -> None:
    """Check values against their declared types, and against the ranges that matter.

    Args:
        found: the values by key; keys without a type are not looked at.
        types: annotations by key.
        prefix: what to write before a key, such as "args.".
        where: what to call the recipe in an error.

    Raises:
        CourseError: the sentence names the key, what it must be, and what it is.
    """
    for key, value in found.items():
        if key not in types:
            continue
        kind, least, most = types[key], _LEAST.get(key, -math.inf), _MOST.get(key, math.inf)
        if not _fits(value, kind):
            raise CourseError(
                f"{where}: {prefix}{key} must be {_described(kind)}{_range(least, most)}, but it is "
                f"{_shown(value)}.{_advice(value, kind)}"
            )
        if _is_number(value) and not least <= value <= most:
            raise CourseError(
                f"{where}: {prefix}{key} must be {_described(type(value))}{_range(least, most)}, but it is "
                f"{_shown(value)}."
            )


def _fits(value: Any, kind: Any) -> bool:
    """Say whether a value that YAML can hold is of an annotated type."""
    kind, arguments = get_origin(kind) or kind, get_args(kind)
    if kind in (Union, UnionType):
        return any(_fits(value, option) for option in _options(arguments))
    if kind is Literal:
        return any(_is_choice(value, choice) for choice in arguments)
    if kind is Any:
        return True
    if kind in (list, tuple):
        item = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(_fits(entry, item) for entry in value)
    if kind is dict:
        of_values = arguments[1] if arguments else Any
        return isinstance(value, Mapping) and all(_fits(entry, of_values) for entry in value.values())
    if kind in (int, float):
        return _is_number(value) and (kind is float or isinstance(value, int))
    if issubclass(kind, Enum):
        return value in _choices(kind)
    return isinstance(value, kind)


def _options(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the members of a union; text beside an enumeration means one of its values."""
    enumerated = any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds)
    return tuple(kind for kind in kinds if not (enumerated and kind is str))


def _is_choice(value: Any, choice: Any) -> bool:
    # PEFT writes 'pissa_niter_[number of iters]' for a text that ends with any number.
    if isinstance(choice, str) and "[" in choice:
        pattern = re.escape(choice.partition("[")[0]) + r"\d+"
        return isinstance(value, str) and re.fullmatch(pattern, value) is not None
    return type(value) is type(choice) and value == choice


def _choices(kind: type[Enum]) -> list[Any]:
    return [member.value for member in kind]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _described(kind: Any) -> str:
    """Return an annotation in words."""
    return " or ".join(dict.fromkeys(_descriptions(kind)))


def _descriptions(kind: Any) -> Iterable[str]:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        for option in _options(arguments):
            yield from _descriptions(option)
    elif origin is Literal:
        yield from map(str, arguments)
    elif origin in (list, tuple):
        yield "a list"
    elif origin is dict:
        yield "keys and values"
    elif origin in _NAMES:
        yield _NAMES[origin]
    elif isinstance(origin, type) and issubclass(origin, Enum):
        yield "one of " + ", ".join(map(str, _choices(origin)))


def _range(least: float, most: float) -> str:
    if most < math.inf:
        return f" from {least} to {most}"
    return f" of at least {least}" if least > -math.inf else ""


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]} …"


def _advice(value: Any, kind: Any) -> str:
    """Return what most often leads to such a value."""
    choices = [str(choice) for option in get_args(kind) for choice in _enumerated(option)]
    if isinstance(value, bool) and (word := "yes" if value else "no") in choices:
        return f" YAML reads a bare {word} as {str(value).lower()}: write '\"{word}\"'."
    if isinstance(value, str) and choices:
        return f" {closest(value, choices).capitalize()}".rstrip()
    return ""


def _enumerated(kind: Any) -> list[Any]:
    return _choices(kind) if isinstance(kind, type) and issubclass(kind, Enum) else []
