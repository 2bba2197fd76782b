"""Exercises of lesson 15: what fits, means of unequal parts, one changed setting, a training that goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    all_close,
    call,
    change_exercise,
    check_begins_trained,
    choices_by_key,
    compared,
    name_mistake,
    numbers,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

# --- 15.1: the first way that fits eight GPUs of 80 GB

WAYS = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "none")
_FIRST = {"12B": "ZeRO-1", "20B": "ZeRO-2", "30B": "ZeRO-3", "45B": "none"}
_HINTS = {
    "12B": "12 billion: 16 bytes a parameter is more than a card has. What is left of it if each GPU keeps "
    "an eighth of the optimizer's 12?",
    "20B": "20 billion: with the optimizer alone shared out, 4 whole bytes a parameter are left. Which 2 of "
    "them may be shared out as well, and what is left then?",
    "30B": "30 billion: count the bytes that are not shared out in each stage, 4 a parameter, then 2, then "
    "none, before you add an eighth of the others.",
    "45B": "45 billion: 16 bytes a parameter, shared out over eight GPUs to the last one, are how many GB?",
}


def grade_first(answer: Any) -> None:
    """Take a way for each size."""
    said = choices_by_key(answer, _FIRST, WAYS)
    for size, way in _FIRST.items():
        if said[size] != way:
            raise NotYet(_HINTS[size])


# --- 15.2: what each rank's loss counts, where gradients are averaged over ranks

TOKENS = ([10, 30], [7, 1, 12], [4, 0, 16], [5])


def loss_factors(tokens: list[int]) -> list[float]:
    """Return the factors that make a mean over ranks a mean over tokens."""
    return [len(tokens) * count / sum(tokens) for count in tokens]


def all_alike(tokens: list[int]) -> list[float]:
    """Give every rank the same weight: the mistake that the notebook measures."""
    return [1.0 for _ in tokens]


def shares_of_tokens(tokens: list[int]) -> list[float]:
    """Forget that the sum over ranks is divided by their number."""
    return [count / sum(tokens) for count in tokens]


def over_the_mean(tokens: list[int]) -> list[float]:
    """Turn the factors round."""
    return [sum(tokens) / (len(tokens) * max(count, 1)) for count in tokens]


def numbers_of_tokens(tokens: list[int]) -> list[float]:
    """Return what makes a sum over tokens of the mean."""
    return [float(count) for count in tokens]


def grade_loss_factors(answer: Any) -> None:
    """Call a function of the numbers of tokens."""
    hints = (
        (all_alike, "Here every rank weighs the same. Which of them has more tokens?"),
        (shares_of_tokens, "As shares these would be right if DDP added the gradients up. What does it do?"),
        (over_the_mean, "Which rank should weigh more, the one with many tokens or the one with few?"),
        (numbers_of_tokens, "The gradient would be that of a sum over tokens, many times too long."),
    )
    for tokens in TOKENS:
        found, expected = numbers(call(answer, list(tokens)), len(tokens)), loss_factors(tokens)
        if all_close(found, expected, 1e-6):
            continue
        name_mistake(hints, found, tokens, same=lambda a, b: all_close(a, b, 1e-6))
        raise NotYet(
            f"For {tokens} tokens your function returns {found}. Multiply the mean losses by them, average "
            "over the ranks, and compare with the mean over all tokens."
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

    result = compared(answer, SETTINGS)
    check_begins_trained(result, '`right["two"]`')
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
_FROM_THE_BASE = {
    **_CHANGE.solution,
    "result": paired_binary([True] * 10 + [False] * 90, [True] * 90 + [False] * 10),
    "verdict": "improved",
}
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
            ({**_FIRST, "12B": "DDP"}, "is more than a card has"),
            ({**_FIRST, "20B": "ZeRO-1"}, "shared out as well"),
            ({**_FIRST, "30B": "ZeRO-2"}, "not shared out in each stage"),
            ({**_FIRST, "45B": "ZeRO-3"}, "to the last one"),
            ({"12B": "ZeRO-1"}, "the keys"),
        ),
        "4 + 12/8 bytes a parameter for ZeRO-1, 2 + 14/8 for ZeRO-2, 16/8 for ZeRO-3, and activations.",
    ),
    Exercise(
        "15.2",
        "function",
        grade_loss_factors,
        loss_factors,
        (
            (all_alike, "every rank weighs the same"),
            (shares_of_tokens, "added the gradients up"),
            (over_the_mean, "the one with many tokens"),
            (numbers_of_tokens, "a sum over tokens"),
        ),
        "The same holds for micro-batches that are accumulated in one process: their sum is divided, too.",
    ),
    replace(
        _CHANGE,
        grade=grade_change,
        mistakes=(
            *_CHANGE.mistakes,
            (_FROM_THE_BASE, "begins at 10%"),
            (_UNCHANGED, "has already"),
            (_REFUSED, "does not take that"),
        ),
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
