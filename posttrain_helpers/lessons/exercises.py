"""Checks behind the "your turn" cells: they answer a student, and let CI pass while nothing is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain_helpers.errors import CourseError

NOT_ANSWERED = "Not answered yet: replace None by your answer and run the cell again."


@dataclass(frozen=True)
class Feedback:
    """What a check says; `correct` is None while nothing was answered."""

    correct: bool | None
    message: str

    def __str__(self) -> str:
        mark = {True: "Right.", False: "Not yet.", None: "·"}[self.correct]
        return f"{mark} {self.message}".rstrip()

    __repr__ = __str__


def check_answer(answer: Any, expected: Any, *, hint: str, tolerance: float = 1e-4) -> Feedback:
    """Compare a student's answer with the expected one.

    Args:
        answer: None means not answered yet.
        expected: the right answer, or a function of the answer that says whether it is right.
        hint: shown when the answer is wrong; it must not give the answer away.
        tolerance: for numbers.

    Raises:
        CourseError: without a hint.
    """
    if not hint:
        raise CourseError("An exercise needs a hint: what should a student look at after a wrong answer?")
    if answer is None:
        return Feedback(None, NOT_ANSWERED)
    correct = expected(answer) if isinstance(expected, Callable) else _equal(answer, expected, tolerance)
    return Feedback(bool(correct), "" if correct else hint)


def _equal(answer: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, bool | str) or not isinstance(expected, int | float):
        return answer == expected
    try:
        return abs(float(answer) - expected) <= tolerance * max(1.0, abs(expected))
    except (TypeError, ValueError):
        return False
