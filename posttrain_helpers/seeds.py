"""Which seeds there are."""

from __future__ import annotations

from posttrain_helpers.errors import CourseError

LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one


def check_seed(seed: object) -> None:
    """Check that Python, NumPy and torch take a seed.

    Raises:
        CourseError: it is no whole number from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise CourseError(f"the seed must be a whole number from 0 to {LARGEST_SEED}, but it is {seed!r}.")
