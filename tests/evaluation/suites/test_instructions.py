"""Constraints: what each kind accepts, what it refuses, and what a broken constraint says."""

import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites.instructions import (
    KINDS,
    check_constraints,
    obeyed_share,
    obeys,
    sentence_count,
    word_list,
)


def item(*constraints):
    return {"id": "x", "constraints": list(constraints)}


def constraint(kind, **parameters):
    return {"kind": kind, **parameters}


# kind, parameters, replies that obey, replies that do not
CASES = [
    ("words", {"exactly": 3}, ["one two three", "Yes - it is!", "don't stop now"], ["one two", "a b c d"]),
    ("words", {"at_least": 2, "at_most": 3}, ["a b", "a b c"], ["a", "a b c d", "- a -"]),
    ("one_word", {}, ["Paris", "Paris.", "**Paris**", "- Paris", "Guinea-Bissau"], ["In Paris", "It—Paris"]),
    (
        "sentences",
        {"exactly": 2},
        ["It rains. It pours.", "Dr. Hu left. Why?"],
        ["It rains.", "A b. C d. E f."],
    ),
    ("sentences", {"at_most": 1}, ["It costs 3.5 euros.", "no full stop"], ["Yes! No!"]),
    ("sentences", {"at_least": 2}, ["one. two.", "Title\n\nText."], ["one, two."]),
    (
        "starts_with",
        {"phrase": "Good day"},
        ["good day to you", ' "Good day!"', "Good\nday."],
        ["A good day", "Good days"],
    ),
    ("starts_with", {"phrase": '"Yes" is'}, ['"Yes" is what she said.'], ["Yes, it is."]),
    ("ends_with", {"phrase": 'she said "no"'}, ['And she said "No"'], ['And she said "no" twice']),
    ("starts_with", {"phrase": "My tips:"}, ["My tips:\n- a"], ["My tips are:"]),
    (
        "ends_with",
        {"phrase": "the end."},
        ["So. The end.", 'She said: "The end."\n'],
        ["The end. Bye", "The end", "the end.."],
    ),
    ("ends_with", {"phrase": "day"}, ["Have a nice day"], ["today", "day."]),
    (
        "contains",
        {"words": ["kite", "Mia"]},
        ["mia has a KITE.", "Mia's kite-string"],
        ["Mia has kites", "a kite"],
    ),
    ("contains", {"words": ["blue"], "at_least": 2}, ["blue, Blue"], ["blue", "blue bluebird"]),
    ("contains", {"words": ["New York"]}, ["in new\nyork"], ["New Yorker", "newyork"]),
    ("contains", {"words": ["C++"]}, ["I like C++!"], ["I like C+"]),
    ("contains", {"words": ["don't"]}, ["I don’t"], ["I do not"]),
    (
        "contains_any",
        {"phrases": ["Sure!", "Have a nice day!"]},
        ["sure! It is.", "So. Have a nice day!"],
        ["Sure.", "unsure!", "Nice"],
    ),
    ("avoids", {"words": ["cat", "pet"]}, ["A catalogue of petals"], ["Cat", "my pet."]),
    (
        "repeats",
        {"word": "ball", "times": 3},
        ["Here: ball ball ball.", "Ball, ball, ball!"],
        ["ball ball", "ball ball ball ball", "ball and ball ball", "The ball: x ball ball"],
    ),
    ("repeats", {"word": "ball", "times": 1}, ["A ball."], ["ball ball", "balls"]),
    ("lowercase", {}, ["all small.", "small 3"], ["Not small", "42"]),
    ("uppercase", {}, ["ALL BIG!"], ["ALL BIG but one", "42"]),
    ("no_commas", {}, ["first; second"], ["first, second"]),
    (
        "json",
        {},
        ['{"a": [1, null]}', '```json\n{"a": 1}\n```', ' ["b"]\n', "12"],
        ["{'a': 1}", 'Here: {"a": 1}', "[NaN]", "[" * 50_000 + "1", '{"a": 1} ```'],
    ),
    ("json", {"keys": ["a", "b"]}, ['{"a": 1, "b": 2, "c": 3}'], ['{"a": 1}', '["a", "b"]', '"a"']),
    (
        "bullets",
        {"exactly": 2},
        ["- a\n- b", "Two:\n* a\n  • b\nBye"],
        ["- a", "- a\n- b\n- c", "1. a\n2. b", "-a\n-b", "**a**\n---\n**b**"],
    ),
    ("bullets", {"exactly": 0}, ["No points - at all", "1. one"], ["- a"]),
    ("bullets", {"at_least": 1, "at_most": 2}, ["- a"], ["a", "- a\n- b\n- c"]),
]


@pytest.mark.parametrize(("kind", "parameters", "good", "bad"), CASES)
def test_each_kind_tells_replies_that_obey_from_others(kind, parameters, good, bad):
    asked = item(constraint(kind, **parameters))
    assert [reply for reply in good if obeys(reply, asked) is not True] == []
    assert [reply for reply in bad if obeys(reply, asked) is not False] == []


def test_every_kind_has_a_case():
    assert {case[0] for case in CASES} == set(KINDS)


