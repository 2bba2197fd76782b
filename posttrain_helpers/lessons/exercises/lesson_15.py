"""Exercises of lesson 15: what fits, means of unequal parts, one changed setting, a training that goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    all_close,
    call,
    change_exercise,
    choice,
    compared,
    is_close,
    name_mistake,
    number,
    numbers,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

# --- 15.1: the first way that fits eight GPUs of 80 GB

WAYS = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "none")
_FIRST = {"8B": "ZeRO-1", "32B": "ZeRO-3", "70B": "none"}
_HINTS = {
    "8B": "8 billion: 16 bytes a parameter is more than a card has. What is left of it if each GPU keeps an "
    "eighth of the optimizer's 12?",
    "32B": "32 billion: count the bytes that are not shared out in each stage, 4 a parameter, then 2, then "
    "none, before you add an eighth of the others.",
    "70B": "70 billion: 16 bytes a parameter, shared out over eight GPUs to the last one, are how many GB?",
}


def grade_first(answer: Any) -> None:
    """Take a way for each size."""
    if not isinstance(answer, dict) or set(answer) != set(_FIRST):
        raise NotYet('Give a dictionary with the keys "8B", "32B" and "70B".')
    said = {size: choice(way, WAYS) for size, way in answer.items()}
    for size, way in _FIRST.items():
        if said[size] != way:
            raise NotYet(_HINTS[size])


# --- 15.2: the mean of the whole batch from the means of its parts

_NAN = math.nan
PARTS = (
    ([2.0, 1.0], [10, 30]),
    ([0.5, 3.0, 1.0], [7, 1, 12]),
    ([1.5, _NAN, 2.5], [4, 0, 16]),
    ([2.0], [5]),
)


def whole_mean(means: list[float], tokens: list[int]) -> float:
    """Return the mean of the whole batch: each part weighs as many tokens as it has."""
    pairs = [(mean, count) for mean, count in zip(means, tokens, strict=True) if count]
    return sum(mean * count for mean, count in pairs) / sum(count for _, count in pairs)


def mean_of_means(means: list[float], tokens: list[int]) -> float:
    """Give every rank the same weight."""
    found = [mean for mean, count in zip(means, tokens, strict=True) if count]
    return sum(found) / len(found)


def sum_over_tokens(means: list[float], tokens: list[int]) -> float:
    """Divide the sum of the means by all tokens."""
    return sum(mean for mean, count in zip(means, tokens, strict=True) if count) / sum(tokens)


def not_divided(means: list[float], tokens: list[int]) -> float:
    """Forget to divide."""
    return whole_mean(means, tokens) * sum(tokens)


def nan_is_nan(means: list[float], tokens: list[int]) -> float:
    """Return nan where a rank has no token."""
    return sum(mean * count for mean, count in zip(means, tokens, strict=True)) / sum(tokens)


def grade_whole_mean(answer: Any) -> None:
    """Call a function of means and numbers of tokens."""
    hints = (
        (mean_of_means, "Here every rank weighs the same. Which of them has more tokens?"),
        (sum_over_tokens, "The means are added up without their tokens, and then divided by tokens."),
        (not_divided, "That is the sum over all tokens; divide it by their number."),
    )
    for means, tokens in PARTS:
        found = call(answer, means, tokens)
        if 0 in tokens and isinstance(found, float) and math.isnan(found):
            raise NotYet("A rank without a token has no mean, and 0 times nan is nan: leave such ranks out.")
        value, expected = number(found), whole_mean(means, tokens)
        if is_close(value, expected, 1e-6):
            continue
        name_mistake(hints, value, means, tokens)
        raise NotYet(
            f"For the means {means} of {tokens} tokens your function returns {value:.4f}; {expected:.4f} is "
            "right."
        )


# --- 15.3: one changed setting

SETTINGS = (
    "args.learning_rate",
    "args.per_device_train_batch_size",
    "args.gradient_accumulation_steps",
)
_SAME = paired_binary([True] * 70 + [False] * 30, [True] * 68 + [False] * 30 + [True] * 2)


def grade_change(answer: Any) -> None:
    """Take a comparison after a change that changes something."""
    from posttrain_helpers.recipes.loading import load_recipe

    compared(answer, SETTINGS)
    try:
        changed = load_recipe("sft", overrides=[answer["changed"]])
    except CourseError as error:
        raise NotYet(f"The recipe does not take that: {error}") from error
    if changed.args == load_recipe("sft").args:
        raise NotYet(f"{answer['changed']} is what the recipe has already: give it another value.")


_CHANGE = change_exercise(
    "15.3",
    SETTINGS,
    "args.learning_rate=6e-4",
    _SAME,
    "One change, the same questions, an interval, and a verdict that follows from it.",
)
_UNCHANGED = {**_CHANGE.solution, "changed": "args.per_device_train_batch_size=8"}
_REFUSED = {**_CHANGE.solution, "changed": "args.gradient_accumulation_steps=two"}


# --- 15.4: a training that goes on

ROWS = [1.0, -2.0, 4.0, 0.5, -3.0]
State = tuple[float, float, int]
START: State = (0.0, 0.0, 0)


def go_on(rows: list[float], steps: int, state: State = START) -> State:
    """Go on with the row that comes next."""
    return _trained(rows, steps, state, state[2])


def from_the_first_row(rows: list[float], steps: int, state: State = START) -> State:
    """Begin with the first row again: the mistake that the notebook shows."""
    return _trained(rows, steps, state, 0)


def one_row_too_far(rows: list[float], steps: int, state: State = START) -> State:
    """Leave a row out."""
    return _trained(rows, steps, state, state[2] + 1)


def without_momentum(rows: list[float], steps: int, state: State = START) -> State:
    """Begin with no momentum again."""
    return _trained(rows, steps, (state[0], 0.0, state[2]), state[2])


def steps_forgotten(rows: list[float], steps: int, state: State = START) -> State:
    """Return the steps of this call alone."""
    weight, momentum, _ = go_on(rows, steps, state)
    return weight, momentum, steps


def up_to_steps(rows: list[float], steps: int, state: State = START) -> State:
    """Take the number of steps for the last one."""
    return go_on(rows, max(0, steps - state[2]), state)


def _trained(rows: list[float], steps: int, state: State, first: int) -> State:
    weight, momentum, done = state
    for step in range(first, first + steps):
        momentum = 0.9 * momentum + weight - rows[step % len(rows)]
        weight = weight - 0.1 * momentum
    return weight, momentum, done + steps


def grade_go_on(answer: Any) -> None:
    """Call a function of rows, steps and a state, in one go and in two."""
    hints = (
        (from_the_first_row, "Which row does the first step after a checkpoint read, and which should it?"),
        (one_row_too_far, "One row is left out where the training goes on, or at its beginning."),
        (without_momentum, "The weight goes on and the momentum begins anew: it belongs to the checkpoint."),
        (steps_forgotten, "A third part would begin at the wrong row: how many steps were made in all?"),
        (up_to_steps, "`steps` says how many more, in the training that goes on as well."),
    )
    for first, more in ((7, 0), (3, 4), (5, 6), (1, 1)):
        state = go_on(ROWS, first)
        arguments = (ROWS, more, state) if more else (ROWS, first)
        expected = go_on(*arguments)
        found = numbers(call(answer, *arguments), 3)
        if all_close(found, expected, 1e-6):
            continue
        name_mistake(hints, found, *arguments, same=lambda a, b: all_close(a, b, 1e-6))
        raise NotYet(
            f"After {first} steps and {more} more your function returns {found}; what an uninterrupted "
            "training has is weight, momentum and steps of all together."
        )


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "15.1",
        "predict",
        grade_first,
        _FIRST,
        (
            ({**_FIRST, "8B": "DDP"}, "is more than a card has"),
            ({**_FIRST, "32B": "ZeRO-2"}, "not shared out in each stage"),
            ({**_FIRST, "70B": "ZeRO-3"}, "to the last one"),
            ({"8B": "ZeRO-1"}, "the keys"),
        ),
        "4 + 12/8 bytes a parameter for ZeRO-1, 2 + 14/8 for ZeRO-2, 16/8 for ZeRO-3, and activations.",
    ),
    Exercise(
        "15.2",
        "function",
        grade_whole_mean,
        whole_mean,
        (
            (mean_of_means, "every rank weighs the same"),
            (sum_over_tokens, "without their tokens"),
            (not_divided, "divide it by their number"),
            (nan_is_nan, "0 times nan is nan"),
        ),
        "The same holds for gradients, and for micro-batches that are accumulated in one process.",
    ),
    replace(
        _CHANGE,
        grade=grade_change,
        mistakes=(*_CHANGE.mistakes, (_UNCHANGED, "has already"), (_REFUSED, "does not take that")),
    ),
    Exercise(
        "15.4",
        "bug",
        grade_go_on,
        go_on,
        (
            (from_the_first_row, "Which row does the first step"),
            (one_row_too_far, "One row is left out"),
            (without_momentum, "belongs to the checkpoint"),
            (steps_forgotten, "how many steps were made in all"),
            (up_to_steps, "how many more"),
        ),
        "A checkpoint holds the place in the data, too. A training that reads the first rows twice and the "
        "last ones never shows no error.",
    ),
)
