from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from public_schemas import SYSTEM, TALK, reply, user

from posttrain_helpers.data.forms import as_form, set_system_prompt, with_clean_texts, with_messages

NEW = {"role": "system", "content": "Be brief."}
ROWS = [
    {"messages": [user("a"), reply("b")]},
    {"messages": [SYSTEM, user("a"), reply("c")]},
    {"prompt": [user("a")], "answer": "7"},
    {"prompt": [SYSTEM, user("a")], "chosen": [reply("b")], "rejected": [reply("c")]},
    {"prompt": [user("a")], "completion": [reply("b")], "label": False},
]


def first(row: dict[str, Any]) -> list[dict[str, str]]:
    return row.get("messages") or row["prompt"]


def test_the_system_prompt_goes_first_and_replaces_a_rows_own() -> None:
    before = [str(row) for row in ROWS]
    changed = set_system_prompt(ROWS, " Be brief. ", Counter())
    assert [first(row)[:2] for row in changed] == [[NEW, user("a")]] * len(ROWS)
    assert [[message["role"] for message in first(row)].count("system") for row in changed] == [1] * len(ROWS)
    for row, other in zip(ROWS, changed, strict=True):
        assert {key: row[key] for key in row if key not in ("messages", "prompt")} == {
            key: other[key] for key in other if key not in ("messages", "prompt")
        }
    assert [str(row) for row in ROWS] == before


def test_no_system_prompt_and_an_empty_one() -> None:
    assert set_system_prompt(ROWS, None, Counter()) is ROWS
    for text in ("", "  "):
        assert all(first(row)[0]["role"] == "user" for row in set_system_prompt(ROWS, text, Counter()))


def test_rows_that_become_equal_are_dropped_and_counted() -> None:
    rows = [{"messages": [user("a"), reply("b")]}, {"messages": [SYSTEM, user("a"), reply("b")]}]
    dropped = Counter({"duplicate": 2})
    assert len(set_system_prompt(rows, "", dropped)) == 1
    assert dropped == {"duplicate": 3}
    labels = [
        {"prompt": [user("a")], "completion": [reply("b")], "label": True},
        {"prompt": [SYSTEM, user("a")], "completion": [reply("b")], "label": False},
    ]
    assert len(set_system_prompt(labels, "x", Counter())) == 2


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
        assert dropped == {"duplicate": 1}


def test_conversations_of_labels_keep_desirable_replies() -> None:
    rows = [ROWS[4], {**ROWS[4], "label": True}]
    assert as_form(rows, "labels", "conversations", dropped := Counter()) == [
        {"messages": [user("a"), reply("b")]}
    ]
    assert dropped == {"undesirable reply": 1}
    assert as_form(rows[1:], "labels", "conversations", dropped := Counter())
    assert not dropped


HALF = json.loads('"Hi \\ud83d"')


@pytest.mark.parametrize(
    "text",
    [
        *("What does <|im_end|> mean?", "x<|im_start|>assistant", "<|endoftext|>", "<|eot_id|>", "a </s> b"),
        *("[INST] now", "<<SYS>>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<own_end>."),
    ],
)
def test_a_text_with_a_control_token_is_dropped_wherever_it_stands(text: str) -> None:
    for row in ROWS:
        for part in row.keys() & {"messages", "prompt", "chosen", "rejected", "completion"}:
            changed = {**row, part: [*row[part][:-1], {**row[part][-1], "content": text}]}
            dropped = Counter({"duplicate": 1})
            assert with_clean_texts([row, changed], dropped, {"<own_end>"}) == [row]
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
    rows = [{"messages": [user(text), reply(text)]}, {"prompt": [user("a")], "answer": "<|im_end|>"}]
    assert with_clean_texts(rows, dropped) == rows
    assert not dropped


def test_half_a_character_is_dropped_wherever_it_stands() -> None:
    columns = [{"answer": HALF}, {"hints": [{"text": [HALF]}]}, {"hints": {HALF: 1}}]
    rows = [{"messages": [user("a"), reply(HALF)]}, *({"prompt": [user("a")], **more} for more in columns)]
    dropped: Counter[str] = Counter()
    assert with_clean_texts([*rows, *ROWS], dropped) == ROWS
    assert dropped == {"half a character in a text": len(rows)}
