from __future__ import annotations

import itertools
import random
import re
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, Split, split_seed
from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.verifiers import exact_answer
from posttrain_helpers.tinyworld.tasks import SUITES, held_out_stories, held_out_suite
from posttrain_helpers.tinyworld.training_data import prompts
from posttrain_helpers.tinyworld.training_data.preferences import preference_prompts
from posttrain_helpers.tinyworld.training_data.prompts import (
    HELD_OUT_PROBLEMS,
    build_prompt_data,
    build_word_problem_data,
    held_out_problems,
)


def questions(items: list[dict[str, Any]]) -> list[str]:
    assert all(message["role"] == "user" for item in items for message in item["prompt"])
    return [item["prompt"][-1]["content"] for item in items]


@pytest.mark.parametrize(("steps", "largest"), [(1, 12), (2, 12), (2, 20), (3, 30)])
def test_no_problem_twice_and_none_that_is_held_out(steps: int, largest: int) -> None:
    rows, suites = build_word_problem_data(1500, steps=steps, largest=largest, seed=0)
    assert len(rows) == len(set(questions(rows))) == len({row["id"] for row in rows}) == 1500
    held_out = suites["problems"]
    assert len(held_out) == len(set(questions(held_out))) == HELD_OUT_PROBLEMS == 300
    for split in HELD_OUT_SPLITS:
        suite = held_out_suite("word_problems", split=split)
        other = held_out_problems(steps, largest, HELD_OUT_PROBLEMS, split)
        assert set(questions(rows)).isdisjoint(questions(suite) + questions(other)), split
    assert {row["kind"] for row in rows + held_out} == {f"{steps}_step"}
    assert {row["task"] for row in rows} == {"word_problems"}
    assert all(set(row) == {"id", "task", "prompt", "answer", "kind"} for row in rows)


def test_held_out_problems_do_not_depend_on_the_seed_and_rows_do() -> None:
    (first, first_suites), (second, second_suites) = (
        build_word_problem_data(50, steps=2, largest=20, seed=seed) for seed in (0, 1)
    )
    assert first != second
    assert first == build_word_problem_data(50, steps=2, largest=20, seed=0)[0]
    assert first_suites["problems"] == second_suites["problems"]
    # A smaller suite is the beginning of the whole one, so it is never trained on either.
    assert held_out_problems(2, 20, 10) == first_suites["problems"][:10]


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_a_training_problem_that_is_held_out_is_left_out(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draws of training begin with every held-out problem."""
    held_out = held_out_problems(2, 20, HELD_OUT_PROBLEMS, split)
    source = random.Random

    def held_out_draws(seed: str) -> random.Random:
        return source(split_seed("problems/held out", split) if seed == "problems/0" else seed)

    monkeypatch.setattr(prompts, "random", SimpleNamespace(Random=held_out_draws))
    rows, _ = build_word_problem_data(5, steps=2, largest=20, seed=0)
    assert set(questions(rows)).isdisjoint(questions(held_out))


@pytest.mark.parametrize("smallest", [3, 11])
def test_what_dev_asks_is_not_asked_again_in_test(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of test begin with every problem of dev."""
    source = random.Random
    monkeypatch.setattr(prompts, "random", SimpleNamespace(Random=lambda seed: source("problems/held out")))
    dev, test = (held_out_problems(2, 20, 40, split, smallest=smallest) for split in HELD_OUT_SPLITS)
    assert set(questions(dev)).isdisjoint(questions(test))


def test_the_accepted_replies_of_held_out_problems_are_right() -> None:
    for item in held_out_problems(2, 20, 100):
        assert exact_answer([item["accepted"][0]], answer=[item["answer"]]) == [1.0]


def test_problems_begin_with_no_smaller_amount() -> None:
    rows, suites = build_word_problem_data(200, steps=2, largest=15, seed=0, smallest=11)
    held_out = suites["problems"]
    assert held_out == held_out_problems(2, 15, HELD_OUT_PROBLEMS, smallest=11)
    amounts = {int(re.search("[0-9]+", question)[0]) for question in questions(rows + held_out)}
    assert amounts == set(range(11, 16))
    assert min(int(n) for question in questions(rows) for n in re.findall("[0-9]+", question)) == 2


def test_more_problems_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    few = itertools.cycle([prompts.word_problem(random.Random(number), 2) for number in range(1000)])
    monkeypatch.setattr(prompts, "word_problem", lambda rng, steps, smallest, largest: next(few))
    message = r"only \d+ different word problems with steps=2 and largest=12 were found, but 401 are asked"
    with pytest.raises(CourseError, match=message):
        build_word_problem_data(401, steps=2, largest=12, seed=0)


def test_prompts_are_those_of_the_preference_pairs() -> None:
    rows, suites = build_prompt_data(60, seed=3)
    assert rows == preference_prompts(60, seed=3)
    assert {row["task"] for row in rows} == {"facts", "stories"}
    assert suites["new_stories"] == held_out_stories(100)
    assert set(questions(rows)).isdisjoint(questions(suites["new_stories"]) + questions(suites["entities"]))


def test_every_common_suite_is_there_and_made_when_it_is_asked_for() -> None:
    _, problems = build_word_problem_data(3, steps=2, largest=20, seed=0)
    _, others = build_prompt_data(3, seed=0)
    assert list(problems) == ["problems", *SUITES]
    assert list(others) == ["new_stories", *SUITES]
    for suites in (problems, others):
        assert len(suites) == len(SUITES) + 1
        assert "pairs" not in suites
        assert suites["arithmetic"] == held_out_suite("arithmetic")
