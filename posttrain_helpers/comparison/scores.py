"""How a comparison scores replies: the measures, one value per model, measure and item, and their rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from posttrain_helpers import metrics
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import Generation
from posttrain_helpers.statistics.ranking import score_interval
from posttrain_helpers.wording import closest

Item = dict[str, Any]
Value = float | bool | None
Score = Callable[[str, Item], Value]
_COLUMNS = ("stop", "n", "tokens")
MATCHES: dict[str, Score] = {"strict": metrics.strict_match, "lenient": metrics.lenient_match}


def measures_of(score: str | Score) -> tuple[str, dict[str, Score]]:
    """Return the name of the measure that a verdict is about, and all measures to compute.

    Args:
        score: "strict", "lenient" or a function of reply and item.

    Returns:
        The name, and the functions by name; strict and lenient matches are always among them.

    Raises:
        CourseError: an unknown name.
    """
    if callable(score):
        name = getattr(score, "__name__", "score")
        # A lambda has no name to show, and an own "strict" must not pass for the built-in one, nor "tokens"
        # for a column of the tables.
        name = name if name.isidentifier() and name not in (*MATCHES, *_COLUMNS) else "score"
        return name, {**MATCHES, name: score}
    check_choice("score", score, tuple(MATCHES))
    return score, dict(MATCHES)


def apply_measures(
    measures: dict[str, Score], generations: dict[str, list[Generation]], items: list[Item]
) -> dict[str, dict[str, list[Value]]]:
    """Score the replies of every model.

    Args:
        measures: functions by name, from `measures_of`.
        generations: for each model one generation per item.
        items: the held-out items.

    Returns:
        For each model and measure one value per item. "stop" tells whether the reply ended by itself.

    Raises:
        CourseError: a function returns anything but a finite number, a bool or None, or returns None for the
            replies of some models only.
    """
    scores = {
        label: {
            **{
                name: [
                    _value(name, function(reply.text, item), item)
                    for reply, item in zip(replies, items, strict=True)
                ]
                for name, function in measures.items()
            },
            "stop": [reply.stop_reason == "stop" for reply in replies],
        }
        for label, replies in generations.items()
    }
    for name in measures:
        for item, *values in zip(items, *(scores[label][name] for label in scores), strict=True):
            if len({value is None for value in values}) > 1:
                raise CourseError(
                    f"The score {name!r} of item {item['id']!r} is None for some models and a number for "
                    "others, so they cannot be paired; let None depend on the item only."
                )
    return scores


def rate(
    values: Sequence[Value], clusters: Sequence[Hashable] | None = None
) -> dict[str, float | int | None]:
    """Return the number of scored items, their mean and, for yes/no scores, Wilson's 95 % interval.

    Args:
        values: one value per item; None is left out.
        clusters: the cluster of every item; None when items are independent. See `cluster_codes`.

    Returns:
        n, mean, low and high; None where there is nothing to compute.
    """
    kept = [index for index, value in enumerate(values) if value is not None]
    scored = [float(values[index]) for index in kept]
    if not scored:
        return {"n": 0, "mean": None, "low": None, "high": None}
    yes_no = set(scored) <= {0.0, 1.0}
    of_scored = None if clusters is None else [clusters[index] for index in kept]
    low, high = score_interval(np.array(scored), True, of_scored) if yes_no else (None, None)
    return {"n": len(scored), "mean": sum(scored) / len(scored), "low": low, "high": high}


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a CourseError that lists the choices unless `value` is one of them."""
    if value not in choices:
        raise CourseError(
            f"{name}={value!r} is unknown here; {closest(value, choices)}"
            f"use one of {', '.join(map(repr, choices))}."
        )


def _value(name: str, value: Any, item: Item) -> Value:
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    raise CourseError(
        f"The score {name!r} must return a finite number, a bool or None, but it returned {value!r} for item "
        f"{item['id']!r}."
    )
