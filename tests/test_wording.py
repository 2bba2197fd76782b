"""Numbers with nouns, lists of names, and the name that was probably meant."""

from __future__ import annotations

from posttrain_helpers.wording import closest, counted, duration, listed, suggestion


def test_only_one_is_singular() -> None:
    assert [counted(n, "suite") for n in (0, 1, 2)] == ["0 suites", "1 suite", "2 suites"]


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_times_are_told_in_the_unit_that_suits_them() -> None:
    told = [duration(seconds) for seconds in (4.21, 10.2, 59.6, 200, 7500)]
    assert told == ["4.2 s", "10 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]


def test_near_name_is_suggested() -> None:
    assert closest("learning_rat", ["seed", "learning_rate"]) == "did you mean 'learning_rate'? "


def test_far_name_gives_nothing() -> None:
    assert closest("zzz", ["seed", "learning_rate"]) == ""


def test_case_does_not_matter() -> None:
    assert closest("SFT", ["sft", "Dpo"]) == "did you mean 'sft'? "
    assert closest("dpo", ["sft", "Dpo"]) == "did you mean 'Dpo'? "


def test_a_sentence_ends_with_or_without_a_suggestion() -> None:
    said = [f"There is no {name}{suggestion(name, ['seed'])}Known is seed." for name in ("sed", "zzz")]
    assert said == ["There is no sed; did you mean 'seed'? Known is seed.", "There is no zzz. Known is seed."]
