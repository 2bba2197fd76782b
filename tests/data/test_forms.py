from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from public_schemas import SYSTEM, TALK, reply, user

from posttrain_helpers.data.forms import (
    PARTS,
    as_form,
    held_out_item,
    set_system_prompt,
    with_clean_texts,
    with_messages,
)

NEW = {"role": "system", "content": "Be brief."}
ROWS = [
    {"messages": [user("a"), reply("b")]},
    {"messages": [SYSTEM, user("a"), reply("c")]},
    {"prompt": [user("a")], "answer": "7"},
    {"prompt": [SYSTEM, user("a")], "chosen": [reply("b")], "rejected": [reply("c")]},
    {"prompt": [user("a")], "completion": [reply("b")], "label": False},
    {"prompt": [user("a")], "chosen": "b", "messages": [user("c")]},
]
FORMS = ("conversations", "conversations", "prompts", "pairs", "labels", "prompts")


def first(row: dict[str, Any]) -> list[dict[str, str]]:
    return row.get("prompt") or row["messages"]


def set_in_each(text: str | None) -> list[dict[str, Any]]:
    return [set_system_prompt([row], form, text, Counter())[0] for row, form in zip(ROWS, FORMS, strict=True)]


def test_the_system_prompt_goes_first_and_replaces_a_rows_own() -> None:
    before = [str(row) for row in ROWS]
    changed = set_in_each(" Be brief. ")
    assert [first(row)[:2] for row in changed] == [[NEW, user("a")]] * len(ROWS)
    assert [[message["role"] for message in first(row)].count("system") for row in changed] == [1] * len(ROWS)
    for row, other in zip(ROWS, changed, strict=True):
        key = "prompt" if "prompt" in row else "messages"
        assert {**row, key: other[key]} == other
    assert [str(row) for row in ROWS] == before


def test_no_system_prompt_and_an_empty_one() -> None:
    assert set_system_prompt(ROWS[:2], "conversations", None, Counter()) == ROWS[:2]
    for text in ("", "  "):
        assert all(first(row)[0]["role"] == "user" for row in set_in_each(text))


def test_rows_that_become_equal_are_dropped_and_counted() -> None:
    rows = [{"messages": [user("a"), reply("b")]}, {"messages": [SYSTEM, user("a"), reply("b")]}]
    dropped = Counter({"duplicate": 2})
    assert len(set_system_prompt(rows, "conversations", "", dropped)) == 1
    assert dropped == {"duplicate": 3}
    labels = [
        {"prompt": [user("a")], "completion": [reply("b")], "label": True},
        {"prompt": [SYSTEM, user("a")], "completion": [reply("b")], "label": False},
    ]
    assert len(set_system_prompt(labels, "labels", "x", Counter())) == 2


def test_conversations_are_messages_where_no_row_has_these() -> None:
    talk = [user("a"), reply("b")]
    rows = [{"conversations": talk, "id": 1}, {"conversations": talk}]
    assert with_messages(rows) == [{"messages": talk, **row} for row in rows]
    for other in ({"messages": talk, "conversations": talk}, {"conversations": "a"}, {"id": 2}):
        mixed = [*rows, other]
        assert with_messages(mixed) is mixed


def test_prompts_of_conversations_end_with_the_last_question() -> None:
    rows = [
        {"messages": TALK},
        {"messages": [user("a"), reply("b")]},
        {"messages": [user("a"), reply("c")]},
        {"messages": [*TALK[:3]]},
        {"messages": [SYSTEM, reply("b")]},
    ]
    dropped: Counter[str] = Counter()
    prompts = as_form(rows, "conversations", "prompts", dropped)
    assert prompts == [{"prompt": TALK[:3]}, {"prompt": [user("a")]}]
    assert dropped == {"duplicate": 2, "empty prompt": 1}


