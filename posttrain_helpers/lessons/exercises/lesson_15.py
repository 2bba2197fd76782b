"""Exercises of lesson 15: what fits, means of unequal parts, one changed setting, a training that goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    check_begins_trained,
    function_exercise,
    parts_exercise,
)
from posttrain_helpers.recipes.loading import load_recipe
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

# --- 15.2: what each rank's loss counts, where gradients are averaged over ranks

TOKENS = ([10, 30], [7, 1, 12], [4, 0, 16], [5])


def loss_factors(tokens: list[int]) -> list[float]:
    """Return the factors that make a mean over ranks a mean over tokens."""
    return [len(tokens) * count / sum(tokens) for count in tokens]


# --- 15.3: one changed setting


def check_change(answer: dict[str, Any], result: PairedResult) -> None:
    """Take a comparison after a change that the recipe takes, and that changes something."""
    check_begins_trained(result, '`right["two"]`')
    try:
        changed = load_recipe("sft", overrides=[answer["changed"]])
    except CourseError as error:
        raise NotYet(f"The recipe does not take that: {error}") from error
    if changed.args == load_recipe("sft").args:
        raise NotYet(f"{answer['changed']} is what the recipe has already: give it another value.")


_FROM_THE_BASE = paired_binary([True] * 10 + [False] * 90, [True] * 90 + [False] * 10)


# --- 15.4: a training that goes on

ROWS = [1.0, -2.0, 4.0, 0.5, -3.0]
State = tuple[float, float, int]
START: State = (0.0, 0.0, 0)


def go_on(rows: list[float], steps: int, state: State = START) -> State:
    """Go on with the row that comes next."""
    return _trained(rows, steps, state, state[2])


def _first_row(place: Callable[[int], int]) -> Callable[..., State]:
    """Go on with another row than the next one, made of the number of steps that were done."""
    return lambda rows, steps, state=START: _trained(rows, steps, state, place(state[2]))


def _without_momentum(rows: list[float], steps: int, state: State = START) -> State:
    return go_on(rows, steps, (state[0], 0.0, state[2]))


def _trained(rows: list[float], steps: int, state: State, first: int) -> State:
    weight, momentum, done = state
    for step in range(first, first + steps):
        momentum = 0.9 * momentum + weight - rows[step % len(rows)]
        weight = weight - 0.1 * momentum
    return weight, momentum, done + steps


EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "15.1",
        {"12B": "ZeRO-1", "20B": "ZeRO-2", "30B": "ZeRO-3", "45B": "none"},
        ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "none"),
        {
            "12B": "12 billion: 16 bytes a parameter is more than a card has. What is left of it if each GPU "
            "keeps an eighth of the optimizer's 12?",
            "20B": "20 billion: with the optimizer alone shared out, 4 whole bytes a parameter are left. "
            "Which 2 of them may be shared out as well, and what is left then?",
            "30B": "30 billion: count the bytes that are not shared out in each stage, 4 a parameter, then "
            "2, then none, before you add an eighth of the others.",
            "45B": "45 billion: 16 bytes a parameter, shared out over eight GPUs to the last one, are how "
            "many GB?",
        },
        "4 + 12/8 bytes a parameter for ZeRO-1, 2 + 14/8 for ZeRO-2, 16/8 for ZeRO-3, and activations.",
    ),
    function_exercise(
        "15.2",
        "function",
        loss_factors,
        [(tokens,) for tokens in TOKENS],
        (
            (
                lambda tokens: [1.0 for _ in tokens],
                "Here every rank weighs the same. Which of them has more tokens?",
            ),
            (
                lambda tokens: [count / sum(tokens) for count in tokens],
                "As shares these would be right if DDP added the gradients up. What does it do?",
            ),
            (
                lambda tokens: [sum(tokens) / (len(tokens) * max(count, 1)) for count in tokens],
                "Which rank should weigh more, the one with many tokens or the one with few?",
            ),
            (
                lambda tokens: list(tokens),
                "The gradient would be that of a sum over tokens, many times too long.",
            ),
        ),
        lambda found, tokens: (
            f"For {tokens} tokens your function returns {found}. Multiply the mean losses by them, average "
            "over the ranks, and compare with the mean over all tokens."
        ),
        "The same holds for micro-batches that are accumulated in one process: their sum is divided, too.",
    ),
    change_exercise(
        "15.3",
        (
            "args.learning_rate",
            "args.per_device_train_batch_size",
            "args.gradient_accumulation_steps",
        ),
        "args.learning_rate=6e-4",
        (
            ({"result": _FROM_THE_BASE, "verdict": "improved"}, "begins at 10%"),
            ({"changed": "args.per_device_train_batch_size=8"}, "has already"),
            ({"changed": "args.gradient_accumulation_steps=two"}, "does not take that"),
        ),
        also=check_change,
    ),
    function_exercise(
        "15.4",
        "bug",
        go_on,
        [(ROWS, 7), *((ROWS, more, go_on(ROWS, first)) for first, more in ((3, 4), (5, 6), (1, 1)))],
        (
            (
                _first_row(lambda done: 0),
                "Which row does the first step after a checkpoint read, and which should it?",
            ),
            (
                _first_row(lambda done: done + 1),
                "One row is left out where the training goes on, or at its beginning.",
            ),
            (
                _without_momentum,
                "The weight goes on and the momentum begins anew: it belongs to the checkpoint.",
            ),
            (
                lambda rows, steps, state=START: (*go_on(rows, steps, state)[:2], steps),
                "A third part would begin at the wrong row: how many steps were made in all?",
            ),
            (
                lambda rows, steps, state=START: go_on(rows, max(0, steps - state[2]), state),
                "`steps` says how many more, in the training that goes on as well.",
            ),
        ),
        lambda found, rows, more, state=START: (
            f"After {state[2]} steps and {more} more your function returns {found}; what an uninterrupted "
            "training has is weight, momentum and steps of all together."
        ),
        "A checkpoint holds the place in the data, too. A training that reads the first rows twice and the "
        "last ones never shows no error.",
    ),
)
