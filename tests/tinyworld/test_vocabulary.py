import pytest

from posttrain_helpers.tinyworld.vocabulary import (
    NAMES,
    OBJECTS,
    capitalise,
    count,
    join_words,
    pronouns,
    with_article,
)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("owl", "an owl"),
        ("cow", "a cow"),
        ("hour", "an hour"),
        ("unicorn", "a unicorn"),
        ("uniform", "a uniform"),
        ("umbrella", "an umbrella"),
        ("ewe", "a ewe"),
        ("old knife", "an old knife"),
        ("one-way street", "a one-way street"),
        ("SFT run", "an SFT run"),
        ("GPU", "a GPU"),
        ("LLM", "an LLM"),
    ],
)
def test_article_follows_the_sound(noun, expected):
    assert with_article(noun) == expected


def test_tables_may_add_exceptions():
    assert with_article("herb", an=frozenset({"herb"})) == "an herb"
    assert with_article("eucalyptus", a=frozenset({"eucalyptus"})) == "a eucalyptus"


def test_variety_is_what_the_lessons_need():
    assert len(NAMES) == len(set(NAMES)) >= 60
    assert len(OBJECTS) >= 60
    assert len(set(OBJECTS.values())) == len(OBJECTS)


def test_plurals_are_english():
    for singular, plural in OBJECTS.items():
        if singular.endswith(("s", "x", "ch", "sh")):
            assert plural == singular + "es"
        elif singular.endswith("y") and singular[-2] not in "aeiou":
            assert plural == singular[:-1] + "ies"
        elif singular.endswith(("f", "fe")):
            assert plural.endswith("ves")
        elif singular == "potato":
            assert plural == "potatoes"
        else:
            assert plural == singular + "s"


def test_small_words():
    assert pronouns("Anna") == ("she", "her", "her")
    assert pronouns("Ben") == ("he", "him", "his")
    assert capitalise("a CPU") == "A CPU"
    assert capitalise("") == ""
    assert count(1, "knife") == "1 knife"
    assert count(3, "knife") == "3 knives"
    assert [join_words(list("abc"[:n])) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
