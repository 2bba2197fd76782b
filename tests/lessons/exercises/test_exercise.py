"""What a student's answer gets back: unanswered, a hint, or right; as text and as HTML."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from posttrain_helpers.errors import CourseError
from posttrain_helpers.lessons import check
from posttrain_helpers.lessons.exercises.exercise import (
    NOT_ANSWERED,
    Exercise,
    NotYet,
    call,
    check_draws,
    choice,
    compared,
    function_exercise,
    number,
    numbers,
    selection,
    whole_numbers,
    yes_or_no,
)
from posttrain_helpers.statistics import PairedResult, paired_binary, paired_numeric


def halves(answer: Any) -> None:
    if call(answer, 4) != 2:
        raise NotYet("Try it with <4>.")


HALF = Exercise("99.1", "function", halves, lambda n: n / 2, ((lambda n: n, "Try"),), "Half of 4 is 2.")


def test_an_answer_is_right_wrong_or_missing() -> None:
    assert str(HALF.check(lambda n: n / 2)) == "Right. Half of 4 is 2."
    assert str(HALF.check(lambda n: n)) == "Not yet. Try it with <4>."
    assert [HALF.check(nothing).correct for nothing in (None, ..., lambda n: None)] == [None] * 3


def test_an_error_of_the_students_function_is_told_and_not_raised() -> None:
    assert str(HALF.check(lambda n: n / 0)) == (
        "Not yet. Your function stops with ZeroDivisionError: division by zero"
    )
    assert "A function is expected here, but int" in str(HALF.check(3))


def test_a_function_without_return_is_not_taken_for_an_empty_one() -> None:
    def as_shipped(n: int) -> int: ...

    def as_shipped_with_words(n: int) -> int:
        """Return half of it."""
        ...

    def without_return(n: int) -> None:
        n / 2

    for empty in (as_shipped, as_shipped_with_words):
        assert str(HALF.check(empty)) == NOT_ANSWERED
    assert "returns nothing" in str(HALF.check(without_return))
    assert HALF.check(without_return).correct is False


def test_a_hint_fits_all_results_up_to_the_first_wrong_one() -> None:
    double = function_exercise(
        "99.3",
        "function",
        lambda n: 2 * n,
        [(1,), (3,)],
        ((lambda n: n * n, "Do you square?"),),
        lambda found, n: f"{n} gives {found:g}.",
        "Twice 3 is 6.",
        before=lambda found, n: "Look: ",
    )
    assert double.check(double.solution).correct
    assert double.check(lambda n: n * n).message == "Look: Do you square?"
    assert double.check(lambda n: 2 if n == 1 else n * n).message == "Look: 3 gives 9."


def test_an_error_of_the_grading_itself_is_not_hidden() -> None:
    broken = Exercise("99.2", "predict", lambda answer: {}["missing"], 1, (), "")
    with pytest.raises(KeyError):
        broken.check(1)


def test_html_says_in_words_what_the_colour_says() -> None:
    shown = HALF.check(lambda n: n)._repr_html_()
    assert 'role="status"' in shown
    assert "<strong>Not yet.</strong> Try it with &lt;4&gt;." in shown


def test_an_unknown_exercise_names_the_closest() -> None:
    with pytest.raises(CourseError, match=r"the exercise '99\.9' does not exist"):
        check("99.9", 1)


@pytest.mark.parametrize("answer", ["three", [1, 2], float("nan"), None, 10**400, 1j])
def test_what_is_no_number_is_not_taken_for_one(answer: object) -> None:
    with pytest.raises(NotYet, match="number"):
        number(answer)


def test_numbers_and_choices_are_checked() -> None:
    assert numbers([1, 2.5], 2) == [1.0, 2.5]
    with pytest.raises(NotYet, match="3 numbers are expected"):
        numbers([1, 2.5], 3)
    assert whole_numbers(torch.tensor([1.0, -100.0]), 2) == [1, -100]
    with pytest.raises(NotYet, match="2 whole numbers are expected"):
        whole_numbers([1, 2.5], 2)
    assert choice(" Rises ", ("rises", "falls")) == "rises"
    with pytest.raises(NotYet, match="One of 'rises', 'falls'"):
        choice("up", ("rises", "falls"))


FIVE_UP = paired_binary([0] * 5 + [1] * 95, [1] * 100)
BETTER = paired_numeric([0.0] * 60, [1.0, 0.9] * 30)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("args.beta=1", 'dictionary with the keys "changed"'),
        ({"changed": "beta, rate", "result": BETTER, "verdict": "improved"}, "Change one setting"),
        (
            {"changed": "args.beta=1 args.learning_rate=1", "result": BETTER, "verdict": "improved"},
            "two changes at once",
        ),
        (
            {"changed": "args.beta=1, args.seed: 2", "result": BETTER, "verdict": "improved"},
            "two changes at once",
        ),
        ({"changed": "args.max_steps=1", "result": BETTER, "verdict": "improved"}, "about args.beta"),
        ({"changed": "args.beta=1", "result": 0.9, "verdict": "improved"}, "paired comparison"),
        (
            {
                "changed": "args.beta=1",
                "result": paired_numeric([0.0] * 9, [1.0] * 9),
                "verdict": "improved",
            },
            "9 items decide nothing",
        ),
        ({"changed": "args.beta=1", "result": BETTER, "verdict": "worse"}, "does it leave 0 out"),
        ({"changed": "args.beta=...", "result": BETTER, "verdict": "improved"}, "Say which value"),
        ({"changed": "args.beta=1", "result": BETTER, "verdict": "better"}, "One of 'improved'"),
        ({"changed": "args.beta=1", "result": BETTER, "verdict": np.array(["a", "b"])}, "One of 'improved'"),
        ({"changed": "args.beta=1", "result": FIVE_UP, "verdict": "improved"}, "leaves 0 out, but p = 0.06"),
    ],
)
def test_a_comparison_needs_one_change_enough_items_and_the_right_reading(answer: object, words: str) -> None:
    with pytest.raises(NotYet, match=words):
        compared(answer, ["args.beta"])


@pytest.mark.parametrize(("higher_is_better", "said"), [(True, "higher"), (False, "lower")])
def test_a_wrong_reading_hears_which_way_is_better(higher_is_better: bool, said: str) -> None:
    fallen = paired_numeric([1.0, 0.9] * 30, [0.0] * 60, higher_is_better=higher_is_better)
    wrong = "improved" if higher_is_better else "worse"
    with pytest.raises(NotYet, match=f"{said} counts as better"):
        compared({"changed": "args.beta=1", "result": fallen, "verdict": wrong}, ["args.beta"])


NO_CHANGE = paired_numeric([0.5] * 60, [0.0, 0.5, 1.0] * 20)
LESS_DISTANCE = paired_numeric([2.0, 1.5, 1.0] * 32, [0.5, 0.75, 0.25] * 32, higher_is_better=False)


@pytest.mark.parametrize(
    ("result", "reading"),
    [(BETTER, "improved"), (NO_CHANGE, "no_difference_shown"), (LESS_DISTANCE, "improved")],
)
def test_a_comparison_that_is_read_right_passes(result: PairedResult, reading: str) -> None:
    right = {"changed": "args.beta=1", "result": result, "verdict": reading}
    assert compared(right, ["args.beta"]) is result
    with pytest.raises(NotYet, match="does it leave 0 out, and on which side"):
        compared({**right, "verdict": "worse"}, ["args.beta"])


def test_a_verdict_may_be_written_in_any_case() -> None:
    compared({"changed": "args.beta=1", "result": BETTER, "verdict": " Improved "}, ["args.beta"])


def test_a_students_function_cannot_change_what_it_is_graded_by() -> None:
    values = torch.ones(3)
    call(lambda tensor: tensor.zero_(), values)
    assert values.tolist() == [1.0, 1.0, 1.0]


def test_what_a_function_yields_is_a_list_and_its_error_is_told() -> None:
    def yielding(values: list[float]) -> Any:
        for value in values:
            yield 1 / value

    assert call(yielding, [1, 2]) == [1.0, 0.5]
    with pytest.raises(NotYet, match="ZeroDivisionError"):
        call(yielding, [1, 0])


def test_a_refused_control_leaves_pythons_generator_as_it_was() -> None:
    def refused(seed: int) -> None:
        raise NotYet("no")

    before = random.getstate()
    with pytest.raises(NotYet, match="no"):
        check_draws(refused)
    assert random.getstate() == before


@pytest.mark.parametrize("answer", [[1, 0], (True, False), np.array([1, 0]), torch.tensor([True, False])])
def test_verdicts_are_taken_from_any_list(answer: object) -> None:
    assert yes_or_no(answer, 2) == [True, False]


def test_p_values_are_no_verdicts() -> None:
    with pytest.raises(NotYet, match="2 times True or False"):
        yes_or_no([0.03, 0.2], 2)


@pytest.mark.parametrize("answer", [["simpo ", "ORPO"], ("SimPO", "orpo"), pd.Series(["SIMPO", "ORPO"])])
def test_words_are_taken_from_any_list_and_in_any_case(answer: object) -> None:
    assert selection(answer, ("ORPO", "SimPO")) == ["SimPO", "ORPO"]


@pytest.mark.parametrize("answer", [3, {"ORPO": 1}, [None], [["ORPO"]], [np.array(["a", "b"])], "KTO"])
def test_what_is_no_list_of_words_is_told(answer: object) -> None:
    with pytest.raises(NotYet, match="is expected here"):
        selection(answer, ("ORPO", "SimPO"))


def test_a_long_answer_is_cut() -> None:
    with pytest.raises(NotYet) as caught:
        numbers([0] * 10_000, 2)
    assert len(str(caught.value)) < 300
