"""Check what a file, a recipe or a caller says against types, and say in one sentence what does not fit.

Types are dataclasses, typed dictionaries and annotations. Content is read as strictly as JSON is: the text
"1" is no number, and neither is true. A list serves as a tuple, a text as a member of an enumeration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from posttrain_helpers.environment.paths import read_json, write_json_atomic
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import closest

T = TypeVar("T")

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
_LONGEST_SHOWN = 80
# What is wanted, by pydantic's type of error. Braces hold what it tells about the error.
_WANTED = {
    "bool_type": "true or false",
    "callable_type": "a function",
    "dataclass_type": "keys and values",
    "dict_type": "keys and values",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "needs_python_object": "an object of Python",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "too_short": "something that is not empty",
    "tuple_type": "a list",
}
_UNKNOWN_FIELD = ("unexpected_keyword_argument", "extra_forbidden")


def checked(kind: type[T] | Any, content: Any, where: str, name: str = "", remedy: str = "") -> T:
    """Return content as a value of a type.

    Args:
        kind: the type: a dataclass, a typed dictionary, or any annotation, resolved.
        content: what JSON can hold; scalars of numpy count as the numbers that they hold.
        where: what holds the content, for an error: a path, or words such as "recipe 'sft'".
        name: what to call the content itself within `where`, if it is a part of it.
        remedy: what to do about wrong content: the end of the sentence, without its full stop.

    Raises:
        CourseError: the content does not fit; the sentence says where, what is wanted and what was found.
    """
    # In a tuple the configuration also holds for types that have a place for one of their own.
    adapter = TypeAdapter(tuple[kind], config=_CONFIG)
    try:
        return adapter.validate_json(_json([content], where))[0]
    except ValidationError as error:
        faults = error.errors(include_url=False)
    problem = f"{where}: {_problem(faults, content, name, _takes_null(adapter))}"
    end = f"; {remedy}." if remedy else "" if problem.endswith("?") else "."
    raise CourseError(problem + end)


def plain(content: Any, where: str) -> Any:
    """Return content as plain numbers, texts, lists and dictionaries.

    Raises:
        CourseError: JSON cannot hold it.
    """
    return json.loads(_json(content, where, allow_nan=False))


def read_checked(kind: type[T], path: Path, remedy: str) -> T:
    """Return the object of a dataclass that a JSON file holds.

    Raises:
        CourseError: the file is damaged, or its content does not fit; the sentence ends with `remedy`.
    """
    return checked(kind, read_json(path, remedy), str(path), remedy=remedy)


def write_checked(path: Path, value: Any, where: str) -> Path:
    """Write an object of a dataclass as a JSON file, whole or not at all, and return the path.

    Raises:
        CourseError: a field of the object does not fit; `where` says what the object is.
    """
    return write_json_atomic(path, asdict(checked(type(value), asdict(value), where)))


def _json(content: Any, where: str, allow_nan: bool = True) -> str:
    try:
        return json.dumps(content, default=_scalar, allow_nan=allow_nan)
    except (TypeError, ValueError) as error:
        raise CourseError(
            f"{where} cannot be written as JSON ({error}); use finite numbers, text, lists and dictionaries."
        ) from error


def _scalar(value: Any) -> Any:
    """Return the number that a scalar of numpy holds."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} is no type of JSON")


def _takes_null(adapter: TypeAdapter) -> bool:
    try:
        adapter.validate_json("[null]")
    except ValidationError:
        return False
    return True


def _problem(faults: Sequence[Mapping[str, Any]], content: Any, name: str, takes_null: bool) -> str:
    """Return the first fault that pydantic found, in words."""
    places = [_place(content, fault["loc"][1:]) for fault in faults]
    first, place = faults[0], places[0]
    if first["type"] == "json_invalid":  # half a character, or brackets in brackets without end
        return f"{name} cannot be read ({first['ctx']['error']})".lstrip()
    if first["type"] == "missing":
        return f"{_named(name, (*place, first['loc'][-1]))} is missing"
    if first["type"] in _UNKNOWN_FIELD:
        return f"{_named(name, place)} is an unknown field"
    if first["type"] == "value_error":
        return ": ".join(filter(None, (_named(name, place), str(first["ctx"]["error"]).removesuffix("."))))
    # A union reports each of its members; the member that got furthest into the content was meant.
    place = max((other for other in places if other[: len(place)] == place), key=len)
    meant = [fault for fault, other in zip(faults, places, strict=True) if other == place]
    wanted = [
        _WANTED.get(fault["type"], fault["msg"].removeprefix("Input should be "))
        .format(**fault.get("ctx", {}))
        .removesuffix(".0")
        for fault in meant
    ]
    if takes_null and not place:
        wanted.append("null")
    found = meant[0]["input"]
    shown = repr(found) if len(repr(found)) <= _LONGEST_SHOWN else f"{repr(found)[:_LONGEST_SHOWN]} …"
    choices = [choice for words in wanted for choice in re.findall(r"'(.*?)'", words)]
    rule = f"{_named(name, place)} must be {' or '.join(dict.fromkeys(wanted))}".lstrip()
    return f"{rule}, but it is {shown}{_hint(found, choices)}"


def _place(content: Any, steps: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the keys and indices that lead to a fault, without the names of a union's members."""
    place: list[str | int] = []
    for step in steps:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            continue
        place.append(step)
    return tuple(place)


def _named(name: str, place: Sequence[str | int]) -> str:
    """Return a place within content as it is written: `claims[0].p`."""
    return "".join([name, *(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)]).lstrip(
        "."
    )


def _hint(found: Any, choices: Sequence[str]) -> str:
    """Return what most often leads to a value that is none of the choices."""
    if isinstance(found, bool) and (word := "yes" if found else "no") in choices:
        return f"; YAML reads a bare {word} as {str(found).lower()}: write '\"{word}\"'"
    hint = closest(found, choices) if isinstance(found, str) else ""
    return f"; {hint}".rstrip() if hint else ""
