"""Exercises of lesson 03: gradients at the start, counting an adapter, a merge that is off, one change."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    check_begins_trained,
    choices_by_key,
    compared,
    name_mistake,
    number,
)
from posttrain_helpers.recipes.loading import load_recipe
from posttrain_helpers.statistics.paired_tests import paired_binary, paired_numeric

if TYPE_CHECKING:
    import torch

# --- 03.1: which matrix has a gradient at the first step?

ASKED = ("A", "B", "both zero")
CHOICES = ("zero", "not zero")
_GRADIENTS = {"A": "zero", "B": "not zero", "both zero": "zero"}


def grade_gradients(answer: Any) -> None:
    """Take a choice for each matrix, and for B if both began at zero."""
    said = choices_by_key(answer, ASKED, CHOICES)
    if said["A"] != _GRADIENTS["A"]:
        raise NotYet("The update is B times A, and B is zero: does a small change of A change the output?")
    if said["B"] != _GRADIENTS["B"]:
        raise NotYet("The update is B times A, and A is random: does a small change of B change the output?")
    if said["both zero"] != _GRADIENTS["both zero"]:
        raise NotYet("If A is zero, too, whatever B becomes is multiplied by zero.")


# --- 03.2: how many parameters train

# Shapes (outputs, inputs) of weight matrices, and a rank. In the first no two ways to count agree.
LAYERS = (
    ([(8, 8), (2, 8), (24, 8)], 3),
    ([(3, 10), (10, 3)], 1),
    ([(6, 4)], 2),
)


def lora_parameters(shapes: list[tuple[int, int]], r: int) -> int:
    """Return how many parameters the adapters of weight matrices have."""
    return sum(r * (outputs + inputs) for outputs, inputs in shapes)


def of_the_product(shapes: list[tuple[int, int]], r: int) -> int:
    """Count the entries of B A, which are as many as the weight has."""
    return sum(outputs * inputs for outputs, inputs in shapes)


def without_rank(shapes: list[tuple[int, int]], r: int) -> int:
    """Forget the rank."""
    return lora_parameters(shapes, 1)


def as_if_square(shapes: list[tuple[int, int]], r: int) -> int:
    """Take every matrix for a square one."""
    return sum(2 * r * inputs for _, inputs in shapes)


def one_matrix(shapes: list[tuple[int, int]], r: int) -> int:
    """Count A alone."""
    return sum(r * inputs for _, inputs in shapes)


def grade_count(answer: Any) -> None:
    """Call a function of shapes and a rank."""
    hints = (
        (
            of_the_product,
            "That is the size of the product B A. It is never trained as such: its two factors are.",
        ),
        (one_matrix, "Only one of the two matrices is counted."),
        (as_if_square, "Not all layers are square: one of A and B has as many rows or columns as outputs."),
        (without_rank, "The rank is missing: it is the inner size of both matrices."),
    )
    for shapes, r in LAYERS:
        value = number(call(answer, shapes, r))
        if value == lora_parameters(shapes, r):
            continue
        name_mistake(hints, value, shapes, r)
        raise NotYet(
            f"For the shapes {shapes} and rank {r} your function returns {value:g}; "
            f"{lora_parameters(shapes, r)} is right."
        )


# --- 03.3: a merge with the wrong scale


def merged(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the weight with the adapter added to it."""
    return weight + alpha / A.shape[0] * B @ A


