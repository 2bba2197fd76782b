"""Whether content fits a type, and the one sentence that says what does not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field, model_validator

from posttrain_helpers.environment.schemas import checked, plain, read_checked, write_checked
from posttrain_helpers.errors import CourseError


class Pace(Enum):
    SLOW = "slow"
    NO = "no"


@dataclass(frozen=True)
class Run:
    pace: Pace | None
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]


@dataclass(frozen=True)
class Race:
    name: Annotated[str, Field(min_length=1)]
    runs: dict[str, Run]
    notes: dict[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check_winner(self) -> Race:
        if "winner" not in self.runs:
            raise ValueError("there is no winner.")
        return self


RACE = {"name": "first", "runs": {"winner": {"pace": "slow", "shares": [0.5, 1]}}}


def changed(**run: Any) -> dict[str, Any]:
    return {**RACE, "runs": {"winner": {**RACE["runs"]["winner"], **run}}}


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        (int, 1, 1),
        (float, 1, 1.0),
        (bool, True, True),
        (str | None, None, None),
        (list[int], [], []),
        (tuple[float, float], [1.0, 2], (1.0, 2.0)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict, {}, {}),
        (Pace, "slow", Pace.SLOW),
        (Literal["none", "all"], "all", "all"),
        (Any, {"a": [None]}, {"a": [None]}),
        (float, np.float32(0.5), 0.5),
        (int, np.int64(7), 7),
        (Race, RACE, Race("first", {"winner": Run(Pace.SLOW, (0.5, 1.0))})),
    ],
)
def test_what_fits(kind: Any, content: object, value: object) -> None:
    found = checked(kind, content, "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        (int, True, "key must be a whole number, but it is True."),
        (int, 1.0, "key must be a whole number, but it is 1.0."),
        (int, "x" * 200, f"key must be a whole number, but it is '{'x' * 79} …."),
        (bool, 1, "key must be true or false, but it is 1."),
        (float, "1", "key must be a number, but it is '1'."),
        (float, float("nan"), "key must be a finite number, but it is nan."),
        (float, float("-inf"), "key must be a finite number, but it is -inf."),
        (float, 10**400, f"key must be a finite number, but it is 1{'0' * 79} …."),
        (str, 1, "key must be text, but it is 1."),
        (str, None, "key must be text, but it is None."),
        (str | None, 1, "key must be text or null, but it is 1."),
        (str | list[str], 7, "key must be text or a list, but it is 7."),
        (str | list[str], [7], "key[0] must be text, but it is 7."),
        (list[int], [1, "2"], "key[1] must be a whole number, but it is '2'."),
        (dict[str, int], {"a": None}, "key.a must be a whole number, but it is None."),
        (dict, [], "key must be keys and values, but it is []."),
        (Pace, "slo", "key must be 'slow' or 'no', but it is 'slo'; did you mean 'slow'?"),
        (
            Pace,
            False,
            "key must be 'slow' or 'no', but it is False; YAML reads a bare no as false: write '\"no\"'.",
        ),
        (Literal["none", "all"], "some", "key must be 'none' or 'all', but it is 'some'."),
        (Annotated[int | None, Field(ge=1)], 0, "key must be at least 1 or null, but it is 0."),
        (Annotated[str, Field(pattern="^a+$")], "b", "key must be text of the form ^a+$, but it is 'b'."),
        (Annotated[float, Field(gt=0)], 0, "key must be above 0, but it is 0."),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_wanted(kind: Any, content: object, problem: str) -> None:
    with pytest.raises(CourseError) as raised:
        checked(kind, content, "here", "key")
    assert str(raised.value) == f"here: {problem}"


def test_an_object_of_a_library_fits_no_content() -> None:
    with pytest.raises(CourseError, match=r"key must be an object of Python or null, but it is \{\}"):
        checked(Exception | None, {}, "here", "key")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({**RACE, "name": ""}, "name must be text that is not empty, but it is ''"),
        ({**RACE, "nmae": "x"}, "nmae is an unknown field"),
        ({"runs": {}}, "name is missing"),
        ({**RACE, "runs": {"winner": {"pace": None}}}, "runs.winner.shares is missing"),
        ({**RACE, "runs": {"winner": 3}}, "runs.winner must be keys and values, but it is 3"),
        ({**RACE, "runs": {}}, "there is no winner"),
        (changed(shares=[0.5, 1.5]), "runs.winner.shares[1] must be at most 1, but it is 1.5"),
        (changed(speed=1), "runs.winner.speed is an unknown field"),
        (3, "must be keys and values, but it is 3"),
    ],
)
def test_a_fault_within_is_named_with_its_place_and_the_remedy(content: object, problem: str) -> None:
    with pytest.raises(CourseError) as raised:
        checked(Race, content, "the race", remedy="run again")
    assert str(raised.value) == f"the race: {problem}; run again."


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CourseError, match=r"here cannot be written as JSON \(object is no type of JSON\)"):
        checked(Any, {"a": object()}, "here")
    assert plain({"a": (np.float32(0.5), np.int64(2))}, "here") == {"a": [0.5, 2]}
    for value in (float("nan"), float("inf"), {1, 2}, np.zeros(2)):
        with pytest.raises(CourseError, match="here cannot be written as JSON"):
            plain({"a": value}, "here")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("Hi \ud83d", "hex escape"), (json.loads("[" * 500 + "]" * 500), "recursion limit")],
)
def test_half_a_character_and_endless_brackets_are_one_sentence(content: object, problem: str) -> None:
    with pytest.raises(CourseError, match=rf"^here: key cannot be read \(.*{problem}[^\n]*$"):
        checked(Any, content, "here", "key")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    race = Race("Ünïcode", {"winner": Run(None, (0.1, 5e-324))}, {"a": [None, {"b": 2}]})
    path = write_checked(tmp_path / "race.json", race, "the race")
    assert read_checked(Race, path, "run again") == race
    assert "Ünïcode" in path.read_text(encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(CourseError, match=r"^the race: name must be text that is not empty"):
        write_checked(path, Race("", race.runs), "the race")
    assert path.read_bytes() == before
    path.write_text('{"name": 3, "runs": {}}', encoding="utf-8")
    with pytest.raises(CourseError, match=r"race\.json: name must be text, but it is 3; run again\.$"):
        read_checked(Race, path, "run again")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CourseError, match=r"race\.json is damaged: .*; run again\.$"):
        read_checked(Race, path, "run again")
