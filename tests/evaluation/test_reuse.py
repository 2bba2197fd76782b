"""What a file keeps of an earlier evaluation of the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain_helpers.evaluation.records import EvaluationRecord, SuiteRecord, write_record
from posttrain_helpers.evaluation.reuse import COMMON_SETTINGS, for_file, on_disk
from posttrain_helpers.evaluation.targets import Target


def suite(name: str, *ids: str, reply: str = "old") -> SuiteRecord:
    n = len(ids)
    scores = {"correct": (True,) * n}
    return SuiteRecord(
        name, name, "correctness", "correct", ids, ids, (reply,) * n, (True,) * n, (1,) * n, scores
    )


def divergence(*ids: str, reference: str = "r") -> dict[str, Any]:
    return {"reference_identity": reference, "ids": list(ids)}


def record(
    *suites: SuiteRecord, moved: dict[str, Any] | None = None, key: str | None = None
) -> EvaluationRecord:
    hashes = {one.name: f"{one.name}:{len(one.ids)}:{one.replies[0]}" for one in suites}
    settings = {"suite_hashes": hashes, "divergence": key}
    by_name = {one.name: one for one in suites}
    return EvaluationRecord("m", "m", "i", None, "tiny", settings, by_name, None, moved, 1.0, None, "cpu")


def test_a_record_is_reused_for_the_same_weights_under_the_same_settings_only(output_root: Path) -> None:
    settings = dict.fromkeys(COMMON_SETTINGS, "as before") | {"suite_hashes": {}, "divergence": None}
    made = replace(record(suite("a", "1")), settings=settings)
    write_record(made)
    target = Target("m", "m", Path(), "i", None)
    assert on_disk(target, settings, "tiny") == made
    assert on_disk(replace(target, identity="other"), settings, "tiny") is None
    for name in COMMON_SETTINGS:
        assert on_disk(target, {**settings, name: "other"}, "tiny") is None, name
    assert "split" in COMMON_SETTINGS
    # A record older than the splits does not say what it was measured on.
    write_record(replace(made, settings={key: settings[key] for key in settings if key != "split"}))
    assert on_disk(target, settings, "tiny") is None


def test_without_an_older_record_the_new_one_is_written() -> None:
    new = record(suite("a", "1"))
    assert for_file(new, None) is new


def test_other_suites_stay_and_the_same_ones_are_replaced() -> None:
    old = record(suite("a", "1", "2"), suite("b", "1"))
    new = record(suite("a", "2", "1", reply="new"))
    kept = for_file(new, old)
    assert kept.suites == {"a": new.suites["a"], "b": old.suites["b"]}
    assert kept.settings["suite_hashes"] == {"a": "a:2:new", "b": "b:1:old"}


def test_the_first_items_of_a_suite_do_not_replace_all_of_them() -> None:
    old = record(suite("a", "1", "2", "3"))
    for ids, stays in ((("1",), True), (("1", "2"), True), (("2",), False), (("1", "2", "3"), False)):
        new = record(suite("a", *ids, reply="new"))
        kept = for_file(new, old)
        assert kept.suites["a"] == (old if stays else new).suites["a"], ids
        assert kept.settings["suite_hashes"] == (old if stays else new).settings["suite_hashes"], ids


def test_a_divergence_stays_unless_it_is_measured_from_another_reference_or_on_other_prompts() -> None:
    old = record(suite("a", "1"), moved=divergence("1", "2"), key="old")
    cases = [
        (None, None, True),  # not asked for
        (divergence("1"), "new", True),  # a part of it
        (divergence("2"), "new", False),
        (divergence("1", "2"), "new", False),
        (divergence("1", reference="other"), "new", False),
        (None, "new", False),  # asked for and not possible
    ]
    for moved, key, stays in cases:
        new = replace(record(suite("a", "1")), divergence=moved)
        new.settings["divergence"] = key
        kept = for_file(new, old)
        assert kept.divergence == (old.divergence if stays else moved), (moved, key)
        assert kept.settings["divergence"] == ("old" if stays else key)
