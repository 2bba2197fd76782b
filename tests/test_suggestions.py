from __future__ import annotations

from posttrain_helpers.suggestions import closest


def test_near_name_is_suggested() -> None:
    assert closest("learning_rat", ["seed", "learning_rate"]) == "did you mean 'learning_rate'? "


def test_far_name_gives_nothing() -> None:
    assert closest("zzz", ["seed", "learning_rate"]) == ""
