"""The JSON that an evaluation leaves behind: what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import (
    COMMON_SETTINGS,
    EvaluationRecord,
    SuiteRecord,
    read_record,
    read_records,
    record_on_disk,
    record_path,
    with_older,
    write_record,
)
from posttrain_helpers.evaluation.suites.suite import Suite


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


def test_records_are_sorted_with_base_first(output_root: Path) -> None:
    for label in ("alpha", "base", "Zeta-1.5"):
        write_record(record(label=label))
    assert [found.label for found in read_records("tiny")] == ["base", "Zeta-1.5", "alpha"]


def test_without_records_the_list_is_empty(output_root: Path) -> None:
    assert read_records("tiny") == []


def test_a_broken_record_is_not_written_and_leaves_the_old_one(output_root: Path) -> None:
    path = write_record(record())
    before = path.read_bytes()
    for broken in (float("nan"), float("inf")):
        with pytest.raises(
            CourseError, match=r"record of 'sft': settings\.temperature must be a finite number"
        ):
            write_record(record(settings={"temperature": broken}))
    with pytest.raises(CourseError, match="record of 'sft' cannot be written as JSON"):
        write_record(record(settings={"files": {1, 2}}))
    with pytest.raises(CourseError, match="record of 'sft': seconds must be at least 0, but it is -1"):
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
        (_drop("identity"), "identity is missing"),
        (_drop("divergence"), "divergence is missing"),
        (_set("label", ""), "label must be text that is not empty"),
        (_set("device", 3), "device must be text"),
        (_set("parent", 3), "parent must be text"),
        (_set("settings", []), "settings must be keys and values"),
        (_set("versions", None), "versions must be keys and values"),
        (_set("seconds", "long"), "seconds must be a number"),
        (_set("seconds", True), "seconds must be a number"),
        (_set("seconds", -1), "seconds must be at least 0"),
        (_set("peak_cpu_mb", -1), "peak_cpu_mb must be at least 0"),
        (_set("seconds", 10**400), "seconds must be a finite number"),
        (_set("written", None), "written must be text"),
        (_set("versions", {"torch": None}), r"versions\.torch must be text"),
        (_in("settings", _set("batch_size", [4])), r"settings\.batch_size must be a whole number"),
        (_in("settings", _set("split", None)), r"settings\.split must be text"),
        (_in("settings", _set("split", 1)), r"settings\.split must be text"),
        (_in("settings", _set("suite_hashes", None)), r"settings\.suite_hashes must be keys and values"),
        (
            _in("settings", _set("suite_hashes", {"facts": [1]})),
            r"settings\.suite_hashes\.facts must be text",
        ),
        (_in_suite(_set("skill", None)), r"suites\.facts\.skill must be text"),
        (_in_suite(_set("measure", ["correct"])), r"suites\.facts\.measure must be text"),
        (
            _in_suite(_set("transcripts", [[], [3]])),
            r"suites\.facts\.transcripts\[1\]\[0\] must be keys and values",
        ),
        (
            _in_suite(_set("transcripts", [[], [{}]])),
            r"suites\.facts\.transcripts\[1\]\[0\]\.role is missing",
        ),
        (_in("divergence", _set("ids", [[], "b"])), r"divergence\.ids\[0\] must be text"),
        (_in("retention", _set("losses", [10**400, 1.0])), r"retention\.losses\[0\] must be a finite number"),
        (_set("suites", {}), "suites must be something that is not empty"),
        (_set("suites", {"facts": 3}), r"suites\.facts must be keys and values"),
        (_in_suite(_drop("replies")), r"suites\.facts\.replies is missing"),
        (_in_suite(_set("kind", "taste")), r"suites\.facts\.kind must be 'correctness' or 'preference'"),
        (_in_suite(_set("ids", "ab")), r"suites\.facts\.ids must be a list"),
        (_in_suite(_set("ids", [])), r"suites\.facts\.ids must be something that is not empty"),
        (_in_suite(_set("ids", ["a", "a"])), r"suites\.facts: the ids of its items must all differ"),
        (_in_suite(_set("replies", ["one"])), r"suites\.facts: 'replies' has 1 values, but 'ids' has 2"),
        (_in_suite(_set("replies", ["one", 2])), r"suites\.facts\.replies\[1\] must be text"),
        (_in_suite(_set("stopped", [1, 0])), r"suites\.facts\.stopped\[0\] must be true or false"),
        (_in_suite(_set("tokens", [1.5, 2])), r"suites\.facts\.tokens\[0\] must be a whole number"),
        (_in_suite(_set("scores", [])), r"suites\.facts\.scores must be keys and values"),
        (
            _in_suite(_set("measure", "exact")),
            r"suites\.facts: its measure 'exact' is none of its scores correct, gold",
        ),
        (
            _in_suite(_in("scores", _set("gold", [1.0]))),
            r"suites\.facts: 'gold' has 1 values, but 'ids' has 2",
        ),
        (_in_suite(_in("scores", _set("gold", "high"))), r"suites\.facts\.scores\.gold must be a list"),
        (
            _in_suite(_in("scores", _set("gold", [1.0, "high"]))),
            r"scores\.gold\[1\] must be true or false or a number",
        ),
        (_in_suite(_set("transcripts", [[]])), r"suites\.facts: 'transcripts' has 1 values, but"),
        (_set("retention", 3), "retention must be keys and values"),
        (_in("retention", _drop("tokens")), r"retention\.tokens is missing"),
        (_in("retention", _set("losses", [])), r"retention\.losses must be something that is not empty"),
        (_in("retention", _set("losses", [-1.0, 2.0])), r"retention\.losses\[0\] must be at least 0"),
        (_in("retention", _set("tokens", [1])), "retention: 'tokens' has 1 values, but 'losses' has 2"),
        (_in("retention", _set("tokens", [0, 1])), r"retention\.tokens\[0\] must be above 0"),
        (_set("divergence", 3), "divergence must be keys and values"),
        (_in("divergence", _drop("kl")), r"divergence\.kl is missing"),
        (_in("divergence", _set("kl", [-0.5, 1.0])), r"divergence\.kl\[0\] must be at least"),
        (_in("divergence", _set("kl", [1.0])), "divergence: 'kl' has 1 values, but 'ids' has 2"),
        (_in("divergence", _set("gold", [None, 1.0])), r"divergence\.gold\[0\] must be a number"),
        (_in("divergence", _set("reference", None)), r"divergence\.reference must be text"),
        (_in("divergence", _set("temperature", None)), r"divergence\.temperature must be a number"),
        (_set("suits", {}), "suits is an unknown field"),
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
    with pytest.raises(CourseError, match=r"retention\.losses\[0\] must be a finite number"):
        read_record(path)


def test_a_list_in_place_of_a_record_is_refused(output_root: Path) -> None:
    path = write_record(record())
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(CourseError, match="is no JSON object but a list"):
        read_record(path)


# --- what serves again


def asked(name: str, *ids: str, reply: str = "old") -> SuiteRecord:
    n = len(ids)
    columns = {
        "ids": ids,
        "prompts": ids,
        "replies": (reply,) * n,
        "stopped": (True,) * n,
        "tokens": (1,) * n,
    }
    return suite(name=name, **columns, scores={"correct": (True,) * n})


def questions(name: str, *ids: str, about: str = "") -> Suite:
    items = tuple({"id": one, "prompt": f"{about}{one}"} for one in ids)
    return Suite(name, "facts", items, "correct", {"correct": lambda reply, item: True})


def divergence(*ids: str, reference: str = "r", suite: str = "a") -> dict[str, Any]:
    return {"reference_identity": reference, "suite": suite, "ids": list(ids)}


def made(
    *suites: SuiteRecord, moved: dict[str, Any] | None = None, key: str | None = None
) -> EvaluationRecord:
    hashes = {one.name: questions(one.name, *one.ids).hash for one in suites}
    settings = {"suite_hashes": hashes, "divergence": key}
    return record(suites={one.name: one for one in suites}, settings=settings, divergence=moved)


def test_a_record_is_reused_for_the_same_weights_under_the_same_settings_only(output_root: Path) -> None:
    texts = {"split": "test", "chat_template": "own", "files": "f"}
    settings = {**texts, "batch_size": 4, "temperature": 0.0, "suite_hashes": {}, "divergence": None}
    assert set(COMMON_SETTINGS) <= set(settings)
    old = record(settings=settings)
    write_record(old)
    assert record_on_disk("sft", "0123", settings, "tiny", "cpu") == old
    assert record_on_disk("sft", "other", settings, "tiny", "cpu") is None
    assert record_on_disk("dpo", "0123", settings, "tiny", "cpu") is None
    assert record_on_disk("sft", "0123", settings, "tiny", "cuda") is None
    for name in COMMON_SETTINGS:
        assert record_on_disk("sft", "0123", {**settings, name: "other"}, "tiny", "cpu") is None, name
    # A record older than the splits does not say what it was measured on.
    write_record(replace(old, settings={key: settings[key] for key in settings if key != "split"}))
    assert record_on_disk("sft", "0123", settings, "tiny", "cpu") is None
    write_record(replace(old, device="cuda:0"))
    assert record_on_disk("sft", "0123", settings, "tiny", "cuda").device == "cuda:0"
    assert record_on_disk("sft", "0123", settings, "tiny", "cpu") is None


def test_a_record_has_a_suite_of_the_same_items_only() -> None:
    found = record(settings={"suite_hashes": {"facts": "abc"}})
    assert found.has(SimpleNamespace(name="facts", hash="abc"))
    assert not found.has(SimpleNamespace(name="facts", hash="other"))
    assert not found.has(SimpleNamespace(name="stories", hash="abc"))


def test_without_an_older_record_the_new_one_is_written() -> None:
    new = made(asked("a", "1"))
    assert with_older(new, None, {}) is new


def test_other_suites_stay_and_the_same_ones_are_replaced() -> None:
    old = made(asked("a", "1", "2"), asked("b", "1"))
    new = made(asked("a", "2", "1", reply="new"))
    kept = with_older(new, old, {"a": questions("a", "2", "1")})
    assert kept.suites == {"a": new.suites["a"], "b": old.suites["b"]}
    assert kept.settings["suite_hashes"] == {
        "a": questions("a", "2", "1").hash,
        "b": questions("b", "1").hash,
    }


def test_the_first_items_of_a_suite_do_not_replace_all_of_them() -> None:
    old = made(asked("a", "1", "2", "3"))
    cases = [
        (("1",), questions("a", "1", "2", "3"), True),
        (("1", "2"), questions("a", "1", "2", "3", "4"), True),
        (("2",), questions("a", "2", "1", "3"), False),
        (("1", "2", "3"), questions("a", "1", "2", "3"), False),
        (("1", "2"), questions("a", "1", "2"), False),  # the suite has become shorter
        (("1",), questions("a", "1", "2", "3", about="other questions "), False),
    ]
    for ids, whole, stays in cases:
        new = made(asked("a", *ids, reply="new"))
        kept = with_older(new, old, {"a": whole})
        assert kept.suites["a"] == (old if stays else new).suites["a"], ids
        assert kept.settings["suite_hashes"] == (old if stays else new).settings["suite_hashes"], ids


def test_a_divergence_stays_unless_it_is_measured_from_another_reference_or_on_other_prompts() -> None:
    old = made(asked("a", "1", "2"), moved=divergence("1", "2"), key="old")
    same, other = questions("a", "1", "2"), questions("a", "1", "2", about="other questions ")
    cases = [
        (None, None, same, True),  # not asked for
        (divergence("1"), "new", same, True),  # a part of it
        (divergence("1"), "new", other, False),
        (divergence("1", suite="b"), "new", same, False),
        (divergence("1", "2"), "new", same, False),
        (divergence("1", reference="other"), "new", same, False),
        (None, "new", same, False),  # asked for and not possible
    ]
    for moved, key, whole, stays in cases:
        new = replace(made(asked("a", "1")), divergence=moved)
        new.settings["divergence"] = key
        kept = with_older(new, old, {"a": whole})
        assert kept.divergence == (old.divergence if stays else moved), (moved, key)
        assert kept.settings["divergence"] == ("old" if stays else key)
