"""What a record on disk saves an evaluation from doing again, and what it keeps of earlier evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain_helpers.evaluation.records import EvaluationRecord, read_record, record_path
from posttrain_helpers.evaluation.suites import Suite
from posttrain_helpers.evaluation.targets import Target

# Replies made under different values of these cannot stand in one record.
COMMON_SETTINGS = ("split", "batch_size", "temperature", "chat_template", "files")


def on_disk(target: Target, settings: dict[str, Any], profile: str) -> EvaluationRecord | None:
    """Return the record of the same weights under the same settings, None where there is none.

    Args:
        target: the model.
        settings: those of the evaluation at hand.
        profile: the profile's name.

    Raises:
        CourseError: the file is damaged.
    """
    path = record_path(target.label, profile)
    if not path.is_file():
        return None
    old = read_record(path)
    whole = set(settings) <= set(old.settings)
    same = whole and all(old.settings[key] == settings[key] for key in COMMON_SETTINGS)
    return old if same and old.identity == target.identity else None


def same_suite(old: EvaluationRecord, suite: Suite) -> bool:
    """Return whether a record holds the replies to exactly this suite."""
    return suite.name in old.suites and old.settings["suite_hashes"].get(suite.name) == suite.hash


def for_file(record: EvaluationRecord, old: EvaluationRecord | None) -> EvaluationRecord:
    """Return what to write: the new record, and of the old one what a look at a few items must not destroy.

    Args:
        record: what was measured now.
        old: what `on_disk` returned.

    Returns:
        The new record with the suites that only the old one has, and with the old version of a suite or a
        divergence that was measured on the same items and on more behind them.
    """
    if old is None:
        return record
    hashes = dict(record.settings["suite_hashes"])
    suites = dict(record.suites)
    for name, suite in old.suites.items():
        if name not in suites or _continues(suite.ids, suites[name].ids):
            suites[name], hashes[name] = suite, old.settings["suite_hashes"].get(name)
    settings, divergence = {**record.settings, "suite_hashes": hashes}, record.divergence
    if _keeps_divergence(record, old):
        settings["divergence"], divergence = old.settings["divergence"], old.divergence
    return replace(record, settings=settings, suites=suites, divergence=divergence)


def _keeps_divergence(record: EvaluationRecord, old: EvaluationRecord) -> bool:
    if record.settings["divergence"] is None:
        return True
    if record.divergence is None or old.divergence is None:
        return False
    same = record.divergence["reference_identity"] == old.divergence["reference_identity"]
    return same and _continues(old.divergence["ids"], record.divergence["ids"])


def _continues(longer: Sequence[str], shorter: Sequence[str]) -> bool:
    return len(longer) > len(shorter) and list(longer[: len(shorter)]) == list(shorter)
