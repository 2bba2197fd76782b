"""Whether a value fits a type annotation: for values that YAML or JSON can hold."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    NoneType: "null",
}


def fits(value: Any, kind: Any) -> bool:
    """Say whether a value is of an annotated type; a list serves as a tuple.

    Args:
        value: what YAML or JSON can hold.
        kind: a resolved annotation, as `typing.get_type_hints` returns it.
    """
    kind, arguments = get_origin(kind) or kind, get_args(kind)
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in _options(arguments))
    if kind is Literal:
        return any(_is_choice(value, choice) for choice in arguments)
    if kind is Any:
        return True
    if kind in (list, tuple):
        item = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(fits(entry, item) for entry in value)
    if kind is dict:
        of_values = arguments[1] if arguments else Any
        return isinstance(value, Mapping) and all(fits(entry, of_values) for entry in value.values())
    if kind in (int, float):
        return is_number(value) and (kind is float or isinstance(value, int))
    if _is_enumeration(kind):
        return value in _choices(kind)
    return not isinstance(kind, type) or isinstance(value, kind)


def _options(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the members of a union; text beside an enumeration means one of its values."""
    enumerating = any(map(_is_enumeration, kinds))
    return tuple(kind for kind in kinds if not (enumerating and kind is str))


def _is_choice(value: Any, choice: Any) -> bool:
    # PEFT writes 'pissa_niter_[number of iters]' for a text that ends with any number.
    if isinstance(choice, str) and "[" in choice:
        pattern = re.escape(choice.partition("[")[0]) + r"\d+"
        return isinstance(value, str) and re.fullmatch(pattern, value) is not None
    return type(value) is type(choice) and value == choice


def _choices(kind: type[Enum]) -> list[Any]:
    return [member.value for member in kind]


def is_number(value: Any) -> bool:
    """Say whether a value is a finite number that a float can hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # not so for nan, and whole numbers may be larger


def described(kind: Any) -> str:
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
    elif _is_enumeration(origin):
        yield "one of " + ", ".join(map(str, _choices(origin)))


def enumerated(kind: Any) -> list[Any]:
    """Return the values of the enumerations in an annotation."""
    kinds = get_args(kind) or (kind,)
    return [choice for kind in kinds if _is_enumeration(kind) for choice in _choices(kind)]


def _is_enumeration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)
