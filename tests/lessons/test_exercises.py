import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons.exercises import check_answer


def test_unanswered_is_neither_right_nor_wrong():
    assert check_answer(None, 3, hint="look").correct is None
    assert "None" in str(check_answer(None, 3, hint="look"))


@pytest.mark.parametrize(
    ("answer", "right"), [(3, True), (3.00001, True), (3.1, False), ("3", True), ("three", False)]
)
def test_numbers_are_compared_with_tolerance(answer, right):
    assert check_answer(answer, 3, hint="look").correct is right


def test_wrong_answers_get_the_hint():
    assert str(check_answer("no", "yes", hint="look closer")) == "Not yet. look closer"
    assert str(check_answer("yes", "yes", hint="look closer")) == "Right."


def test_a_function_may_decide():
    assert check_answer([1, 2], lambda answer: sum(answer) == 3, hint="look").correct is True
    assert check_answer([1], lambda answer: sum(answer) == 3, hint="look").correct is False


def test_truth_values_are_not_numbers():
    assert check_answer(1.0, True, hint="look").correct is True
    assert check_answer(0, False, hint="look").correct is True
    assert check_answer("yes", True, hint="look").correct is False


def test_an_exercise_needs_a_hint():
    with pytest.raises(CourseError, match="needs a hint"):
        check_answer(1, 2, hint="")
