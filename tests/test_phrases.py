"""Numbers with nouns, and lists of names."""

from __future__ import annotations

from posttrain_helpers.phrases import counted, listed


def test_only_one_is_singular() -> None:
    assert [counted(n, "suite") for n in (0, 1, 2)] == ["0 suites", "1 suite", "2 suites"]


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
