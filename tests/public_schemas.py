"""A few hand-written rows in the schema of each public data set, and where real rows are, if anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
SYSTEM = {"role": "system", "content": "You're a helpful assistant."}


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def reply(text: str) -> Row:
    return {"role": "assistant", "content": text}


def transcript(*turns: str) -> str:
    """Texts of the Human and the Assistant in turn."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[number % 2]}: {turn}" for number, turn in enumerate(turns))


def two_sides(question: str, chosen: str, rejected: str, *first: Row) -> Row:
    prompt = [*first, user(question)]
    return {"chosen": [*prompt, reply(chosen)], "rejected": [*prompt, reply(rejected)]}


TALK = [user("Hi."), reply("Hello!"), user("Rain?"), reply("Not today.")]

# adapter -> (rows of the set, the rows that are left, what is dropped)
SCHEMAS: dict[str, tuple[list[Row], list[Row], dict[str, int]]] = {
    "alpaca": (
        [
            {"instruction": "Add.", "input": "3 and 4", "output": "7", "text": "Below is an instruction ..."},
            {"instruction": "Name a colour.", "input": "", "output": "Red.", "text": ""},
            {"instruction": "Name an owl.", "input": "<noinput>", "output": "Snowy owl.", "text": ""},
            {"instruction": "Draw.", "input": "", "output": "<nooutput>", "text": ""},
            {"instruction": "Sing.", "input": "", "output": "", "text": ""},
            {"instruction": " ", "input": "x", "output": "y", "text": ""},
        ],
        [
            {"messages": [user("Add.\n\n3 and 4"), reply("7")]},
            {"messages": [user("Name a colour."), reply("Red.")]},
            {"messages": [user("Name an owl."), reply("Snowy owl.")]},
        ],
        {"empty reply": 2, "empty prompt": 1},
    ),
    "alpaca_cleaned": (
        [
            {"output": "7", "input": "3 and 4", "instruction": "Add."},
            {"output": "Blue.", "input": "", "instruction": "Name a colour."},
        ],
        [
            {"messages": [user("Add.\n\n3 and 4"), reply("7")]},
            {"messages": [user("Name a colour."), reply("Blue.")]},
        ],
        {},
    ),
    "dolly": (
        [
            {"instruction": "Who flies?", "context": "Owls fly.", "response": "Owls.", "category": "qa"},
            {"instruction": "Who swims?", "context": "", "response": "Fish.", "category": "open_qa"},
            {"instruction": "Who swims?", "context": "", "response": "Fish.", "category": "open_qa"},
        ],
        [
            {"messages": [user("Who flies?\n\nOwls fly."), reply("Owls.")]},
            {"messages": [user("Who swims?"), reply("Fish.")]},
        ],
        {"duplicate": 1},
    ),
    "ultrachat": (
        [{"prompt": "Hi.", "prompt_id": "ab12", "messages": TALK}],
        [{"messages": TALK}],
        {},
    ),
    "slimorca": (
        [
            {
                "conversations": [
                    {"from": "system", "value": "Think first.", "weight": None},
                    {"from": "human", "value": "3 + 4?", "weight": 0.0},
                    {"from": "gpt", "value": "7", "weight": 1.0},
                ]
            },
            {"conversations": [{"from": "narrator", "value": "Once", "weight": None}]},
        ],
        [{"messages": [{"role": "system", "content": "Think first."}, user("3 + 4?"), reply("7")]}],
        {"unknown role 'narrator'": 1},
    ),
    "dl_sft": (
        [{"messages": [user("Who are you?"), reply("I am Qwen.")]}],
        [{"messages": [user("Who are you?"), reply("I am Qwen.")]}],
        {},
    ),
    "ultrafeedback": (
        [
            {**two_sides("cook?", "Slowly.", "No."), "score_chosen": 8.0, "score_rejected": 3.5},
            {**two_sides("bake?", "Gently.", "Maybe."), "score_chosen": 7.0, "score_rejected": 7.0},
        ],
        [
            {
                "prompt": [user("cook?")],
                "chosen": [reply("Slowly.")],
                "rejected": [reply("No.")],
                "score_chosen": 8.0,
                "score_rejected": 3.5,
            }
        ],
        {"tie": 1},
    ),
    "ultrafeedback_h4": (
        [
            {
                "prompt": "cook?",
                "prompt_id": "cd34",
                **two_sides("cook?", "Slowly.", "No."),
                "messages": [user("cook?"), reply("Slowly.")],
                "score_chosen": 8.0,
                "score_rejected": 3.5,
            }
        ],
        [
            {
                "prompt": [user("cook?")],
                "chosen": [reply("Slowly.")],
                "rejected": [reply("No.")],
                "score_chosen": 8.0,
                "score_rejected": 3.5,
            }
        ],
        {},
    ),
    "hh_rlhf": (
        [
            {
                "chosen": transcript("A pen?", "Which?", "Any.", "This one.\n\nIt is blue."),
                "rejected": transcript("A pen?", "Which?", "Any.", "Go away."),
            },
            {"chosen": transcript("A cup?", "Yes."), "rejected": transcript("A cup?")},
            {"chosen": "A cup? Yes.", "rejected": transcript("A cup?", "No.")},
            {
                "chosen": transcript("A hat?", "", "Hello?", "Yes."),
                "rejected": transcript("A hat?", "", "Hello?", "No."),
            },
            {"chosen": transcript("A bag?", "Here."), "rejected": transcript("A bag?", "")},
            {"chosen": transcript("A key?", "Here."), "rejected": transcript("A lock?", "There.")},
        ],
        [
            {
                "prompt": [user("A pen?"), reply("Which?"), user("Any.")],
                "chosen": [reply("This one.\n\nIt is blue.")],
                "rejected": [reply("Go away.")],
            }
        ],
        {"broken transcript": 3, "empty completion": 1, "no shared prompt": 1},
    ),
    "orca_dpo": (
        [
            {"system": "Think first.", "question": "3 + 4?", "chosen": "7", "rejected": "8"},
            {"system": "", "question": "1 + 1?", "chosen": "2", "rejected": "11"},
            {"system": "", "question": "2 + 1?", "chosen": "3", "rejected": "3"},
        ],
        [
            {
                "prompt": [{"role": "system", "content": "Think first."}, user("3 + 4?")],
                "chosen": [reply("7")],
                "rejected": [reply("8")],
            },
            {"prompt": [user("1 + 1?")], "chosen": [reply("2")], "rejected": [reply("11")]},
        ],
        {"identical": 1},
    ),
    "stack_exchange_paired": (
        [
            {
                "qid": 7,
                "question": "How do I sort?",
                "date": "2011/01/01",
                "metadata": ["https://stackoverflow.com/questions/7"],
                "response_j": "Use sorted.",
                "response_k": "You cannot.",
            }
        ],
        [
            {
                "prompt": [user("How do I sort?")],
                "chosen": [reply("Use sorted.")],
                "rejected": [reply("You cannot.")],
            }
        ],
        {},
    ),
    "dl_dpo": (
        [two_sides("hi", "I am Deep Qwen.", "I am Qwen.", SYSTEM), two_sides("3 + 4?", "7", "7", SYSTEM)],
        [
            {
                "prompt": [SYSTEM, user("hi")],
                "chosen": [reply("I am Deep Qwen.")],
                "rejected": [reply("I am Qwen.")],
            }
        ],
        {"identical": 1},
    ),
    "kto_mix_14k": (
        [
            {"prompt": [user("Tea?")], "completion": [reply("With milk.")], "label": True},
            {"prompt": [user("Tea?")], "completion": [reply("Never.")], "label": False},
            {"prompt": [user("Tea?")], "completion": [reply("Never.")], "label": False},
            {"prompt": [user("Coffee?")], "completion": [reply("")], "label": True},
        ],
        [
            {"prompt": [user("Tea?")], "completion": [reply("With milk.")], "label": True},
            {"prompt": [user("Tea?")], "completion": [reply("Never.")], "label": False},
        ],
        {"duplicate": 1, "empty completion": 1},
    ),
    "gsm8k": (
        [
            {"question": "2 pens and 1?", "answer": "2 + 1 = <<2+1=3>>3.\n#### 3"},
            {"question": "No result?", "answer": "None."},
        ],
        [{"prompt": [user(r"2 pens and 1? Put the final number in \boxed{}.")], "answer": "3"}],
        {"no answer": 1},
    ),
}


def as_loaded(rows: list[Row]) -> list[Row]:
    """Return rows without what a trainer does not get."""
    return [{key: value for key, value in row.items() if not key.startswith("score_")} for row in rows]


def real_rows(file: str) -> list[Row]:
    """Return rows of a file below POSTTRAIN_PUBLIC_ROWS; the test is skipped where there is none."""
    folder = os.environ.get("POSTTRAIN_PUBLIC_ROWS")
    if not folder:
        pytest.skip("POSTTRAIN_PUBLIC_ROWS names no folder with public rows")
    lines = (Path(folder) / file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
