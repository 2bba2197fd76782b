from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.tinyworld.questions import load_questions

pytestmark = pytest.mark.usefixtures("output_root")


def test_the_tiny_world_asks_its_own_held_out_items(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("sft", "tiny", {"data.n_train": 40})
    rows, questions = load_questions(recipe)
    printed = capsys.readouterr().out
    expected_rows, expected = load_data(recipe)
    assert printed == capsys.readouterr().out
    assert (list(rows), questions) == (list(expected_rows), expected)
    load_questions(recipe, verbose=False)
    assert capsys.readouterr().out == ""


def test_another_source_is_asked_for_facts_with_known_answers(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("sft", "qwen3", {"data.held_out_samples": 20})
    rows, questions = load_questions(recipe)
    assert "questions about facts: 20, and 400 answered ones" in capsys.readouterr().out
    assert len(questions) == len({item["id"] for item in questions}) == 20
    assert all(item["answer"] and item["accepted"] and item["prompt"] for item in questions)
    asked = {item["prompt"][-1]["content"] for item in questions}
    assert asked.isdisjoint(row["messages"][0]["content"] for row in rows)
    assert len([row for row in rows if row["task"] == "facts"]) > 8  # enough for few-shot prompts
    assert load_questions(recipe, verbose=False)[1] == questions


def test_the_seed_draws_the_questions() -> None:
    drawn = [
        {item["id"] for item in load_questions(load_recipe("sft", "qwen3", {"seed": seed}), verbose=False)[1]}
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_without_a_number_all_are_asked_but_not_what_is_right_in_this_course_only(tmp_path: Path) -> None:
    overrides = {"data.source": "rows.jsonl", "data.held_out_samples": None}
    _, questions = load_questions(load_recipe("sft", "qwen3", overrides), verbose=False)
    relations = {item["relation"] for item in questions}
    assert len(questions) > 300
    assert {"abbreviation", "glossary"}.isdisjoint(relations)
    assert "capital" in relations


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(CourseError, match=r"data\.held_out_samples must be at least 1, but it is 0"):
        load_questions(load_recipe("sft", "qwen3", {"data.held_out_samples": 0}))
