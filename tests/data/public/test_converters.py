from __future__ import annotations

import math
from typing import Any

import pytest
from public_schemas import SYSTEM, reply, transcript, user

from posttrain_helpers.data.public.converters import (
    BROKEN,
    as_row,
    gsm8k_problem,
    normalized_messages,
    prompt_of,
    reply_of,
    split_transcript,
    transcript_pair,
)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (transcript("a?", "b"), [user("a?"), reply("b")]),
        (transcript("a?", "b").lstrip(), [user("a?"), reply("b")]),
        (transcript("a?", "b", "c?", "d\n\ne"), [user("a?"), reply("b"), user("c?"), reply("d\n\ne")]),
        (transcript("a?", ""), [user("a?"), reply("")]),
        ("\n\nHuman:a?\n\nAssistant:b", [user("a?"), reply("b")]),
        (transcript("My Human: is it?", "b"), [user("My Human: is it?"), reply("b")]),
        (transcript("a?"), None),
        (transcript("a?", "b", "c?"), None),
        (transcript("a?", "", "c?", "d"), None),
        (transcript("", "b"), None),
        ("\n\nAssistant: b", None),
        ("\n\nHuman: a?\n\nHuman: c?\n\nAssistant: b", None),
        ("\n\nHuman: a?\n\nAssistant: b\n\nAssistant: c", None),
        ("once" + transcript("a?", "b"), None),
        ("once upon a time", None),
        ("", None),
        (None, None),
        ([user("a?")], None),
    ],
)
def test_transcripts(text: Any, messages: Any) -> None:
    assert split_transcript(text) == messages


def test_one_broken_side_drops_the_pair() -> None:
    good = transcript("a?", "b")
    assert transcript_pair({"chosen": good, "rejected": transcript("a?")}) == BROKEN
    assert transcript_pair({"chosen": None, "rejected": good}) == BROKEN
    assert transcript_pair({"chosen": good, "rejected": good})["chosen"] == [user("a?"), reply("b")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], [user("a"), reply("b")]),
        ([{"role": "user", "content": "a", "weight": 1}], [{**user("a"), "weight": 1}]),
        ([{"from": " Human", "value": "a"}, {"from": "AI", "value": "b"}], [user("a"), reply("b")]),
        ([{"role": "Developer", "content": "a"}], [{"role": "system", "content": "a"}]),
        ([{**user("a"), "from": None, "value": None}], [user("a")]),
        ([{"role": None, "content": None, "from": "gpt", "value": "b"}], [reply("b")]),
        ([{"from": "narrator", "value": "a"}], [{"role": "narrator", "content": "a"}]),
        ([{"role": "user", "content": [{"type": "text", "text": t} for t in ("a ", "b")]}], [user("a b")]),
        ([{"text": "a"}], [{"text": "a", "role": None, "content": None}]),
        ([{"from": ["human"], "value": "a"}], [{"role": ["human"], "content": "a"}]),
        ("a", "a"),
        (None, None),
        (["a"], ["a"]),
    ],
)
def test_messages(value: Any, expected: Any) -> None:
    assert normalized_messages(value) == expected


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": "a"}, [user("a")]),
        (
            {"prompt": " a ", "context": "b", "system": "s"},
            [{"role": "system", "content": "s"}, user("a\n\nb")],
        ),
        ({"prompt": "a", "context": "No input", "system": None}, [user("a")]),
        ({"prompt": "No input"}, [user("No input")]),
        ({"prompt": 12}, [user("12")]),
        ({"prompt": [user("a")], "system": "s"}, [{"role": "system", "content": "s"}, user("a")]),
        ({"prompt": [SYSTEM, user("a")], "system": "s"}, [SYSTEM, user("a")]),
        ({"prompt": [], "system": ""}, []),
        ({"prompt": ["a"]}, ["a"]),
        ({"prompt": user("a")}, [user("a")]),
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": None, "context": "b"}, "empty prompt"),
        ({"prompt": math.nan}, "empty prompt"),
    ],
)
def test_prompts(fields: dict[str, Any], prompt: Any) -> None:
    assert prompt_of(fields) == prompt


def test_replies() -> None:
    assert reply_of(" yes ") == [reply("yes")]
    assert reply_of(7) == [reply("7")]
    assert reply_of(None) == reply_of(math.nan) == reply_of("<nooutput>") == [reply("")]
    assert reply_of([{"from": "gpt", "value": "yes"}]) == [reply("yes")]
    assert reply_of({"from": "gpt", "value": "yes"}) == [reply("yes")]


def test_a_row_without_a_prompt_has_a_fault_in_every_form() -> None:
    fields = {"prompt": "", "reply": "a", "chosen": "a", "rejected": "b", "completion": "a", "label": True}
    for parts in (("reply",), ("chosen", "rejected"), ("completion", "label"), ()):
        assert as_row({key: fields[key] for key in ("prompt", *parts)}) == "empty prompt"
    assert as_row({"prompt": [], "reply": "a"}) == "empty prompt"


def test_pairs_keep_their_scores_and_a_prompt_apart() -> None:
    sides = {"chosen": [user("a"), reply("b")], "rejected": [user("a"), reply("c")]}
    assert as_row({**sides, "score_chosen": 2.0}) == {**sides, "score_chosen": 2.0}
    assert as_row({"prompt": "a", "chosen": "b", "rejected": "c"}) == {
        "prompt": [user("a")],
        "chosen": [reply("b")],
        "rejected": [reply("c")],
    }
    scores = {"score_chosen": 2.0, "score_rejected": 1.0}
    assert as_row({"prompt": "a", "chosen": "b", "rejected": "c", **scores}).items() >= scores.items()


@pytest.mark.parametrize(
    ("question", "solution", "expected"),
    [
        (
            "How many?",
            "2 + 1 = <<2+1=3>>3 pens.\n#### 1,003",
            {"prompt": [user(r"How many? Put the final number in \boxed{}.")], "answer": "1003"},
        ),
        ("no mark?", "3", "no answer"),
        ("nothing?", None, "no answer"),
        ("", "#### 3", "empty prompt"),
        (None, "#### 3", "empty prompt"),
    ],
)
def test_a_problem_of_gsm8k(question: Any, solution: Any, expected: Any) -> None:
    assert gsm8k_problem({"prompt": question, "answer": solution}) == expected


def test_problems_and_labels() -> None:
    assert as_row({"prompt": "a", "answer": 7}) == {"prompt": [user("a")], "answer": 7}
    assert as_row({"prompt": "a"}) == {"prompt": [user("a")]}
    assert as_row({"prompt": "a", "completion": "b", "label": 1}) == {
        "prompt": [user("a")],
        "completion": [reply("b")],
        "label": 1,
    }


@pytest.mark.parametrize(
    ("cell", "label"),
    [("True", True), ("false ", False), ("1", True), ("0.0", False), ("yes", "yes"), (0, 0), (None, None)],
)
def test_a_label_of_a_table_is_a_text(cell: Any, label: Any) -> None:
    found = as_row({"prompt": "a", "completion": "b", "label": cell})["label"]
    assert found == label
    assert type(found) is type(label)
