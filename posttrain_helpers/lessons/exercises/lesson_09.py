"""The exercises of lesson 09: proxy and gold under pressure, the curve of Gao et al., a stopping rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    all_close,
    call,
    change_exercise,
    name_mistake,
    number,
    numbers,
    selection,
)
from posttrain_helpers.statistics.overoptimization import fit_overoptimization
from posttrain_helpers.statistics.paired_tests import paired_numeric

_MOVES = ("rises", "falls", "rises, then falls")
_SETTINGS = (
    "args.kl_coef",
    "args.learning_rate",
    "args.num_ppo_epochs",
    "args.cliprange",
    "args.missing_eos_penalty",
)


def _grade_moves(answer: Any) -> None:
    words = selection(answer, _MOVES)
    if len(words) != len(_MOVES):
        raise NotYet(
            "Give three answers: for the KL divergence, the proxy and the gold score, in this order."
        )
    divergence, proxy, gold = words
    if divergence != "rises":
        raise NotYet("Beta is the price of the distance. What does the policy do with it when it gets cheap?")
    if proxy != "rises":
        raise NotYet("The policy maximises the proxy, less a price. What does it reach when the price falls?")
    if gold == "rises":
        raise NotYet("Which reply has the highest proxy of all, and what is that reply worth in truth?")
    if gold == "falls":
        raise NotYet(
            "At first the probability moves among replies that are not rare. Which of those does the proxy "
            "like best, and what is it worth?"
        )


def fit(kl: Sequence[float], gain: Sequence[float]) -> tuple[float, float, float]:
    """Return alpha, beta and the KL divergence at which the curve is highest."""
    curve = fit_overoptimization(kl, gain)
    return curve.alpha, curve.beta, curve.peak


def _fit_of(distance: Callable[[np.ndarray], np.ndarray], gain: Any, weight: float = 0.0) -> np.ndarray:
    """Fit d (alpha - beta ln d) for some distance; a weight of 1 divides both sides by it."""
    terms = np.stack([distance, -distance * np.log(distance)], axis=1)
    scale = distance**-weight
    return np.linalg.lstsq(terms * scale[:, None], np.asarray(gain) * scale, rcond=None)[0]


def _without_root(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta = _fit_of(np.asarray(kl), gain)
    return alpha, beta, np.exp(alpha / beta - 1)


def _peak_as_distance(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta, peak = fit(kl, gain)
    return alpha, beta, peak**0.5


def _wrong_sign(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta, _ = fit(kl, gain)
    return alpha, -beta, np.exp(2 * (alpha / -beta - 1))


def _exchanged(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta, peak = fit(kl, gain)
    return beta, alpha, peak


def _divided(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta = _fit_of(np.sqrt(kl), gain, weight=1.0)
    return alpha, beta, np.exp(2 * (alpha / beta - 1))


def _zero_of_the_curve(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta, _ = fit(kl, gain)
    return alpha, beta, np.exp(2 * alpha / beta)


_FIT_HINTS = (
    (_without_root, "You fitted the curve over KL itself; d is its square root."),
    (_wrong_sign, "The sign of beta: in the formula the logarithm is subtracted."),
    (_exchanged, "Alpha and beta have changed places."),
    (
        _divided,
        "You divided both sides by d before the fit. That weighs the points differently: the misses in the "
        "gain itself are to be small.",
    ),
)
_PEAK_HINTS = (
    (
        _peak_as_distance,
        "Your third number is the distance d of the peak; the KL divergence there is asked for.",
    ),
    (
        _zero_of_the_curve,
        "Your third number is where the curve comes back to 0. Its highest point is where the derivative is "
        "0; use the product rule.",
    ),
)
# Not on a curve, so that ways of fitting differ.
_POINTS = (
    (np.array([0.5, 2.0, 6.0, 12.0, 30.0]), np.array([0.7, 1.3, 0.8, 0.9, -1.6])),
    (np.array([1.0, 3.0, 8.0, 20.0]), np.array([0.4, 1.1, 0.9, -0.6])),
)


def _grade_fit(answer: Any) -> None:
    for kl, gain in _POINTS:
        found = numbers(call(answer, kl, gain), 3)
        if all_close(found, fit(kl, gain)):
            continue
        name_mistake(_FIT_HINTS, found, kl, gain, same=_same_curve)
        if _same_curve(found, fit(kl, gain)):
            name_mistake(_PEAK_HINTS, found, kl, gain, same=all_close)
            raise NotYet("Alpha and beta are right. Set the derivative of d (alpha - beta ln d) to 0.")
        raise NotYet(
            f"For {len(kl)} points your function gives {found[0]:.3f}, {found[1]:.3f} and {found[2]:.3f}, "
            "which is not right. The two columns for lstsq are what alpha and beta are multiplied by."
        )


def _same_curve(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Compare alpha and beta alone, whatever peak was made of them."""
    return all_close(found[:2], expected[:2])


