"""Exercises of lesson 03: gradients at the start, counting an adapter, a merge that is off, one change."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    choice,
    name_mistake,
    number,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

if TYPE_CHECKING:
    import torch

# --- 03.1: which matrix has a gradient at the first step?

ASKED = ("A", "B", "both zero")
CHOICES = ("zero", "not zero")
_GRADIENTS = {"A": "zero", "B": "not zero", "both zero": "zero"}


def grade_gradients(answer: Any) -> None:
    """Take a choice for each matrix, and for B if both began at zero."""
    if not isinstance(answer, dict) or set(answer) != set(ASKED):
        raise NotYet('Give a dictionary with the keys "A", "B" and "both zero".')
    said = {key: choice(value, CHOICES) for key, value in answer.items()}
    if said["A"] != _GRADIENTS["A"]:
        raise NotYet("The update is B times A, and B is zero: does a small change of A change the output?")
    if said["B"] != _GRADIENTS["B"]:
        raise NotYet("The update is B times A, and A is random: does a small change of B change the output?")
    if said["both zero"] != _GRADIENTS["both zero"]:
        raise NotYet("If A is zero, too, whatever B becomes is multiplied by zero.")


# --- 03.2: how many parameters train

# Shapes (outputs, inputs) of weight matrices, and a rank.
LAYERS = (
    ([(6, 4)], 2),
    ([(3, 10), (10, 3)], 1),
    ([(8, 8), (2, 8), (24, 8)], 4),
    ([], 3),
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
    for shapes, r in reversed(LAYERS):
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


@cache
def _layer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Return a weight of five outputs and seven inputs, matrices of rank 3, and alpha."""
    import torch

    generator = torch.Generator().manual_seed(3)
    weight, down, up = (torch.randn(size, generator=generator) for size in ((5, 7), (3, 7), (5, 3)))
    return weight, down, up, 6.0


def _same(found: Any, expected: torch.Tensor) -> bool:
    import torch

    return (
        isinstance(found, torch.Tensor)
        and found.shape == expected.shape
        and found.is_floating_point()
        and bool((found - expected).abs().max() < 1e-5)
    )


def grade_merge(answer: Any) -> None:
    """Call a function of a weight, its adapter and alpha."""
    hints = (
        (over_inputs, "The scale is still alpha over the number of inputs. What does alpha stand over?"),
        (over_outputs, "Now alpha stands over the number of outputs. Which size do A and B share?"),
        (unscaled, "alpha does not occur any more: the layer that was trained had a scale."),
        (undivided, "alpha is there, but nothing divides it."),
        (over_root, "The root of the rank is the scale of rsLoRA; this adapter was trained without it."),
    )
    found = call(answer, *_layer())
    if _same(found, merged(*_layer())):
        return
    name_mistake(hints, found, *_layer(), same=_same)
    raise NotYet(
        "For a weight of 5 outputs and 7 inputs and a rank of 3 your function does not return what the layer "
        "with its adapter computes; compare the two outputs for one input."
    )


# --- 03.4: one changed setting

SETTINGS = (
    "lora.r",
    "lora.lora_alpha",
    "lora.target_modules",
    "lora.use_dora",
    "lora.lora_dropout",
    "args.learning_rate",
)
_LOST = paired_binary([True] * 90 + [False] * 10, [True] * 70 + [False] * 30)

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
        ),
        "Nothing fails with the wrong scale: the merged model is the base with a weaker or stronger dose of "
        "the update. So compare logits after every merge.",
    ),
    change_exercise(
        "03.4",
        SETTINGS,
        "lora.r=1",
        _LOST,
        "One change, the same questions, an interval, and a verdict that follows from it.",
    ),
)
