"""Exercises of lesson 03: gradients at the start, counting an adapter, a merge that is off, one change."""

from __future__ import annotations

from typing import Any

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    check_begins_trained,
    function_exercise,
    parts_exercise,
)
from posttrain_helpers.recipes.loading import load_recipe
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary, paired_numeric

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


# --- 03.3: a merge with the wrong scale


def merged(weight: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the weight with the adapter added to it."""
    return weight + alpha / A.shape[0] * B @ A


def _layer(outputs: int, inputs: int, r: int, alpha: float, seed: int) -> tuple[Any, ...]:
    """Return weight, A, B and alpha of a layer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((outputs, inputs), (r, inputs), (outputs, r))
    return *(torch.randn(size, generator=generator) for size in sizes), alpha


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return (
        found.shape == expected.shape
        and found.is_floating_point()
        and bool((found - expected).abs().max() < 1e-5)
    )


def _matrix(answer: Any, _: torch.Tensor) -> torch.Tensor:
    try:
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotYet(f"Return the merged weight, a tensor; {type(answer).__name__} was found.") from None


# --- 03.4: one changed setting

_DEFAULTS = {"lora.lora_dropout": 0.0}  # what peft takes, where a recipe is silent


def check_change(answer: dict[str, Any], result: PairedResult) -> None:
    """Refuse what the recipe or a table has already, and a result that is not about right answers."""
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


_LOSSES = paired_numeric([1.0, 2.0] * 50, [1.5, 2.25] * 50, higher_is_better=False)
_FROM_THE_BASE = paired_binary([True] * 10 + [False] * 90, [True] * 90 + [False] * 10)

EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "03.1",
        {"A": "zero", "B": "not zero", "both zero": "zero"},
        ("zero", "not zero"),
        {
            "A": "The update is B times A, and B is zero: does a small change of A change the output?",
            "B": "The update is B times A, and A is random: does a small change of B change the output?",
            "both zero": "If A is zero, too, whatever B becomes is multiplied by zero.",
        },
        "The first step moves B alone; from the second on both move. With two zeros nothing would ever move.",
    ),
    function_exercise(
        "03.2",
        "function",
        lora_parameters,
        LAYERS,
        (
            (
                lambda shapes, r: sum(outputs * inputs for outputs, inputs in shapes),
                "That is the size of the product B A. It is never trained as such: its two factors are.",
            ),
            (
                lambda shapes, r: sum(r * inputs for _, inputs in shapes),
                "Only one of the two matrices is counted.",
            ),
            (
                lambda shapes, r: sum(2 * r * inputs for _, inputs in shapes),
                "Not all layers are square: one of A and B has as many rows or columns as outputs.",
            ),
            (
                lambda shapes, r: lora_parameters(shapes, 1),
                "The rank is missing: it is the inner size of both matrices.",
            ),
        ),
        lambda found, shapes, r: (
            f"For the shapes {shapes} and rank {r} your function returns {found:g}; "
            f"{lora_parameters(shapes, r)} is right."
        ),
        "An adapter grows with the sum of a layer's two sizes, its weight with their product: the larger the "
        "layer, the smaller the share that trains.",
    ),
    function_exercise(
        "03.3",
        "bug",
        merged,
        # No constant is the scale of both.
        [_layer(5, 7, 3, 6.0, seed=3), _layer(6, 4, 2, 5.0, seed=4)],
        (
            (
                lambda weight, A, B, alpha: weight + alpha / A.shape[1] * B @ A,
                "The scale is still alpha over the number of inputs. What does alpha stand over?",
            ),
            (
                lambda weight, A, B, alpha: weight + alpha / B.shape[0] * B @ A,
                "Now alpha stands over the number of outputs. Which size do A and B share?",
            ),
            (
                lambda weight, A, B, alpha: weight + B @ A,
                "alpha does not occur any more: the layer that was trained had a scale.",
            ),
            (
                lambda weight, A, B, alpha: weight + alpha * B @ A,
                "alpha is there, but nothing divides it.",
            ),
            (
                lambda weight, A, B, alpha: weight + alpha / A.shape[0] ** 0.5 * B @ A,
                "The root of the rank is the scale of rsLoRA; this adapter was trained without it.",
            ),
        ),
        lambda found, weight, A, B, alpha: (
            f"For a weight of {weight.shape[0]} outputs and {weight.shape[1]} inputs, a rank of {len(A)} and "
            f"alpha {alpha:g} your function does not return what the layer with its adapter computes; "
            "compare the two outputs for one input."
        ),
        "Nothing fails with the wrong scale: the merged model is the base with a weaker or stronger dose of "
        "the update. So compare logits after every merge.",
        read=_matrix,
        same=_same,
    ),
    change_exercise(
        "03.4",
        ("lora.r", "lora.lora_alpha", "lora.target_modules", "lora.lora_dropout", "args.learning_rate"),
        "lora.r=4",
        (
            ({"changed": "lora.lora_dropout=0"}, "the recipe's own value"),
            ({"changed": "lora.r=64"}, "A table above has"),
            ({"changed": "lora.use_dora=True"}, "lora.use_dora"),
            ({"result": _LOSSES}, "about right answers"),
            ({"result": _FROM_THE_BASE, "verdict": "improved"}, "begins at 10%"),
        ),
        also=check_change,
    ),
)