def stop_at(kls: Sequence[float], budget: float) -> int:
    """Return the place of the last checkpoint before the first one beyond the budget."""
    beyond = [place for place, kl in enumerate(kls) if kl > budget]
    return beyond[0] - 1 if beyond else len(kls) - 1


def _as_shown(kls: Sequence[float], budget: float) -> int:
    return [place for place, kl in enumerate(kls) if kl <= budget][-1]


def _first_beyond(kls: Sequence[float], budget: float) -> int:
    return next((place for place, kl in enumerate(kls) if kl > budget), len(kls) - 1)


def _never_within_all(kls: Sequence[float], budget: float) -> int:
    return next((place for place, kl in enumerate(kls) if kl > budget), 0) - 1


def _farthest_within(kls: Sequence[float], budget: float) -> int:
    return max((kl, place) for place, kl in enumerate(kls) if kl <= budget)[1]


_RUNS = (
    ((0.0, 0.8, 2.2, 6.9, 11.7), 5.0),
    ((0.0, 1.0, 3.0, 2.5, 9.0, 4.0, 2.0), 5.0),
    ((0.0, 0.5, 1.5, 1.2), 5.0),
    ((0.0, 6.0, 4.0), 5.0),
)
_STOP_HINTS = (
    (
        _as_shown,
        "Still the same places as before. A KL divergence may come back below the budget; would the training "
        "have been there to see it?",
    ),
    (
        _first_beyond,
        "That is the look that noticed the budget was exceeded; the checkpoint to keep is one that was "
        "within it.",
    ),
    (_never_within_all, "What does your function return for a run that never leaves its budget?"),
    (_farthest_within, "The latest checkpoint is asked for, not the one that is farthest away."),
)


def _grade_stop(answer: Any) -> None:
    def places(rule: Callable[[Sequence[float], float], float]) -> list[float]:
        return [rule(kls, budget) for kls, budget in _RUNS]

    found = places(lambda kls, budget: number(call(answer, list(kls), budget)))
    if found == places(stop_at):
        return
    for wrong, hint in _STOP_HINTS:
        if found == places(wrong):
            raise NotYet(hint)
    for (kls, budget), place in zip(_RUNS, found, strict=True):
        if place != stop_at(kls, budget):
            raise NotYet(
                f"For {list(kls)} and a budget of {budget:g} your function returns {place:g}. Walk through "
                "the looks as the training would, one by one."
            )


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="09.1",
        kind="predict",
        grade=_grade_moves,
        solution=["rises", "rises", "rises, then falls"],
        mistakes=(
            (["falls", "rises", "rises, then falls"], "price of the distance"),
            (["rises", "rises, then falls", "rises, then falls"], "maximises the proxy"),
            (["rises", "rises", "rises"], "highest proxy of all"),
            (["rises", "rises", "falls"], "replies that are not rare"),
            (["rises", "rises"], "Give three answers"),
        ),
        why="What is frequent was rated and is judged well; what is rare is reached only by a policy that "
        "may go far.",
    ),
    Exercise(
        id="09.2",
        kind="function",
        grade=_grade_fit,
        solution=fit,
        mistakes=(
            (_without_root, "its square root"),
            (_peak_as_distance, "the distance d of the peak"),
            (_wrong_sign, "The sign of beta"),
            (_exchanged, "changed places"),
            (_divided, "weighs the points differently"),
            (_zero_of_the_curve, "comes back to 0"),
            (lambda kl, gain: (*fit(kl, gain)[:2], 1.0), "Alpha and beta are right"),
            (lambda kl, gain: (1.0, 1.0, 1.0), "two columns for lstsq"),
        ),
        why="Linear in alpha and beta, so no search is needed; the peak lies at ln d = alpha / beta - 1.",
    ),
    Exercise(
        id="09.3",
        kind="bug",
        grade=_grade_stop,
        solution=stop_at,
        mistakes=(
            (_as_shown, "come back below the budget"),
            (_first_beyond, "noticed the budget was exceeded"),
            (_never_within_all, "never leaves its budget"),
            (_farthest_within, "The latest checkpoint"),
            (lambda kls, budget: 0, "one by one"),
        ),
        why="A rule for stopping may use what was seen until then, and nothing that came later.",
    ),
    change_exercise(
        "09.4",
        allowed=_SETTINGS,
        changed="args.kl_coef=0.1",
        result=paired_numeric([0.0, 0.1] * 30, [0.5, 0.7] * 30),
        why="One change, the same questions, an interval. Another seed could still say something else.",
    ),
)
