"""The exercises of the lessons: `check("06.2", answer)` finds one by its number and answers a student.

What is right, and what a wrong answer gets to hear, stands here and not in the notebooks; the modules
`lesson_NN` hold the solutions, for those who are stuck and for those who teach.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.exercises.exercise import Exercise, Feedback
from posttrain_helpers.wording import suggestion

__all__ = ["all_exercises", "check"]


def check(number: str, answer: Any) -> Feedback:
    """Say whether an answer to an exercise is right.

    Args:
        number: of the exercise, as the notebook gives it, such as "06.2".
        answer: a value or a function; None means not answered yet.

    Returns:
        The feedback, as text and as HTML; a wrong answer gets the hint that fits its mistake.

    Raises:
        CourseError: there is no such exercise.
    """
    known = {exercise.id: exercise for exercise in all_exercises()}
    if number not in known:
        raise CourseError(
            f"the exercise {number!r} does not exist{suggestion(number, known)}The exercises are "
            f"{', '.join(known)}."
        )
    return known[number].check(answer)


def all_exercises() -> list[Exercise]:
    """Return the exercises of every lesson, in their order."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("lesson_*.py"))
    return [
        exercise
        for module in modules
        for exercise in import_module(f"posttrain_helpers.lessons.exercises.{module}").EXERCISES
    ]
