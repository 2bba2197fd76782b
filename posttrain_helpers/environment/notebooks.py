"""Notebooks as files: read one, and name a cell in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook; a missing or broken file is a `CourseError`."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError as error:
        raise CourseError(f"there is no notebook {path}.") from error
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CourseError(
            f"{path} is no valid notebook ({reason}); restore it from the repository."
        ) from error


def cell_name(cells: list[NotebookNode], index: int) -> str:
    """Return how sentences name a cell: its place, counted from 1, and its first line."""
    lines = cells[index].source.strip().splitlines() or ["(empty)"]
    return f"cell {index + 1} of {len(cells)} ({lines[0][:60]!r})"
