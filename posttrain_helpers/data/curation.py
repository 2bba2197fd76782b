"""Which of several replies to train on, and the random choice that every selection is measured against.

best = best_of_each(scores)            # for each prompt the index of its highest score
control = one_of_each(scores, seed)    # for each prompt an index drawn by lot: as many rows, same prompts
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from posttrain_helpers.errors import CourseError


def best_of_each(scores: Sequence[Sequence[float]], seed: int = 0) -> list[int]:
    """Return for each group the index of its highest score.

    Args:
        scores: N groups of at least one score.
        seed: draws lots among equals, as a verifier gives the same score to many.

    Raises:
        CourseError: an empty group, or a score that is NaN.
    """
    rng = random.Random(f"best of each/{seed}")
    _check(scores)
    chosen = []
    for number, group in enumerate(scores):
        if any(map(math.isnan, group)):
            raise CourseError(
                f"group {number} has a score that is NaN, so none is the highest; leave it out."
            )
        highest = max(group)
        chosen.append(rng.choice([index for index, score in enumerate(group) if score == highest]))
    return chosen


def one_of_each(groups: Sequence[Sequence[object]], seed: int = 0) -> list[int]:
    """Return for each group an index drawn by lot: the control of `best_of_each`.

    Args:
        groups: N groups of at least one reply or score.
        seed: of the lots.

    Raises:
        CourseError: an empty group.
    """
    rng = random.Random(f"one of each/{seed}")
    _check(groups)
    return [rng.randrange(len(group)) for group in groups]


def _check(groups: Sequence[Sequence[object]]) -> None:
    if empty := [number for number, group in enumerate(groups) if not len(group)]:
        raise CourseError(f"group {empty[0]} is empty, so there is nothing to choose from; leave it out.")