@pytest.mark.parametrize("reply", ["", "  \n", "...", "**", "🎉", "_"])
@pytest.mark.parametrize(("kind", "parameters"), [case[:2] for case in CASES])
def test_a_reply_of_no_words_obeys_nothing(kind, parameters, reply):
    asked = item(constraint(kind, **parameters))
    assert obeys(reply, asked) is False
    assert obeyed_share(reply, asked) == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One.", 1),
        ("One", 1),
        ("One. Two? Three!", 3),
        ("Really?! Yes.", 2),
        ('He said: "Go." Then he went.', 2),
        ("Dr. Ng met Mrs. Y. Li, i.e. her boss.", 1),
        ("It costs 2.50 euros. Buy it.", 2),
        ("So do I. Bye.", 2),
        ("1. First step.\n2. Second step.", 2),
        ("- one\n- two\nand a half", 2),
        ("A title\n\nA text. More", 3),
        ("A line\nthat goes on.", 1),
        ("**Bold.** Plain.", 2),
        ("Great! 🎉", 1),
    ],
)
def test_sentences_are_counted(text, count):
    assert sentence_count(text) == count


def test_words_hold_a_letter_or_digit():
    assert word_list("Well — it's 3,5 % of — a_b … *") == ["Well", "it's", "3,5", "of", "a_b"]


def test_an_item_without_constraints_is_not_scored():
    for plain in ({}, {"constraints": None}, {"constraints": []}):
        assert obeys("Hello", plain) is None
        assert obeyed_share("Hello", plain) is None
        assert check_constraints(plain) == []


def test_all_constraints_count_together_and_one_by_one():
    asked = item(constraint("no_commas"), constraint("lowercase"), constraint("words", exactly=2))
    assert (obeys("all good", asked), obeyed_share("all good", asked)) == (True, 1.0)
    assert (obeys("All good", asked), obeyed_share("All good", asked)) == (False, pytest.approx(2 / 3))
    assert obeyed_share("No, not at all", asked) == 0.0


def test_gaps_of_a_table_are_no_parameters():
    """A data set gives every dict of a column the keys of all of them."""
    from datasets import Dataset

    rows = [
        item(constraint("one_word")),
        item(constraint("words", at_most=2), constraint("contains", words=["a"])),
    ]
    first, second = Dataset.from_list(rows)
    assert first["constraints"][0]["words"] is None
    assert obeys("Yes", first) is True
    assert obeys("a b", second) is True
    assert obeys("b c", second) is False


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (constraint("wrods", exactly=3), r"item 'x' has the unknown kind 'wrods'; did you mean 'words'\?"),
        (constraint(["words"]), r"unknown kind \['words'\]; .*the kinds are words, one_word"),
        ({"exactly": 3}, r"has no kind; the kinds are words"),
        (
            constraint("words", exacly=3),
            r"'words' of item 'x' has the unknown parameter 'exacly'; did you mean 'exactly'\?",
        ),
        (constraint("one_word", at_least=1), r"unknown parameter 'at_least'; its parameters are: none"),
        (constraint("contains"), r"'contains' of item 'x' lacks words; add it"),
        (constraint("repeats", word="a"), r"lacks times"),
        (constraint("contains", words=None), r"lacks words"),
        (
            constraint("contains", words="kite"),
            r"'contains' of item 'x': words must be a list, but it is 'kite'",
        ),
        (constraint("contains", words=[]), r"words must be something that is not empty"),
        (constraint("contains", words=["a", " "]), r"words\[1\] must be text that is not empty"),
        (constraint("contains", words=[3]), r"words\[0\] must be text, but it is 3"),
        (constraint("starts_with", phrase=""), r"phrase must be text that is not empty, but it is ''"),
        (constraint("ends_with", phrase=3), r"phrase must be text, but it is 3"),
        (constraint("words", exactly="3"), r"exactly must be a whole number, but it is '3'"),
        (constraint("words", exactly=True), r"exactly must be a whole number, but it is True"),
        (constraint("words", at_most=0), r"at_most must be at least 1, but it is 0"),
        (constraint("sentences", at_least=1.5), r"at_least must be a whole number, but it is 1.5"),
        (constraint("bullets", exactly=-1), r"exactly must be at least 0, but it is -1"),
        (constraint("repeats", word="a", times=0), r"times must be at least 1"),
        (constraint("words"), r"says no number; add exactly, at_least or at_most"),
        (constraint("words", exactly=None), r"says no number"),
        (constraint("bullets", exactly=2, at_most=3), r"exactly beside other numbers"),
        (constraint("words", at_least=5, at_most=4), r"at least 5 and at most 4, which no reply obeys"),
    ],
)
def test_a_broken_constraint_is_refused(broken, sentence):
    with pytest.raises(CourseError, match=sentence):
        check_constraints(item(constraint("no_commas"), broken))


@pytest.mark.parametrize("broken", [{"kind": "one_word"}, "one_word", ["one_word"], 3])
def test_constraints_are_a_list_of_dicts(broken):
    with pytest.raises(CourseError, match=r"the constraints of item 'x' must be a list of dicts; found"):
        check_constraints({"id": "x", "constraints": broken})
