"""A lesson runs to its end without its probes, the cells that `posttrain seeds` leaves out."""

from __future__ import annotations

import builtins
import symtable
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from posttrain_helpers.lessons.run import discover
from posttrain_helpers.lessons.seeds import PROBE_TAG

# What IPython gives every notebook.
GIVEN = {*dir(builtins), "__name__", "display", "get_ipython"}


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """Yield a scope and all scopes within it."""
    yield table
    for child in table.get_children():
        yield from scopes(child)


def missing_names(cells: list[nbformat.NotebookNode]) -> set[str]:
    """Return the names that the cells use, and that only probes among them define."""
    kept = [
        cell.source
        for cell in cells
        if cell.cell_type == "code"
        and PROBE_TAG not in cell.metadata.get("tags", [])
        and not cell.source.startswith("%%")  # a file that the cell writes, say
    ]
    module = symtable.symtable("\n".join(kept), "lesson", "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned()}
    defined |= {symbol.get_name() for symbol in module.get_symbols() if symbol.is_imported()}
    used = {
        symbol.get_name()
        for scope in scopes(module)
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (scope is module or symbol.is_global())
    }
    return used - defined - GIVEN


@pytest.mark.parametrize("lesson", discover(), ids=lambda path: path.stem)
def test_a_lesson_needs_no_probe(lesson: Path) -> None:
    assert missing_names(nbformat.read(lesson, as_version=4).cells) == set()


@pytest.mark.parametrize(
    "use", ["print(found)", "def later():\n    return found", "[found for _ in range(2)]"]
)
def test_a_name_that_only_a_probe_defines_is_noticed(use: str) -> None:
    probe = nbformat.v4.new_code_cell("found = 1", metadata={"tags": [PROBE_TAG]})
    assert missing_names([probe, nbformat.v4.new_code_cell(use)]) == {"found"}
    del probe.metadata["tags"]
    assert missing_names([probe, nbformat.v4.new_code_cell(use)]) == set()