def over_inputs(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Divide by the number of inputs: the mistake that the notebook shows."""
    return weight + alpha / A.shape[1] * B @ A


def over_outputs(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Divide by the number of outputs."""
    return weight + alpha / B.shape[0] * B @ A


def unscaled(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Leave the scale out."""
    return weight + B @ A


def undivided(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Multiply by alpha and do not divide."""
    return weight + alpha * B @ A


def over_root(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Divide by the root of the rank, which is rsLoRA."""
    return weight + alpha / A.shape[0] ** 0.5 * B @ A


def doubled(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Take a scale that is right for one layer."""
    return weight + 2 * B @ A


@cache
def _layers() -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float], ...]:
    """Return two layers, each as weight, A, B and alpha: no constant is the scale of both."""
    import torch

    generator = torch.Generator().manual_seed(3)
    layers = []
    for outputs, inputs, r, alpha in ((5, 7, 3, 6.0), (6, 4, 2, 5.0)):
        sizes = ((outputs, inputs), (r, inputs), (outputs, r))
        weight, down, up = (torch.randn(size, generator=generator) for size in sizes)
        layers.append((weight, down, up, alpha))
    return tuple(layers)


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return (
        found.shape == expected.shape
        and found.is_floating_point()
        and bool((found - expected).abs().max() < 1e-5)
    )


def _matrix(answer: Any) -> torch.Tensor:
    import torch

    try:
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotYet(f"Return the merged weight, a tensor; {type(answer).__name__} was found.") from None


def grade_merge(answer: Any) -> None:
    """Call a function of a weight, its adapter and alpha."""
    hints = (
        (over_inputs, "The scale is still alpha over the number of inputs. What does alpha stand over?"),
        (over_outputs, "Now alpha stands over the number of outputs. Which size do A and B share?"),
        (unscaled, "alpha does not occur any more: the layer that was trained had a scale."),
        (undivided, "alpha is there, but nothing divides it."),
        (over_root, "The root of the rank is the scale of rsLoRA; this adapter was trained without it."),
    )
    for layer in _layers():
        found = _matrix(call(answer, *layer))
        if _same(found, merged(*layer)):
            continue
        name_mistake(hints, found, *layer, same=_same)
        weight, down, _, alpha = layer
        raise NotYet(
            f"For a weight of {weight.shape[0]} outputs and {weight.shape[1]} inputs, a rank of {len(down)} "
            f"and alpha {alpha:g} your function does not return what the layer with its adapter computes; "
            "compare the two outputs for one input."
        )


# --- 03.4: one changed setting

SETTINGS = (
    "lora.r",
    "lora.lora_alpha",
    "lora.target_modules",
    "lora.lora_dropout",
    "args.learning_rate",
)
_DEFAULTS = {"lora.lora_dropout": 0.0}  # what peft takes, where a recipe is silent
_RIGHT = [True] * 90 + [False] * 10
_LOST = paired_binary(_RIGHT, [True] * 70 + [False] * 30)
_FROM_THE_BASE = paired_binary([True] * 10 + [False] * 90, _RIGHT)
_LOSSES = paired_numeric([1.0, 2.0] * 50, [1.5, 2.25] * 50, higher_is_better=False)


def grade_change(answer: Any) -> None:
    """Take one change, as in every lesson, if it is one and its right answers stand beside the recipe's."""
    result = compared(answer, SETTINGS)
    setting, value = (part.strip() for part in answer["changed"].split("="))
    section, key = setting.split(".")
    recipe = load_recipe("lora")
    own = {"lora": recipe.lora, "args": recipe.args}[section].get(key, _DEFAULTS.get(setting))
    if _plain(value) == _plain(own):
        raise NotYet(f"{setting}={value} is the recipe's own value; choose another.")
    rate = recipe.args["learning_rate"]
    tried = {"lora.r": (1, 64), "args.learning_rate": (2 * rate, 4 * rate)}
    if _plain(value) in map(_plain, tried.get(setting, ())):
        raise NotYet(f"A table above has {setting}={value} already; choose another value or setting.")
    if result.kind == "numeric":
        raise NotYet("The question is about right answers: the result is that of `accuracy`.")
    check_begins_trained(result, "the recipe's adapter, `LORA`")


def _plain(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).replace(" ", "").replace('"', "'").lower()


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "03.1",
        "predict",
        grade_gradients,
        _GRADIENTS,
        (
            ({**_GRADIENTS, "A": "not zero"}, "B is zero"),
            ({**_GRADIENTS, "B": "zero"}, "A is random"),
            ({**_GRADIENTS, "both zero": "not zero"}, "multiplied by zero"),
            ({"A": "zero"}, "the keys"),
        ),
        "The first step moves B alone; from the second on both move. With two zeros nothing would ever move.",
    ),
    Exercise(
        "03.2",
        "function",
        grade_count,
        lora_parameters,
        (
            (of_the_product, "the product B A"),
            (one_matrix, "one of the two"),
            (as_if_square, "Not all layers are square"),
            (without_rank, "The rank is missing"),
        ),
        "An adapter grows with the sum of a layer's two sizes, its weight with their product: the larger the "
        "layer, the smaller the share that trains.",
    ),
    Exercise(
        "03.3",
        "bug",
        grade_merge,
        merged,
        (
            (over_inputs, "over the number of inputs"),
            (over_outputs, "over the number of outputs"),
            (unscaled, "does not occur any more"),
            (undivided, "nothing divides it"),
            (over_root, "rsLoRA"),
            (doubled, "a rank of 2 and alpha 5"),
        ),
        "Nothing fails with the wrong scale: the merged model is the base with a weaker or stronger dose of "
        "the update. So compare logits after every merge.",
    ),
    replace(
        change_exercise(
            "03.4",
            SETTINGS,
            "lora.r=4",
            _LOST,
            "One change, the same questions, an interval, and a verdict that follows from it.",
            (
                (
                    {"changed": "lora.lora_dropout=0", "result": _LOST, "verdict": "worse"},
                    "the recipe's own value",
                ),
                ({"changed": "lora.r=64", "result": _LOST, "verdict": "worse"}, "A table above has"),
                ({"changed": "lora.use_dora=True", "result": _LOST, "verdict": "worse"}, "lora.use_dora"),
                ({"changed": "lora.r=4", "result": _LOSSES, "verdict": "worse"}, "about right answers"),
                ({"changed": "lora.r=4", "result": _FROM_THE_BASE, "verdict": "improved"}, "begins at 10%"),
            ),
        ),
        grade=grade_change,
    ),
)
