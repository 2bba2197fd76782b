"""Every exercise of every lesson: its solution passes, and each typical mistake gets its own hint."""

from __future__ import annotations

import re
from collections import Counter

import nbformat
import pytest

from posttrain_helpers.lessons.exercises import all_exercises, check
from posttrain_helpers.lessons.exercises.exercise import NOT_ANSWERED, Exercise
from posttrain_helpers.lessons.run import discover

EXERCISES = all_exercises()
FEWEST, FEWEST_MISTAKES = 4, 2


def asked_in(path: object) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.findall(r'\bcheck\("(\d\d\.\d+)"', source)


def test_notebooks_ask_every_exercise_once_and_no_other() -> None:
    asked = [number for path in discover() for number in asked_in(path)]
    assert sorted(asked) == sorted(exercise.id for exercise in EXERCISES)
    assert [number for number, times in Counter(asked).items() if times > 1] == []


def test_a_lesson_has_exercises_of_different_kinds() -> None:
    lessons = {exercise.id[:2] for exercise in EXERCISES}
    for lesson in sorted(lessons):
        kinds = [exercise.kind for exercise in EXERCISES if exercise.id[:2] == lesson]
        assert len(kinds) >= FEWEST, lesson
        assert set(kinds) == {"predict", "function", "bug", "change"}, lesson


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_solution_is_right(exercise: Exercise) -> None:
    feedback = check(exercise.id, exercise.solution)
    assert feedback.correct is True, str(feedback)
    assert exercise.why, "a lucky guess should learn something, too"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_typical_mistake_gets_its_own_hint(exercise: Exercise) -> None:
    assert len(exercise.mistakes) >= FEWEST_MISTAKES
    hints = []
    for answer, words in exercise.mistakes:
        feedback = check(exercise.id, answer)
        assert feedback.correct is False, str(feedback)
        assert words in feedback.message, feedback.message
        hints.append(feedback.message)
    assert len(set(hints)) == len(hints), "two mistakes, one hint: say what each did wrong"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_an_unanswered_exercise_says_so(exercise: Exercise) -> None:
    assert check(exercise.id, None).message == NOT_ANSWERED
