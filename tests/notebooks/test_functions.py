"""A function that a notebook shows in full is the one that the package offers afterwards."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import nbformat
import pytest
import torch

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


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


def body_of(function: ast.FunctionDef) -> str:
    """Return the statements without the docstring, in normal form."""
    docstring = ast.get_docstring(function) is not None
    return ast.unparse(ast.Module(function.body[docstring:], type_ignores=[]))


def executed(notebook: str, name: str) -> object:
    """Run the notebook's definition and return the function."""
    namespace = {"torch": torch}
    exec(ast.unparse(function_of(notebook, name)), namespace)
    return namespace[name]


def test_few_shot_item_is_the_packages():
    from posttrain_helpers import prompting

    shown = function_of("00_meet_the_base_model.ipynb", "few_shot_item")
    package = ast.parse(inspect.getsource(prompting.few_shot_item)).body[0]
    assert body_of(shown) == body_of(package)


def test_masked_loss_agrees_with_the_packages():
    from posttrain_helpers.losses import masked_loss

    shown = executed("01_supervised_fine_tuning.ipynb", "masked_loss")
    logits = torch.randn(3, 7, 13, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
    labels[:, :3] = -100
    assert shown(logits, labels).item() == pytest.approx(masked_loss(logits, labels).item(), abs=1e-7)
