"""Imports run one way: no circles, and no room imports one that stands above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import posttrain_helpers

PACKAGE = "posttrain_helpers"

# From the top floor down; rooms of one line do not import each other.
FLOORS = (
    ("__main__",),
    ("cli", ""),
    ("lessons",),
    ("report", "serving"),
    ("evaluation",),
    ("comparison", "tinyworld"),
    ("stages",),
    ("data", "training"),
    ("recipes",),
    ("rewards",),
    ("models", "generation", "memory"),
    ("plots",),
    ("environment", "statistics", "losses", "metrics"),
    ("messages",),
    ("wording", "errors"),
)
# The one way up: a stage may need data that another stage samples, so `data` finds the builders of the known
# world by name, and these may load a stage. Recipes name classes of trainers, and import none to be read.
# Exercises are found by their number.
BY_NAME = {"data.loading", "recipes.methods", "lessons.exercises.__init__"}


def imports_of(source: str, modules: set[str]) -> set[str]:
    """Return the modules of the package that a source imports, in functions too, but not for types only."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
    return {name.removeprefix(PACKAGE).removeprefix(".") for name in found}


def read_house() -> dict[str, set[str]]:
    """Return for each module of the package, named from the package on, the modules that it imports."""
    root = Path(posttrain_helpers.__file__).parent
    paths = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    return {
        name.removeprefix(PACKAGE).removeprefix("."): imports_of(path.read_text(encoding="utf-8"), set(paths))
        for name, path in paths.items()
    }


def circle(house: dict[str, set[str]]) -> list[str] | None:
    """Return the modules of one circle in order, None where there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for other in sorted(house.get(module, set()) - {module}):
            if found := visit(other, [*path, module]):
                return found
        done.add(module)
        return None

    return next((found for module in sorted(house) if (found := visit(module, []))), None)


def floor(module: str) -> int:
    """Return how far from the top the room of a module stands."""
    room = module.split(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def climbs(house: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the imports that run to a higher floor, or to another room of the same one."""
    for module, others in house.items():
        for other in others:
            same_room = module.split(".")[0] == other.split(".")[0]
            if not same_room and floor(other) <= floor(module):
                yield module, other


def test_there_is_no_circle() -> None:
    assert circle(read_house()) is None


def test_no_import_climbs() -> None:
    assert list(climbs(read_house())) == []


def test_few_modules_import_by_name() -> None:
    root = Path(posttrain_helpers.__file__).parent
    found = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if "import_module" in path.read_text(encoding="utf-8")
    }
    assert found == BY_NAME


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from posttrain_helpers.stages import build", {"stages.build"}),
        ("from posttrain_helpers.stages.build import load_stage", {"stages.build"}),
        ("def f():\n    from posttrain_helpers.stages import load_stage", {"stages"}),
        ("if TYPE_CHECKING:\n    from posttrain_helpers.stages import build", set()),
        ("import posttrain_helpers.stages.build", {"stages.build"}),
        ("import torch", set()),
    ],
)
def test_imports_inside_functions_count_and_those_for_types_do_not(source: str, expected: set[str]) -> None:
    modules = {f"{PACKAGE}.stages", f"{PACKAGE}.stages.build"}
    assert imports_of(source, modules) == expected


def test_a_circle_and_a_climb_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    assert list(climbs({"models.loading": {"stages.build", "models.hub", "errors"}})) == [
        ("models.loading", "stages.build")
    ]