def test_prompts_of_pairs_and_labels() -> None:
    for row, form in ((ROWS[3], "pairs"), (ROWS[4], "labels")):
        assert as_form([row, row], form, "prompts", dropped := Counter()) == [{"prompt": row["prompt"]}]
        assert dropped == Counter(duplicate=1)


def test_conversations_of_labels_keep_desirable_replies() -> None:
    rows = [ROWS[4], {**ROWS[4], "label": True}]
    assert as_form(rows, "labels", "conversations", dropped := Counter()) == [
        {"messages": [user("a"), reply("b")]}
    ]
    assert dropped == {"undesirable reply": 1}
    assert as_form(rows[1:], "labels", "conversations", dropped := Counter())
    assert dropped.total() == 0


HALF = json.loads('"Hi \\ud83d"')


@pytest.mark.parametrize(
    "text",
    [
        *("What does <|im_end|> mean?", "x<|im_start|>assistant", "<|endoftext|>", "<|eot_id|>", "a </s> b"),
        *("[INST] now", "<<SYS>>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<own_end>."),
    ],
)
def test_a_text_with_a_control_token_is_dropped_wherever_it_stands(text: str) -> None:
    for row, form in zip(ROWS, FORMS, strict=True):
        for part in PARTS[form]:
            changed = {**row, part: [*row[part][:-1], {**row[part][-1], "content": text}]}
            dropped = Counter({"duplicate": 1})
            assert with_clean_texts([row, changed], form, dropped, {"<own_end>"}) == [row]
            [reason] = dropped.keys() - {"duplicate"}
            assert reason.startswith("control token in a text, ")
            assert reason.removeprefix("control token in a text, ") in text
            assert dropped[reason] == 1


@pytest.mark.parametrize(
    "text",
    ["x <| f |> g", "a <b> c | d", "[instance]", "<own_end>", "<think>Hm.</think> 7", "1 < 2 || 3 > 2", "🍋"],
)
def test_harmless_texts_are_kept(text: str) -> None:
    dropped: Counter[str] = Counter()
    talk, problem = {"messages": [user(text), reply(text)]}, {"prompt": [user("a")], "answer": "<|im_end|>"}
    assert with_clean_texts([talk], "conversations", dropped) == [talk]
    assert with_clean_texts([problem], "prompts", dropped) == [problem]
    assert not dropped


def test_half_a_character_is_dropped_wherever_it_stands() -> None:
    columns = [{"answer": HALF}, {"hints": [{"text": [HALF]}]}, {"hints": {HALF: 1}}]
    talk = {"messages": [user("a"), reply(HALF)]}
    prompts = [{"prompt": [user("a")], **more} for more in columns]
    dropped: Counter[str] = Counter()
    assert with_clean_texts([talk, *ROWS[:2]], "conversations", dropped) == ROWS[:2]
    assert with_clean_texts([*prompts, ROWS[2]], "prompts", dropped) == [ROWS[2]]
    assert dropped == {"half a character in a text": 1 + len(prompts)}


def test_held_out_items() -> None:
    whole = {"answer": None, "id": "a/0"}
    talk, pair, labelled = ROWS[0], {**ROWS[3], "score_chosen": 8.0, "score_rejected": 3.5}, ROWS[4]
    item = {**whole, "task": "conversation", "prompt": [user("a")], "reference": "b"}
    assert held_out_item(talk, "conversations", "a/0") == item
    assert held_out_item({**labelled, "label": True}, "labels", "a/0") == item
    assert held_out_item(labelled, "labels", "a/0") == {**item, "reference": None}
    both = {**pair, **whole, "task": "preference", "reference": "b"}
    assert held_out_item(pair, "pairs", "a/0") == both
    assert held_out_item(ROWS[2], "prompts", "a/0") == {**ROWS[2], "id": "a/0", "task": "prompt"}
    sums = held_out_item({**ROWS[5], "task": "sums"}, "prompts", "a/0")
    assert sums == {**ROWS[5], **whole, "task": "sums"}
