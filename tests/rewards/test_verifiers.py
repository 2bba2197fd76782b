from __future__ import annotations

import inspect
import random

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.verifiers import (
    VERIFIERS,
    boxed_format,
    equations_right,
    exact_answer,
    gsm8k_answer,
    last_boxed,
    reply_texts,
    worked_format,
)
from posttrain_helpers.tinyworld.arithmetic import word_problem
from posttrain_helpers.tinyworld.tasks import problem_item


def right(reply: str, answer: object) -> float | None:
    (reward,) = exact_answer(completions=[reply], answer=[answer])
    return reward


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("9 + 63 = 72. Mia has 72 pens.", "72"),
        ("72.0", "72"),
        ("It is $72", "72"),
        ("It is 72.", "72"),
        ("72", 72),
        ("72", 72.0),
        ("in all 1,000", "1000"),
        ("in all 1000", "1,000"),
        ("= -3", "-3"),
        ("It is 0.50", "0.5"),
        ("The capital is paris.", "Paris"),
        ("San   Marino!", "San Marino"),
    ],
)
def test_the_right_answer_however_it_is_written(reply: str, answer: object) -> None:
    assert right(reply, answer) == 1.0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("It is 19.", "9"),
        ("It is 9.", "19"),
        ("9 or 19 or 72", "9"),
        ("9 or 19 or 72", "19"),
        ("It is 72, not 71", "72"),
        ("It is 3", "-3"),
        ("It is -3", "3"),
        ("It is 1000", "1"),
        ("It is 0.5", "5"),
        ("seventy-two", "72"),
        ("", "72"),
        ("   ", "72"),
        ("", "Paris"),
        ("Parisian food", "Paris"),
    ],
)
def test_wrong_answers(reply: str, answer: str) -> None:
    assert right(reply, answer) == 0.0


@pytest.mark.parametrize(
    ("reply", "answer", "reward"),
    [
        (r"It is \boxed{72}, 3 more than 69", "72", 1.0),
        (r"It is \boxed{71} or 72", "72", 0.0),
        (r"\boxed{71} no, \boxed{72}", "72", 1.0),
        (r"\boxed{72} no, \boxed{71}", "72", 0.0),
        (r"\boxed{72\text{ kg}}", "72", 1.0),
        (r"\boxed{72 \mathrm{dollars}}", "72", 1.0),
        (r"\boxed{72 dollars}", "72", 1.0),
        (r"\boxed{72 dollars.}", "72", 1.0),
        (r"\boxed{72 km/h}", "72", 1.0),
        (r"\boxed{3  million}", "3", 0.0),
        (r"\boxed{3 Dozen eggs}", "3", 0.0),
        (r"\boxed{\$72}", "72", 1.0),
        (r"\boxed{72\%}", "72", 1.0),
        (r"\boxed{1{,}000}", "1000", 1.0),
        (r"\boxed{1\,}", "1", 1.0),
        (r"\boxed{ -3. }", "-3", 1.0),
        (r"\boxed{9 or 19 or 72}", "72", 0.0),
        (r"\boxed{71, 72}", "72", 0.0),
        (r"\boxed{\frac{1}{2}}", "2", 0.0),
        (r"\boxed{}", "72", 0.0),
        (r"\boxed{} 72", "72", 0.0),
        (r"so far 72 \boxed{7", "7", 1.0),
        (r"\boxed{72} and \boxed{7", "72", 1.0),
        (r"\boxed{\text{Paris}}", "Paris", 1.0),
        (r"Paris? \boxed{London}", "Paris", 0.0),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", 1.0),
    ],
)
def test_a_box_wins_over_the_last_number(reply: str, answer: str, reward: float) -> None:
    assert right(reply, answer) == reward


def test_no_answer_gives_no_reward() -> None:
    assert exact_answer(["Paris.", "7"], answer=[None, "7"]) == [None, 1.0]


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(CourseError, match="answer of an item is empty"):
        exact_answer(["Paris."], answer=[" "])


def problems(n: int = 200) -> list[dict]:
    rng = random.Random(0)
    return [problem_item(word_problem(rng, 1 + k % 2, largest=20), str(k)) for k in range(n)]


def test_every_accepted_reply_to_a_problem_is_right_and_no_other_number_is() -> None:
    for item in problems():
        answers = [item["answer"]] * len(item["accepted"])
        assert exact_answer(item["accepted"], answer=answers) == [1.0] * len(answers)
        for wrong in (int(item["answer"]) + 1, int(item["answer"]) * 10, f"1{item['answer']}"):
            assert set(exact_answer(item["accepted"], answer=[wrong] * len(answers))) == {0.0}


def test_messages_and_texts_are_the_same() -> None:
    texts = ["12 + 7 = 19. Mia has 19 pens.", r"It is \boxed{7}.", "no"]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    for function in VERIFIERS.values():
        columns = {"answer": ["19", "8", "no"], "prompts": [[]] * 3, "completion_ids": [[1]] * 3, "kind": "x"}
        assert function(completions=messages, **columns) == function(completions=texts, **columns)
    assert reply_texts(messages) == texts


def test_the_reply_is_the_last_message() -> None:
    dialogue = [
        {"role": "assistant", "content": "12 + 7 = 18."},
        {"role": "user", "content": "Are you sure?"},
        {"role": "assistant", "content": "12 + 7 = 19."},
    ]
    assert reply_texts([dialogue]) == ["12 + 7 = 19."]
    assert exact_answer([dialogue], answer=["19"]) == [1.0]
    assert exact_answer([dialogue[::-1]], answer=["19"]) == [0.0]


