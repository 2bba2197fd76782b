"""A function that a notebook shows in full is the one that the package offers afterwards."""

from __future__ import annotations

import ast
import importlib
import inspect
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import torch
from torch.nn.functional import cross_entropy

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


def parameters_of(function: ast.FunctionDef) -> str:
    """Return names, order and default values of the parameters; a lesson may leave the types out."""
    arguments = deepcopy(function.args)
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(arguments)


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


def test_masked_loss_is_pytorchs_cross_entropy_of_the_next_supervised_token():
    masked_loss = executed("01_supervised_fine_tuning.ipynb", "masked_loss")
    logits = torch.randn(3, 7, 13, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
    labels[:, :3] = -100
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert masked_loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)


# What a lesson shows in full and the package offers, by notebook and module.
SHOWN = {
    ("05_reward_modelling", "preference_losses"): ("bradley_terry_loss",),
    ("06_direct_preference_optimization", "preference_losses"): ("dpo_loss",),
    ("06_direct_preference_optimization", "divergence"): ("completion_log_probs",),
    ("07_preference_family", "preference_losses"): (
        "ipo_loss",
        "kto_loss",
        "kto_kl",
        "orpo_loss",
        "simpo_loss",
    ),
    ("08_ppo_rlhf", "advantages"): ("shaped_rewards", "generalized_advantages"),
    ("08_ppo_rlhf", "policy_losses"): ("clipped_policy_loss",),
    ("09_grpo_verifiable_rewards", "advantages"): ("_groups", "group_advantages"),
    ("09_grpo_verifiable_rewards", "policy_losses"): ("aggregate", "grpo_loss"),
}


@pytest.mark.parametrize(
    ("notebook", "module", "name"),
    [(*place, name) for place, names in SHOWN.items() for name in names],
)
def test_the_functions_that_a_lesson_shows_are_the_packages(notebook: str, module: str, name: str) -> None:
    function = getattr(importlib.import_module(f"posttrain_helpers.{module}"), name)
    package = ast.parse(inspect.getsource(function)).body[0]
    shown = function_of(f"{notebook}.ipynb", name)
    assert body_of(shown) == body_of(package)
    # The same body over parameters in another order would be another function.
    assert parameters_of(shown) == parameters_of(package)


def test_another_body_or_order_is_noticed() -> None:
    def tree(source: str) -> ast.FunctionDef:
        return ast.parse(source).body[0]

    first = tree('def f(a: int, b=1):\n    """Subtract."""\n    return a - b  # as it is')
    same = tree("def f(a, b=1):\n    return a - b")
    assert (body_of(first), parameters_of(first)) == (body_of(same), parameters_of(same))
    assert body_of(first) != body_of(tree("def f(a, b=1):\n    return b - a"))
    for other in ("def f(b, a=1): pass", "def f(a, b=2): pass", "def f(a, b): pass"):
        assert parameters_of(first) != parameters_of(tree(other))
