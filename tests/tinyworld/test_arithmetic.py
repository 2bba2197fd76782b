import random
import re

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.tinyworld.arithmetic import Sum, random_sum, split_of_sum, word_problem


def test_sums_are_right():
    rng = random.Random(0)
    for _ in range(2000):
        item = random_sum(rng)
        assert eval(item.expression) == item.result >= 0
        assert item.equation == f"{item.expression} = {item.result}."


def test_both_orders_of_a_sum_share_a_split():
    for left in range(0, 20):
        for right in range(0, 20):
            assert split_of_sum(Sum(left, "+", right)) == split_of_sum(Sum(right, "+", left))
            assert split_of_sum(Sum(left, "*", right)) == split_of_sum(Sum(right, "*", left))


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_a_fifth_of_the_sums_belongs_to_each_held_out_split(split):
    found = [split_of_sum(Sum(a, "+", b)) == split for a in range(31) for b in range(a, 31)]
    assert sum(found) / len(found) == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("steps", [1, 2])
def test_problems_are_solved_right_and_need_no_singular(steps):
    rng = random.Random(1)
    for _ in range(1000):
        problem = word_problem(rng, steps)
        assert len(problem.steps) == steps
        for step in problem.steps:
            assert eval(step.expression) == step.result >= 2
        for first, second in zip(problem.steps, problem.steps[1:], strict=False):
            assert second.left == first.result
        assert problem.answer in problem.conclusion
        numbers = {int(number) for number in re.findall(r"\d+", problem.prompt)}
        assert {problem.steps[0].left, problem.steps[0].right} <= numbers
        assert 1 not in numbers
        assert problem.solution.endswith(problem.conclusion)


def test_amounts_keep_to_the_sizes_that_are_asked_for():
    rng = random.Random(3)
    problems = [word_problem(rng, 2, smallest=20, largest=40) for _ in range(300)]
    assert all(20 <= problem.steps[0].left <= 40 for problem in problems)
    changes = [step.right for problem in problems for step in problem.steps if step.operator == "+"]
    assert max(changes) == 40
    assert {word_problem(rng, 2, smallest=5, largest=5).steps[0].left for _ in range(20)} == {5}


def test_every_kind_of_problem_is_asked_in_the_held_out_words():
    rng = random.Random(4)
    problems = [word_problem(rng, 1, held_out=True) for _ in range(200)]
    assert {problem.steps[0].operator for problem in problems} == {"+", "-", "*"}
    assert all(re.fullmatch(r"Count the \w+ that \w+ has( now)?\.", problem.question) for problem in problems)


def test_pronouns_agree_with_the_name():
    rng = random.Random(2)
    from posttrain_helpers.tinyworld.vocabulary import WOMEN

    for _ in range(500):
        problem = word_problem(rng, 2)
        name = re.match(
            r"(?:There are .* room of )?([A-Z][a-z]+)", problem.text.replace("There are", "There are")
        )
        owner = problem.conclusion.split()[0]
        assert name is not None
        words = set(re.findall(r"\b(She|He|her|him)\b", problem.text))
        assert words <= ({"She", "her"} if owner in WOMEN else {"He", "him"}), problem.text
