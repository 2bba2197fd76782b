from __future__ import annotations

import re
from typing import Any

import pytest
from public_schemas import SCHEMAS, reply, transcript, two_sides, user

from posttrain_helpers.data.public.adapters import advice, convert, find_adapter, mapping_adapter, serves
from posttrain_helpers.data.public.catalog import ADAPTERS
from posttrain_helpers.errors import CourseError


def test_a_hub_id_in_any_case_finds_its_adapter() -> None:
    for adapter in ADAPTERS.values():
        assert find_adapter(adapter.hub_id, {}) is find_adapter(adapter.hub_id.upper(), {}) is adapter
    assert find_adapter("someone/rows", {}) is None
    assert find_adapter("alpaca.jsonl", {}) is None


def test_an_answer_format_reads_problems() -> None:
    for source in ("mine.jsonl", "openai/gsm8k"):
        assert find_adapter(source, {"answer_format": "gsm8k", "adapter": None}) is ADAPTERS["gsm8k"]


def test_the_named_adapter_goes_before_the_hub_id() -> None:
    assert find_adapter("tatsu-lab/alpaca", {"adapter": "dolly"}) is ADAPTERS["dolly"]
    assert find_adapter("tatsu-lab/alpaca", {"columns": {"prompt": "text"}}).kind == "prompts"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"adapter": "alpacca"},
            r"data\.adapter 'alpacca' does not exist; did you mean 'alpaca'\? The adapters",
        ),
        ({"adapter": "alpaca", "columns": {"prompt": "a"}}, "both say how to read the columns; keep one"),
        (
            {"answer_format": "gsm8k", "columns": {"prompt": "a"}},
            "both say how to read the columns; keep one",
        ),
        ({"adapter": "gsm8k", "answer_format": "gsm8k"}, "both say how to read the columns; keep one"),
        ({"columns": {"prompt": "q", "replay": "a"}}, "field 'replay' does not exist; did you mean 'reply'"),
        (
            {"columns": {"reply": "a"}},
            "has the fields reply, which make no row; set messages or prompt.reply",
        ),
        ({"columns": {"prompt": "q", "chosen": "a"}}, "prompt, chosen, which make no row"),
        ({"columns": {"messages": "q", "system": "a"}}, "messages, system, which make no row"),
        ({"columns": {"prompt": "q", "reply": "a", "label": "b"}}, "prompt, reply, label, which make no row"),
    ],
)
def test_mistakes_in_the_data_section(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        find_adapter("mine.jsonl", data)


@pytest.mark.parametrize(
    ("columns", "row", "kind", "converted"),
    [
        (
            {"prompt": "q", "reply": "a"},
            {"q": "Why?", "a": "So.", "more": 1},
            "conversations",
            {"messages": [user("Why?"), reply("So.")]},
        ),
        (
            {"prompt": "q", "reply": "a", "system": "s", "context": "c"},
            {"q": "Why?", "a": "So.", "s": "Be brief.", "c": "It rains."},
            "conversations",
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    user("Why?\n\nIt rains."),
                    reply("So."),
                ]
            },
        ),
        (
            {"messages": "chat"},
            {"chat": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
            "conversations",
            {"messages": [user("Why?"), reply("So.")]},
        ),
        (
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            {"q": "Why?", "good": "So.", "bad": "No."},
            "pairs",
            {"prompt": [user("Why?")], "chosen": [reply("So.")], "rejected": [reply("No.")]},
        ),
        (
            {"prompt": "q", "completion": "a", "label": "liked"},
            {"q": [user("Why?")], "a": "So.", "liked": False},
            "labels",
            {"prompt": [user("Why?")], "completion": [reply("So.")], "label": False},
        ),
        (
            {"prompt": "q", "answer": "a"},
            {"q": "Why?", "a": "7", "level": 3, "context": "not meant", "prompt": "old"},
            "prompts",
            {"prompt": [user("Why?")], "answer": "7", "level": 3, "context": "not meant"},
        ),
    ],
    ids=["texts", "system and context", "messages", "pairs", "labels", "prompts"],
)
def test_columns_of_any_name(columns: dict, row: dict, kind: str, converted: dict) -> None:
    adapter = mapping_adapter(columns)
    assert adapter.kind == kind
    assert convert(adapter, [row], "mine") == ([converted], {})