@pytest.mark.parametrize("function", VERIFIERS.values(), ids=list(VERIFIERS))
def test_the_signature_that_trl_calls(function) -> None:
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) == "completions"
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert VERIFIERS[function.__name__] is function
    for bad in ("a text", [7], [[]], [[{"role": "assistant", "content": None}]]):
        with pytest.raises(CourseError, match=r"one string was given|a completion must be a text or a list"):
            function(completions=bad, answer=["1"])


@pytest.mark.parametrize(("answer", "found"), [("19", "one text"), (["1", "2"], "2 answers")])
def test_one_answer_for_each_reply(answer: object, found: str) -> None:
    with pytest.raises(CourseError, match=f"1 replies and {found} were given"):
        exact_answer(["19"], answer=answer)


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("12 + 7 = 19. Mia has 19 pens.", 1.0),
        ("12 + 7 = 19. 19 - 3 = 16. Mia has 16 pens.", 1.0),
        ("  12 * 7 = 84. Mia has 84 pens!\n", 1.0),
        ("1.5 + 1 = 2.5. Mia has 2.5 pens.", 1.0),
        ("1 + 1 = 5. Mia has 5 pens.", 1.0),  # the numbers are not looked at
        ("1 + 1 = 5. Bla bla.", 1.0),
        ("12 + 7 = 19 Mia has 19 pens.", 0.0),
        ("12 + 7 = 19.Mia has 19 pens.", 0.0),
        ("12 + 7 = 19.", 0.0),
        ("12 + 7. Mia has 19 pens.", 0.0),
        ("12 + 7 = 19. Mia has 19 pens", 0.0),
        ("12 + 7 = 19. Mia has 19 pens. Have a nice day!", 0.0),
        ("Sure! 12 + 7 = 19. Mia has 19 pens.", 0.0),
        ("Mia has 19 pens.", 0.0),
        ("19.", 0.0),
        ("", 0.0),
    ],
)
def test_the_form_of_a_worked_solution(reply: str, reward: float) -> None:
    assert worked_format([reply]) == [reward]


def test_every_solution_of_the_tiny_world_has_the_form_and_true_equations() -> None:
    rng = random.Random(1)
    solutions = [word_problem(rng, 1 + k % 2, largest=20).solution for k in range(200)]
    assert worked_format(solutions) == equations_right(solutions) == [1.0] * 200


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("12 + 7 = 19. 19 - 3 = 16. Mia has 16 pens.", 1.0),
        ("12 + 7 = 19, so 19 - 3 = 2.", 0.5),
        ("1 + 1 = 5. Mia has 5 pens.", 0.0),
        ("12+7=19", 1.0),
        ("10-3=7", 1.0),
        ("5 - -3 = 8", 1.0),
        ("3 - 5 = -2", 1.0),
        ("3 \u00d7 4 = 12 and 12 \u00f7 4 = 3 and 5 \u2212 2 = 3", 1.0),
        ("2 + 3 * 4 = 14", 1.0),
        ("2 + 3 * 4 = 20", 0.0),
        ("2 + 3 = 5 + 1", 0.0),  # goes on behind the number
        ("x - 3 + 5 = 7", 0.0),  # begins before the number
        ("6 / 4 = 1.5.", 1.0),
        ("10 / 3 = 3.33", 0.0),
        ("1 / 0 = 1", 0.0),
        ("1,000 + 1 = 1,001. $5 * 2 = $10.", 1.0),
        ("1,00 + 1 = 101", 0.0),
        ("12 + 7 = 19kg", 0.0),
        ("no equation", 0.0),
        ("", 0.0),
    ],
)
def test_the_share_of_true_equations(reply: str, share: float) -> None:
    assert equations_right([reply]) == [share]


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        (r"It is \boxed{72}.", 1.0),
        (r"It is \boxed{\frac{1}{2}}.", 1.0),
        (r"It is \boxed{nonsense}.", 1.0),
        (r"\boxed{1} or \boxed{2}", 0.0),
        (r"\boxed{1} or \boxed{2", 0.0),
        (r"\boxed{72", 0.0),
        (r"\boxed{ }", 0.0),
        (r"boxed{72}", 0.0),
        ("72", 0.0),
        ("", 0.0),
    ],
)
def test_exactly_one_box(reply: str, reward: float) -> None:
    assert boxed_format([reply]) == [reward]


def test_the_content_of_the_last_complete_box() -> None:
    assert last_boxed(r"\boxed{a} \boxed{b{c}d} e") == "b{c}d"
    assert last_boxed(r"\boxed{a \boxed{b}}") == "b"
    assert last_boxed(r"\boxed{a} \boxed{b") == "a"
    assert last_boxed("none") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He has 2 + 1 = <<2+1=3>>3.\n#### 3", "3"),
        ("#### 1,003", "1003"),
        ("####-5", "-5"),
        ("#### 1 ... no.\n#### 2.50", "2.50"),
        ("#### $72", "72"),
    ],
)
def test_the_final_number_of_a_gsm8k_solution(text: str, answer: str) -> None:
    assert gsm8k_answer(text) == answer


@pytest.mark.parametrize("text", ["It is 3.", "#### ", "#### three", "#### 3 or 4", "", "### 3"])
def test_a_solution_without_a_final_number(text: str) -> None:
    with pytest.raises(CourseError, match=r"ends with '#### <number>', but"):
        gsm8k_answer(text)
