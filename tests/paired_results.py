"""Paired results for tests: so many prompts got better, so many worse, and so many stayed."""

from __future__ import annotations

from posttrain_helpers.statistics.paired_tests import (
    PairedResult,
    paired_binary,
)


def binary(up: int, down: int, same: int, **options: object) -> PairedResult:
    """A comparison with the given counts; the unchanged prompts succeed."""
    before = [False] * up + [True] * down + [True] * same
    after = [True] * up + [False] * down + [True] * same
    return paired_binary(before, after, **options)
