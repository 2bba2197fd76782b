"""The JSON that an evaluation leaves behind: what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import (
    EvaluationRecord,
    SuiteRecord,
    read_record,
    read_records,
    record_path,
    write_record,
)


def suite(**changes: Any) -> SuiteRecord:
    values = {
        "name": "facts",
        "skill": "facts",
        "kind": "correctness",
        "measure": "correct",
        "ids": ("a", "b"),
        "prompts": ("What?", "Who?"),
        "replies": ("This.", ""),
        "stopped": (True, False),
        "tokens": (3, 8),
        "scores": {"correct": (True, None), "gold": (1.5, -1.0)},
    }
    return SuiteRecord(**{**values, **changes})


def record(**changes: Any) -> EvaluationRecord:
    values = {
        "label": "sft",
        "source": "sft",
        "identity": "0123",
        "parent": "base",
        "profile": "tiny",
        "settings": {"batch_size": 4},
        "suites": {"facts": suite()},
        "retention": {"losses": [12.5, 3.0], "tokens": [5, 2]},
        "divergence": {
            "reference": "sft",
            "reference_identity": "0123",
            "suite": "facts",
            "temperature": 1.0,
            "measure": "gold",
            "ids": ["a", "b"],
            "kl": [0.0, 0.25],
            "gold": [1.0, -2.0],
        },
        "seconds": 1.5,
        "peak_cpu_mb": 300.0,
        "device": "cpu",
        "versions": {"torch": "2"},
        "written": "2026-01-01T00:00:00+00:00",
    }
    return EvaluationRecord(**{**values, **changes})


def test_a_record_comes_back_as_it_was_written(output_root: Path) -> None:
    messages = ({"role": "user", "content": "What?"}, {"role": "assistant", "content": "Ünïcode."})
    written = record(suites={"facts": suite(transcripts=(messages, messages), relations=("capital", None))})
    path = write_record(written)
    assert path == output_root / "tiny" / "evaluation" / "sft.json" == record_path("sft", "tiny")
    assert read_record(path) == written
    assert read_records("tiny") == [written]
    assert "Ünïcode" in path.read_text(encoding="utf-8")
    assert written.suites["facts"].headline == (True, None)


def test_what_was_not_measured_is_none(output_root: Path) -> None:
    written = record(retention=None, divergence=None, parent=None, peak_cpu_mb=None)
    write_record(written)
    assert read_records("tiny") == [written]


def test_records_are_sorted_with_base_first_or_come_as_asked_for(output_root: Path) -> None:
    for label in ("alpha", "base", "Zeta-1.5"):
        write_record(record(label=label))
    assert [found.label for found in read_records("tiny")] == ["base", "Zeta-1.5", "alpha"]
    assert [found.label for found in read_records("tiny", ["alpha", "base"])] == ["alpha", "base"]


def test_without_records_the_list_is_empty(output_root: Path) -> None:
    assert read_records("tiny") == []


def test_an_unknown_label_is_named_with_the_nearest_one(output_root: Path) -> None:
    write_record(record())
    with pytest.raises(CourseError, match=r"no record of 'sfd'; did you mean 'sft'\?.*evaluate sfd"):
        read_records("tiny", ["sfd"])
    with pytest.raises(CourseError, match=r"write \['sft'\]"):
        read_records("tiny", "sft")


def test_a_broken_record_is_not_written_and_leaves_the_old_one(output_root: Path) -> None:
    path = write_record(record())
    before = path.read_bytes()
    for broken in (float("nan"), float("inf"), {1, 2}):
        with pytest.raises(CourseError, match="cannot be written as JSON"):
            write_record(record(settings={"x": broken}))
    with pytest.raises(CourseError, match="'seconds' in the record of 'sft' is -1"):
        write_record(record(seconds=-1))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["sft.json"]


@pytest.mark.parametrize("label", ["", "../sft", "a/b", ".hidden", "a b"])
def test_a_label_must_be_a_file_name(output_root: Path, label: str) -> None:
    with pytest.raises(CourseError, match="cannot label a model"):
        write_record(record(label=label))


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_file_that_is_no_json_is_named(output_root: Path, text: str) -> None:
    path = write_record(record())
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=r"sft\.json is damaged: it is not valid JSON"):
        read_records("tiny")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CourseError, match=r"sft\.json is damaged: it is not valid JSON"):
        read_records("tiny")


def test_a_file_of_another_label_or_profile_is_refused(output_root: Path) -> None:
    path = write_record(record())
    path.rename(path.with_name("dpo.json"))
    with pytest.raises(CourseError, match="holds the record of 'sft'"):
        read_records("tiny")
    other = write_record(record(label="dpo", profile="qwen3"))
    (output_root / "tiny" / "evaluation" / "dpo.json").write_bytes(other.read_bytes())
    with pytest.raises(CourseError, match="profile 'qwen3', not of 'tiny'"):
        read_records("tiny")


def _drop(key: str) -> Callable[[dict], Any]:
    return lambda content: content.pop(key)


def _set(key: str, value: Any) -> Callable[[dict], Any]:
    return lambda content: content.update({key: value})


def _in_suite(change: Callable[[dict], Any]) -> Callable[[dict], Any]:
    return lambda content: change(content["suites"]["facts"])


def _in(part: str, change: Callable[[dict], Any]) -> Callable[[dict], Any]:
    return lambda content: change(content[part])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("identity"), "lacks 'identity'"),
        (_drop("divergence"), "lacks 'divergence'"),
        (_set("label", ""), "'label' .* must be text"),
        (_set("device", 3), "'device' .* must be text"),
        (_set("parent", 3), "'parent' .* must be text or null"),
        (_set("settings", []), "'settings' .* must be a JSON object"),
        (_set("versions", None), "'versions' .* must be a JSON object"),
        (_set("seconds", "long"), "'seconds' .* at least 0"),
        (_set("seconds", True), "'seconds' .* at least 0"),
        (_set("peak_cpu_mb", -1), "'peak_cpu_mb' .* a number or null"),
        (_set("seconds", 10**400), "'seconds' .* at least 0"),
        (_set("written", None), "'written' .* must be text"),
        (_set("versions", {"torch": None}), "'versions' .* must be keys and values"),
        (_in("settings", _set("batch_size", [4])), "'batch_size' .* must be text or a finite number or null"),
        (_in("settings", _set("split", None)), "'split' .* must be text"),
        (_in("settings", _set("split", 1)), "'split' .* must be text"),
        (_in("settings", _set("suite_hashes", None)), "'suite_hashes' .* must be keys and values"),
        (_in("settings", _set("suite_hashes", {"facts": [1]})), "'suite_hashes' .* must be keys and values"),
        (_in_suite(_set("skill", None)), "'skill' .* must be text"),
        (_in_suite(_set("measure", ["correct"])), "'measure' .* must be text"),
        (_in_suite(_set("transcripts", [[], [3]])), "'transcripts' .* must be a list or null"),
        (_in_suite(_set("transcripts", [[], [{}]])), "'transcripts' .* must hold roles and contents"),
        (_in("divergence", _set("ids", [[], "b"])), "'ids' .* must be a list of texts"),
        (_in("retention", _set("losses", [10**400, 1.0])), "'losses' .* finite numbers"),
        (_set("suites", {}), "has no suite"),
        (_set("suites", {"facts": 3}), "the suite 'facts' .* is no JSON object"),
        (_in_suite(_drop("replies")), "the suite 'facts' .* lacks 'replies'"),
        (_in_suite(_set("name", "other")), "'name' .* must be the name of the suite"),
        (_in_suite(_set("kind", "taste")), "'kind' .* correctness or preference"),
        (_in_suite(_set("ids", "ab")), "'ids' .* must be a list"),
        (_in_suite(_set("ids", [])), "has no item"),
        (_in_suite(_set("ids", ["a", "a"])), "'ids' .* must all differ"),
        (_in_suite(_set("replies", ["one"])), "'replies' .* one value for each of the 2 items"),
        (_in_suite(_set("replies", ["one", 2])), "'replies' .* values of the type str"),
        (_in_suite(_set("stopped", [1, 0])), "'stopped' .* values of the type bool"),
        (_in_suite(_set("tokens", [1.5, 2])), "'tokens' .* values of the type int"),
        (_in_suite(_set("scores", [])), "'scores' .* must be a JSON object"),
        (_in_suite(_set("measure", "exact")), "'measure' .* one of the scores correct, gold"),
        (_in_suite(_in("scores", _set("gold", [1.0]))), "'gold' .* one value for each"),
        (_in_suite(_in("scores", _set("gold", "high"))), "'gold' .* must be a list"),
        (_in_suite(_in("scores", _set("gold", [1.0, "high"]))), "'gold' .* finite numbers"),
        (_in_suite(_set("transcripts", [[]])), "'transcripts' .* one value for each"),
        (_set("retention", 3), "'retention' .* JSON object or null"),
        (_in("retention", _drop("tokens")), "retention .* lacks 'tokens'"),
        (_in("retention", _set("losses", [])), "'losses' .* holds something"),
        (_in("retention", _set("losses", [-1.0, 2.0])), "'losses' .* at least 0"),
        (_in("retention", _set("tokens", [1])), "'tokens' .* as many values as 'losses'"),
        (_in("retention", _set("tokens", [0, 1])), "'tokens' .* at least 1"),
        (_set("divergence", 3), "'divergence' .* JSON object or null"),
        (_in("divergence", _drop("kl")), "divergence .* lacks 'kl'"),
        (_in("divergence", _set("kl", [-0.5, 1.0])), "'kl' .* at least 0"),
        (_in("divergence", _set("kl", [1.0])), "'kl' .* as many values as 'ids'"),
        (_in("divergence", _set("gold", [None, 1.0])), "'gold' .* finite numbers"),
        (_in("divergence", _set("reference", None)), "'reference' .* must be text"),
        (_in("divergence", _set("temperature", None)), "'temperature' .* at least 0"),
    ],
)
def test_each_breach_of_the_contract_is_one_sentence(
    output_root: Path, change: Callable[[dict], Any], message: str
) -> None:
    path = write_record(record())
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CourseError, match=message) as raised:
        read_record(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_may_hold_infinity_in_words_only(output_root: Path) -> None:
    path = write_record(record())
    text = path.read_text(encoding="utf-8").replace("12.5", "Infinity")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=r"'losses' .* finite numbers"):
        read_record(path)


def test_a_list_in_place_of_a_record_is_refused(output_root: Path) -> None:
    path = write_record(record())
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(CourseError, match="is no JSON object but a list"):
        read_record(path)


def test_a_record_can_be_taken_apart_and_put_together() -> None:
    first = record()
    content = first.to_dict()
    assert content == json.loads(json.dumps(content))
    assert EvaluationRecord.from_dict(content) == first
    assert replace(first, label="x") != first
