"""The exercises of lesson 09: proxy and gold under pressure, the curve of Gao et al., a stopping rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    is_close,
    numbers,
    parts_exercise,
    selection,
)
from posttrain_helpers.statistics.overoptimization import fit_overoptimization

_MOVES = ("rises", "falls", "rises, then falls")


def _three_moves(answer: Any) -> list[str]:
    words = selection(answer, _MOVES)
    if len(words) != len(_MOVES):
        raise NotYet(
            "Give three answers: for the KL divergence, the proxy and the gold score, in this order."
        )
    return words


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


def _wrong_sign(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta, _ = fit(kl, gain)
    return alpha, -beta, np.exp(2 * (alpha / -beta - 1))


def _divided(kl: Any, gain: Any) -> tuple[float, float, float]:
    alpha, beta = _fit_of(np.sqrt(kl), gain, weight=1.0)
    return alpha, beta, np.exp(2 * (alpha / beta - 1))


_FIT_HINTS = (
    (_without_root, "You fitted the curve over KL itself; d is its square root."),
    (_wrong_sign, "The sign of beta: in the formula the logarithm is subtracted."),
    (lambda kl, gain: (fit(kl, gain)[1], fit(kl, gain)[0], 0.0), "Alpha and beta have changed places."),
    (
        _divided,
        "You divided both sides by d before the fit. That weighs the points differently: the misses in the "
        "gain itself are to be small.",
    ),
)
_PEAK_HINTS = (
    (
        lambda kl, gain: (*fit(kl, gain)[:2], fit(kl, gain)[2] ** 0.5),
        "Your third number is the distance d of the peak; the KL divergence there is asked for.",
    ),
    (
        lambda kl, gain: (*fit(kl, gain)[:2], np.exp(2) * fit(kl, gain)[2]),
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
        found, right = numbers(call(answer, kl, gain), 3), fit(kl, gain)
        if is_close(found, right):
            continue
        # Compare alpha and beta first, whatever peak was made of them.
        for wrong, hint in _FIT_HINTS:
            if is_close(found[:2], wrong(kl, gain)[:2]):
                raise NotYet(hint)
        if is_close(found[:2], right[:2]):
            for wrong, hint in _PEAK_HINTS:
                if is_close(found, wrong(kl, gain)):
                    raise NotYet(hint)
            raise NotYet("Alpha and beta are right. Set the derivative of d (alpha - beta ln d) to 0.")
        raise NotYet(
            f"For {len(kl)} points your function gives {found[0]:.3f}, {found[1]:.3f} and {found[2]:.3f}, "
            "which is not right. The two columns for lstsq are what alpha and beta are multiplied by."
        )


def stop_at(kls: Sequence[float], budget: float) -> int:
    """Return the place of the last checkpoint before the first one beyond the budget."""
    beyond = [place for place, kl in enumerate(kls) if kl > budget]
    return beyond[0] - 1 if beyond else len(kls) - 1


_RUNS = (
    [0.0, 0.8, 2.2, 6.9, 11.7],
    [0.0, 1.0, 3.0, 2.5, 9.0, 4.0, 2.0],
    [0.0, 0.5, 1.5, 1.2],
    [0.0, 6.0, 4.0],
)

EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "09.1",
        ["rises", "rises", "rises, then falls"],
        _MOVES,
        {
            0: "Beta is the price of the distance. What does the policy do with it when it gets cheap?",
            1: "The policy maximises the proxy, less a price. What does it reach when the price falls?",
            2: {
                "rises": "Which reply has the highest proxy of all, and what is that reply worth in truth?",
                "falls": "At first the probability moves among replies that are not rare. Which of those "
                "does the proxy like best, and what is it worth?",
            },
        },
        "What is frequent was rated and is judged well; what is rare is reached only by a policy that "
        "may go far.",
        read=_three_moves,
    ),
    Exercise(
        "09.2",
        "function",
        _grade_fit,
        fit,
        _FIT_HINTS + _PEAK_HINTS,
        "Linear in alpha and beta, so no search is needed; the peak lies at ln d = alpha / beta - 1.",
    ),
    function_exercise(
        "09.3",
        "bug",
        stop_at,
        [(run, 5.0) for run in _RUNS],
        (
            (
                lambda kls, budget: [place for place, kl in enumerate(kls) if kl <= budget][-1],
                "Still the same places as before. A KL divergence may come back below the budget; would the "
                "training have been there to see it?",
            ),
            (
                lambda kls, budget: next((i for i, kl in enumerate(kls) if kl > budget), len(kls) - 1),
                "That is the look that noticed the budget was exceeded; the checkpoint to keep is one that "
                "was within it.",
            ),
            (
                lambda kls, budget: next((i for i, kl in enumerate(kls) if kl > budget), 0) - 1,
                "What does your function return for a run that never leaves its budget?",
            ),
            (
                lambda kls, budget: max((kl, place) for place, kl in enumerate(kls) if kl <= budget)[1],
                "The latest checkpoint is asked for, not the one that is farthest away.",
            ),
        ),
        lambda found, kls, budget: (
            f"For {kls} and a budget of {budget:g} your function returns {found:g}. Walk through the looks "
            "as the training would, one by one."
        ),
        "A rule for stopping may use what was seen until then, and nothing that came later.",
    ),
    change_exercise(
        "09.4",
        (
            "args.kl_coef",
            "args.learning_rate",
            "args.num_ppo_epochs",
            "args.cliprange",
            "args.missing_eos_penalty",
        ),
        "args.kl_coef=0.1",
        why="One change, the same questions, an interval. Another seed could still say something else.",
    ),
)
