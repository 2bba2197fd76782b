"""A planted leak is found, whatever its kind, and the training data of the course hold none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from posttrain_helpers.environment.splits import HELD_OUT_SPLITS
from posttrain_helpers.tinyworld import find_leaks, held_out_suite
from posttrain_helpers.tinyworld.facts import load_relations
from posttrain_helpers.tinyworld.tasks import facts_of, training_conversations

ROWS = training_conversations(400, 0)
HELD_OUT = held_out_suite("entities")


def asked(question: str, reply: str = "I do not know.") -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": turns}


def test_training_data_do_not_leak() -> None:
    leaks = find_leaks(ROWS, HELD_OUT)
    assert not leaks.found
    assert (leaks.rows, leaks.held_out_entities, leaks.held_out_questions) == (400, (), ())
    assert "entities, 0 of them held out; held-out questions among the training questions: 0" in str(leaks)


def test_every_row_about_a_fact_is_recognised() -> None:
    about_facts = Counter(
        row["task"] for row in ROWS if not row["messages"][0]["content"].startswith("Repeat")
    )
    assert find_leaks(ROWS).fact_rows == about_facts["facts"] + about_facts["instructions"]


def test_a_held_out_question_is_found() -> None:
    item = HELD_OUT[7]
    leaks = find_leaks([*ROWS, asked(item["prompt"][0]["content"])], HELD_OUT)
    assert leaks.found
    assert leaks.held_out_questions == (item["id"],)
    assert leaks.held_out_entities == (item["entity"],)
    assert item["entity"] in str(leaks)


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
@pytest.mark.parametrize("frame", ["{}", "Answer in one word. {}", "Answer politely. {}"])
def test_a_held_out_entity_is_found_in_any_wording(split: str, frame: str) -> None:
    for relation, entity in facts_of(split)[::40]:
        for question in relation.questions:
            leaks = find_leaks([asked(frame.format(relation.render(question, entity)))])
            assert entity in leaks.held_out_entities, question


def test_a_held_out_fact_in_a_reply_is_found() -> None:
    for relation, entity in facts_of("test")[::40]:
        for statement in relation.statements:
            row = asked("Tell me something.", f"Sure! {relation.render(statement, entity)} Have a nice day!")
            leaks = find_leaks([row], HELD_OUT)
            assert entity in leaks.held_out_entities, statement
            assert leaks.found
            assert leaks.held_out_questions == ()


def test_a_later_turn_counts_as_well() -> None:
    relation = load_relations()["capital"]
    entity = next(entity for known, entity in facts_of("dev") if known is relation)
    later = asked(relation.render(relation.questions[0], entity))["messages"]
    assert find_leaks([{"messages": ROWS[0]["messages"] + later}]).held_out_entities == (entity,)


@pytest.mark.parametrize("frame", ["Q: {}", "please, {}", '"{}"', "1) {}"])
@pytest.mark.parametrize(
    "change", [str.lower, str.upper, lambda text: text.replace(" ", "  "), lambda text: text[:-1]]
)
def test_a_held_out_entity_is_found_in_careless_writing(frame: str, change: Callable[[str], str]) -> None:
    for relation, entity in facts_of("test")[::80]:
        asks, states = relation.questions[0], relation.statements[0]
        for text in (change(relation.render(template, entity)) for template in (asks, states)):
            assert entity in find_leaks([asked(frame.format(text))]).held_out_entities, text
