from __future__ import annotations

from typing import Any

import pytest
from public_schemas import SYSTEM, reply, user

from posttrain_helpers.data.labels import FAULTS, has_labels, usable_labels
from posttrain_helpers.errors import CourseError

GOOD = {"prompt": [SYSTEM, user("Tea?")], "completion": [reply("Yes.")], "label": True}


def test_extra_columns_and_keys_are_left_out() -> None:
    row = {**GOOD, "completion": [{**reply("Yes."), "weight": 1}], "source": "x", "label": 1}
    kept, dropped = usable_labels([row], "mine")
    assert kept == [GOOD]
    assert kept[0]["label"] is True
    assert not dropped


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "Tea?"}, "not conversational"),
        ({"prompt": []}, "not conversational"),
        ({"prompt": [user("Tea?"), reply("Yes.")]}, "not conversational"),
        ({"completion": "Yes."}, "not conversational"),
        ({"completion": [user("Yes.")]}, "not conversational"),
        ({"completion": [reply("Yes."), reply("No.")]}, "not conversational"),
        ({"completion": [reply(" ")]}, "empty completion"),
        ({"completion": [{**reply("Yes."), "function_call": {"name": "boil"}}]}, "tool call"),
        ({"completion": [{**reply("Yes."), "weight": 0}]}, "reply with a weight"),
        ({"label": None}, "no label"),
        ({"label": "true"}, "no label"),
        ({"label": 0.5}, "no label"),
        ({"completion": [reply(" Yes. ")]}, "duplicate"),
    ],
)
def test_what_is_dropped_is_counted(change: dict[str, Any], reason: str) -> None:
    assert usable_labels([GOOD, {**GOOD, **change}], "mine") == ([GOOD], {reason: 1})
    assert reason in FAULTS


def test_an_unknown_role_is_named() -> None:
    row = {**GOOD, "prompt": [{"role": "narrator", "content": "Tea?"}]}
    with pytest.raises(CourseError, match=r"is left, 1 unknown role 'narrator': roles are system, user, ass"):
        usable_labels([row], "mine")


def test_one_reply_may_have_both_labels() -> None:
    rows = [GOOD, {**GOOD, "label": False}]
    assert usable_labels(rows, "mine") == (rows, {})


def test_sets_that_cannot_be_used() -> None:
    with pytest.raises(CourseError, match=r"no row of 'mine' is left, 1 no label: a label must be"):
        usable_labels([{**GOOD, "label": "good"}], "mine")
    with pytest.raises(
        CourseError, match=r"'mine' has no column 'prompt' .*found the columns completion, lab"
    ):
        usable_labels([{"completion": "Yes.", "label": True}], "mine")
    assert usable_labels([], "mine") == ([], {})


def test_what_has_labels() -> None:
    assert has_labels([GOOD])
    assert not has_labels([])
    assert not has_labels([{"prompt": "a", "completion": "b"}])
    assert not has_labels([{**GOOD, "messages": []}])
