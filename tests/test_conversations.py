from __future__ import annotations

from typing import Any

import pytest

from posttrain_helpers.conversations import (
    conversation_turns,
    held_out_conversation,
    is_conversation,
    text_key,
    usable_conversations,
)
from posttrain_helpers.errors import CourseError


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


def test_held_out_item() -> None:
    row = chat("q", "a")
    item = held_out_conversation(row, "mine/0")
    assert item["prompt"] == conversation_turns(row)[:1]
    assert (item["id"], item["task"], item["answer"], item["reference"]) == (
        "mine/0",
        "conversation",
        None,
        "a",
    )
