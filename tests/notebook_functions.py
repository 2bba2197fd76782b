"""Functions that a notebook defines in a cell, for the tests that hold them against others."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import nbformat
import torch

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def function_of(notebook: str, name: str) -> ast.FunctionDef:
    """Return the syntax tree of a function that a cell of a notebook defines."""
    cells = nbformat.read(NOTEBOOKS / notebook, as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            return next(
                n
                for n in ast.walk(ast.parse(cell.source))
                if isinstance(n, ast.FunctionDef) and n.name == name
            )
    raise AssertionError(f"{notebook} does not define {name}")


def executed(notebook: str, name: str, **namespace: object) -> Callable:
    """Run the notebook's definition and return the function."""
    namespace |= {"torch": torch}
    exec(ast.unparse(function_of(notebook, name)), namespace)
    return namespace[name]
