from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from posttrain_helpers.data.conversations import (
    listed_counts,
    read_messages,
    usable_conversations,
)
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import is_conversation, text_key


def chat(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (chat("q", "a")["messages"], True),
        ([{"role": "system", "content": ""}], True),
        ([], False),
        ("q", False),
        (["q", "a"], False),
        ([{"role": "human", "content": "q"}], False),
        ([{"role": "user", "content": None}], False),
        ([{"role": "user"}], False),
    ],
)
def test_what_counts_as_a_conversation(messages: object, expected: bool) -> None:
    assert is_conversation(messages) is expected


QUESTION, REPLY = chat("q", "a")["messages"]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


@pytest.mark.parametrize(
    "reply",
    [
        {"role": "Assistant", "content": "a"},
        {"from": "bot", "value": "a"},
        {"role": "model", "content": "a"},
        {"role": " GPT ", "content": "a"},
        {**REPLY, "tool_calls": None, "function_call": None, "weight": None},
        {**REPLY, "tool_calls": [], "weight": 1.0, "train": True, "name": "Ann"},
    ],
)
def test_usual_names_of_roles_and_empty_keys(reply: dict[str, Any]) -> None:
    asked = {"from": "Human", "value": "q", "weight": 0}  # a question is not trained on, whatever its weight
    assert read_messages([asked, reply]) == [QUESTION, REPLY]


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([QUESTION, {"role": "narrator", "content": "a"}], "unknown role 'narrator'"),
        ([QUESTION, {"from": "n" * 90, "value": "a"}], f"unknown role '{'n' * 40}'"),
        ([QUESTION, {**REPLY, "tool_calls": [CALL]}], "tool call"),
        ([QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, REPLY], "tool call"),
        ([QUESTION, {"role": "assistant", "function_call": {"name": "weather"}}, REPLY], "tool call"),
        ([QUESTION, {"role": "Tool", "content": "21 degrees"}, REPLY], "tool call"),
        ([QUESTION, {"from": "function_call", "value": "{}"}, REPLY], "tool call"),
        ([QUESTION, {"from": "observation", "value": "21 degrees"}, REPLY], "tool call"),
        ([QUESTION, {**REPLY, "weight": 0}], "reply with a weight"),
        ([QUESTION, {**REPLY, "weight": 0.5}, QUESTION, REPLY], "reply with a weight"),
        ([QUESTION, {**REPLY, "train": False}], "reply with a weight"),
        ([QUESTION, {"role": "assistant", "content": ["a"]}], "not conversational"),
        ([QUESTION, {"role": None, "content": "a"}], "not conversational"),
        ([QUESTION, "a"], "not conversational"),
        ([], "not conversational"),
        ("q", "not conversational"),
        (None, "not conversational"),
    ],
)
def test_what_messages_cannot_be_used_for_is_named(messages: object, fault: str) -> None:
    assert read_messages(messages) == fault
    good = chat("x", "y")
    assert usable_conversations([{"messages": messages}, good], "rows") == ([good], {fault: 1})


def test_very_many_reasons_are_summed_up() -> None:
    text = listed_counts(Counter({f"unknown role {n}": 100 - n for n in range(30)}))
    assert text.startswith("100 unknown role 0, 99 unknown role 1, ")
    assert text.endswith(f"89 unknown role 11, {sum(100 - n for n in range(12, 30)):,} for other reasons")


def test_the_same_question_with_two_replies_is_no_duplicate() -> None:
    kept, dropped = usable_conversations([chat("q", "a"), chat("q", "b")], "rows")
    assert len(kept) == 2
    assert not dropped


def test_each_reason_is_counted() -> None:
    rows = [chat("q", "a"), chat("q ", "a"), chat("q", " "), {"messages": []}]
    rows.append({"messages": [{"role": "user", "content": "nobody replies"}]})
    kept, dropped = usable_conversations(rows, "rows")
    assert kept == [chat("q", "a")]
    assert dropped == {"duplicate": 1, "empty reply": 1, "not conversational": 1, "no assistant turn": 1}


def test_roles_are_part_of_the_key() -> None:
    assert text_key([{"role": "user", "content": "a"}]) == text_key([{"role": "user", "content": " a "}])
    assert text_key([{"role": "user", "content": "a"}]) != text_key([{"role": "system", "content": "a"}])


def test_no_column_and_no_conversation() -> None:
    with pytest.raises(CourseError, match=r"'mine' has no column 'messages'.*found the columns text"):
        usable_conversations([chat("q", "a"), {"text": "t"}], "mine")
    with pytest.raises(CourseError, match=r"rows of 'mine' are not conversational.*'User: hi'"):
        usable_conversations([{"messages": "User: hi"}], "mine")