def test_a_column_that_no_row_has() -> None:
    rows = [{"q": "Why?", "a": "So."}]
    with pytest.raises(
        CourseError, match=r"'mine' has no column 'replies' .*data\.columns names; found the col"
    ):
        convert(mapping_adapter({"prompt": "q", "reply": "replies"}), rows, "mine")
    with pytest.raises(CourseError, match="no column 'sytem'"):
        convert(mapping_adapter({"prompt": "q", "reply": "a", "system": "sytem"}), rows, "mine")
    both = [*rows, {"q": "Who?", "a": "I.", "s": "Be brief."}]
    kept, _ = convert(mapping_adapter({"prompt": "q", "reply": "a", "system": "s"}), both, "mine")
    assert [len(row["messages"]) for row in kept] == [2, 3]


def test_rows_without_the_columns_of_their_adapter() -> None:
    rows = [{"instruction": "a", "context": "", "response": "b", "category": "c"}]
    with pytest.raises(
        CourseError,
        match=r"'mine' has no column 'output' in every row, which the adapter 'alpaca' names; found the "
        r"columns instruction, context, response, category\. Its columns are those of the adapter 'dolly'",
    ):
        convert(ADAPTERS["alpaca"], rows, "mine")
    # What some copies of a set do without is no mistake.
    assert convert(ADAPTERS["dolly"], [{"instruction": "a", "response": "b"}], "mine")[0] == [
        {"messages": [user("a"), reply("b")]}
    ]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_columns_of_a_set_name_an_adapter_that_reads_them(name: str) -> None:
    kind = ADAPTERS[name].kind
    row = SCHEMAS[name][0][0]
    said = advice(row, kind)
    [suggested] = [other for other in ADAPTERS if f"'{other}'" in said]
    assert said.startswith("Its columns are those of the adapter")
    assert convert(ADAPTERS[suggested], [row], "x") == convert(ADAPTERS[name], [row], "x")


@pytest.mark.parametrize(
    ("row", "needed", "sentence"),
    [
        (
            {"text": "a"},
            "conversations",
            r"^Map the columns with data\.columns=\{prompt: <column>, reply: <col",
        ),
        (
            {"instruction": "a", "context": "", "answer": "b"},
            "conversations",
            r"^Map the columns with data\.columns=",
        ),
        (
            {"question": "a", "good": "b", "bad": "c"},
            "pairs",
            r"^Map the columns with data\.columns=",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs", "chosen: <column>, rejected: <column>}"),
        (
            {"chosen": transcript("a", "b"), "rejected": ""},
            "pairs",
            "adapter 'hh_rlhf': set data.adapter to it",
        ),
        (two_sides("a", "b", "c"), "labels", r"those of the adapter 'ultrafeedback'|'dl_dpo'"),
        ({"question": "a", "answer": "b"}, "prompts", "those of the adapter 'gsm8k'"),
    ],
)
def test_advice_for_other_columns(row: dict[str, Any], needed: str, sentence: str) -> None:
    assert re.search(sentence, advice(row, needed))


def test_texts_in_three_columns_are_no_transcripts() -> None:
    assert "Its columns" not in advice({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs")


def test_which_rows_serve_which_method() -> None:
    assert serves("pairs", "labels")
    assert serves("labels", "conversations")
    assert serves("conversations", "prompts")
    assert not serves("conversations", "pairs")
    assert not serves("labels", "pairs")
    assert not serves("prompts", "conversations")
