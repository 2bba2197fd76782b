"""A file of questions as a suite: what its rows become, and which rows are refused."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites.loading import load_suites


def _file(directory: Path, rows: list[Any], name: str = "my questions.jsonl") -> Path:
    path = directory / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_file_of_rows_is_a_suite(tmp_path: Path) -> None:
    rows = [
        {"prompt": "What is 1 + 1?", "answer": 2, "id": "sum"},
        {"prompt": [{"role": "user", "content": "Who?", "extra": 1}], "answer": "Ann", "accepted": ["Ann."]},
    ]
    (suite,) = load_suites(str(_file(tmp_path, rows)), "tiny")
    assert (suite.name, suite.measure, list(suite.scores)) == (
        "my_questions",
        "correct",
        ["correct", "exact"],
    )
    assert [item["id"] for item in suite.items] == ["sum", "my_questions/1"]
    assert [item["prompt"] for item in suite.items] == [
        [{"role": "user", "content": "What is 1 + 1?"}],
        [{"role": "user", "content": "Who?"}],
    ]
    assert suite.scores["correct"]("It is 2.", suite.items[0]) is True
    assert suite.scores["exact"]("It is 2.", suite.items[0]) is None


def test_rows_keep_their_task_and_replies_the_length_of_the_profile(tmp_path: Path) -> None:
    path = str(_file(tmp_path, [{**GOOD, "task": "riddles"}, GOOD]))
    for profile, limit in (("tiny", 72), ("qwen3", 256)):
        (suite,) = load_suites(path, profile)
        assert [item["task"] for item in suite.items] == ["riddles", "own"]
        assert suite.max_new_tokens == limit


def test_the_measure_is_what_most_rows_have(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Say hi.", "constraints": [{"kind": "lowercase"}]},
        {"prompt": "Say ho.", "constraints": [{"kind": "one_word"}], "answer": "ho"},
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    (suite,) = load_suites([str(path)], "qwen3")
    assert (suite.measure, set(suite.scores)) == ("obeyed", {"obeyed", "correct"})
    assert suite.scores["obeyed"]("hi there", suite.items[0]) is True
    assert suite.scores["obeyed"]("Hi", suite.items[0]) is False


GOOD = {"prompt": "x", "answer": "y"}
HALF = json.loads('"Hi \\ud83d"')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "y"}, "the prompt in row 1 .* is None"),
        ({"prompt": "", "answer": "y"}, "the prompt in row 1 .* is ''"),
        ({"prompt": [], "answer": "y"}, "the prompt in row 1"),
        ({"prompt": [{"role": "user"}], "answer": "y"}, "the prompt in row 1"),
        ({"prompt": [{"role": "assistant", "content": "z"}], "answer": "y"}, "end with the user's"),
        ({"prompt": [{"role": "narrator", "content": "z"}], "answer": "y"}, r"\(unknown role 'narrator'\)"),
        ({"prompt": HALF, "answer": "y"}, r"row 1 .* holds half a character .* in 'Hi \\ud83d'"),
        ({"prompt": "x", "answer": HALF}, "row 1 .* holds half a character"),
        ({"prompt": "x", "accepted": ["y", HALF]}, "row 1 .* holds half a character"),
        ({"prompt": "x"}, "nothing to score its reply by; .*found the keys prompt"),
        ({"prompt": "x", "answer": "", "accepted": [], "constraints": []}, "nothing to score"),
        ({"prompt": "x", "answer": ["y"]}, r"row 1 .*: answer must be text or a number .* but it is \['y'\]"),
        ({"prompt": "x", "accepted": "y"}, "row 1 .*: accepted must be a list or null, but it is 'y'"),
        ({"prompt": "x", "answer": "  "}, "nothing to score"),
        ({"prompt": "x", "accepted": ["y", " "]}, r"row 1 .*: accepted\[1\] must be text that is not empty"),
        ({**GOOD, "follow_ups": ["  "]}, r"row 1 .*: follow_ups\[0\] must be text that is not empty"),
        ({"prompt": "x", "accepted": [1]}, r"row 1 .*: accepted\[0\] must be text, but it is 1"),
        ({**GOOD, "follow_ups": "and?"}, "row 1 .*: follow_ups must be a list or null, but it is 'and\\?'"),
        ({"prompt": "x", "constraints": [{"kind": "lowercas"}]}, "row 1 .*lowercase"),
    ],
)
def test_a_row_that_cannot_be_asked_or_scored_is_named(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(CourseError, match=message) as raised:
        load_suites(str(_file(tmp_path, [GOOD, row])), "tiny")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_empty_or_no_json_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    with pytest.raises(CourseError, match=rf"{re.escape(repr(str(missing)))} does not exist"):
        load_suites(str(missing), "tiny")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CourseError, match=r"\.jsonl' is a directory; name a file of questions"):
        load_suites(str(tmp_path / "folder.jsonl"), "tiny")
    with pytest.raises(CourseError, match="has no rows"):
        load_suites(str(_file(tmp_path, [])), "tiny")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x", "answer": "y"}\n{', encoding="utf-8")
    with pytest.raises(CourseError, match=r"not valid JSONL: .* line 2"):
        load_suites(str(tmp_path / "broken.jsonl"), "tiny")
    with pytest.raises(CourseError, match="2 items with the id 'a'"):
        load_suites(str(_file(tmp_path, [{**GOOD, "id": "a"}] * 2)), "tiny")


def test_the_name_of_a_file_may_be_of_any_script_but_not_that_of_another_suite(tmp_path: Path) -> None:
    files = [str(_file(tmp_path, [GOOD], name)) for name in ("вопросы.jsonl", "问题 2.jsonl")]
    assert [suite.name for suite in load_suites(files, "tiny")] == ["вопросы", "问题_2"]
    with pytest.raises(CourseError, match=r"the name of the course's suite 'entities'; rename the file"):
        load_suites(str(_file(tmp_path, [GOOD], "entities.jsonl")), "tiny")


def test_what_is_empty_counts_as_absent(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": None}, {"prompt": "x", "answer": " ", "accepted": ["Y."], "id": ""}]
    (suite,) = load_suites(str(_file(tmp_path, rows, "own.jsonl")), "tiny")
    assert [item["id"] for item in suite.items] == ["own/0", "own/1"]
    assert [suite.scores["correct"]("y", item) for item in suite.items] == [True, None]


def test_a_suite_may_be_a_file_of_any_kind(tmp_path: Path) -> None:
    table = tmp_path / "Codes.CSV"
    table.write_text("prompt;answer\nArea code?;0042\n", encoding="utf-16")
    lines = tmp_path / "codes.ndjson.gz"
    lines.write_bytes(gzip.compress(json.dumps({"prompt": "Area code?", "answer": "0042"}).encode()))
    for suite in load_suites([str(table), str(lines)], "tiny"):
        assert [(item["prompt"][0]["content"], item["answer"]) for item in suite.items] == [
            ("Area code?", "0042")
        ]
    with pytest.raises(CourseError, match=r"codes\.xlsx' does not exist"):
        load_suites(str(tmp_path / "codes.xlsx"), "tiny")


def test_answers_of_several_kinds_and_any_size(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2+3=", "answer": 5},
        {"prompt": "A vowel?", "answer": "a"},
        {"prompt": "?", "answer": 10**30},
    ]
    (suite,) = load_suites(str(_file(tmp_path, rows)), "tiny")
    assert [
        suite.scores["correct"](f"It is {row['answer']}.", item)
        for row, item in zip(rows, suite.items, strict=True)
    ] == [True] * 3
