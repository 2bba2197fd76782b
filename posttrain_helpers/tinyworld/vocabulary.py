"""The people and things of the tiny world, and the few rules of English that its texts need."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words("""
    Anna Ella Emma Eva Fiona Grace Hana Ida Iris Jane Julia Kate Lara Lena Lily Lisa Lucy Maria Maya
    Mia Nina Nora Olga Rosa Ruth Sara Sofia Tina Vera Zoe
""")
MEN = _words("""
    Adam Alex Ben Carl Dan David Eric Felix Finn Fred George Hugo Ivan Jack James John Leo Luke Mark
    Max Nick Noah Omar Oscar Otto Paul Peter Sam Theo Tom
""")
NAMES: tuple[str, ...] = tuple(sorted(WOMEN + MEN))

_REGULAR = _words("""
    acorn apple bag ball balloon banana bead bean bell book boot bottle bowl button cake candle cap
    card carrot coin cookie cup doll drum egg feather flag flower hat jar kite lamp lemon map marble
    melon mug nail nut onion orange pear pebble pen pencil phone pie plate plum pot ribbon ring
    robot rock rope seed shell spoon stamp star sticker stone ticket toy umbrella
""")
# Countable things that fit into a hand, a bag or a box: singular -> plural.
OBJECTS: dict[str, str] = {
    **{word: word + "s" for word in _REGULAR},
    "box": "boxes",
    "brush": "brushes",
    "peach": "peaches",
    "potato": "potatoes",
    "watch": "watches",
    "berry": "berries",
    "leaf": "leaves",
    "knife": "knives",
}

PLACES = _words("""
    beach bridge castle cave farm field forest garden hill house lake market park river school
""")
ADJECTIVES = _words("""
    big blue bright clean green little new nice old pretty red round shiny small white yellow
""")

# Words whose first sound and first letter disagree; the fact tables may add their own.
_AN_DESPITE_CONSONANT = ("hour", "honest", "heir")
_A_DESPITE_VOWEL = ("unicorn", "uniform", "university", "unit", "union", "euro", "ewe", "one", "user", "use")


def pronouns(name: str) -> tuple[str, str, str]:
    """Return subject, object and possessive pronoun of a name, such as `("she", "her", "her")`."""
    return ("she", "her", "her") if name in WOMEN else ("he", "him", "his")


def capitalise(text: str) -> str:
    """Return `text` with a capital first letter and the rest unchanged."""
    return text[:1].upper() + text[1:]


def with_article(noun: str, an: frozenset[str] = frozenset(), a: frozenset[str] = frozenset()) -> str:
    """Return `noun` behind "a" or "an", chosen by sound; `an` and `a` are exceptions to the spelling rule."""
    first = noun.split()[0].lower()
    if noun in an or first.startswith(_AN_DESPITE_CONSONANT):
        return f"an {noun}"
    if noun in a or first.split("-")[0] in _A_DESPITE_VOWEL:
        return f"a {noun}"
    if first.isupper() or noun.split()[0].isupper():  # an abbreviation is read letter by letter
        return f"{'an' if noun[0] in 'AEFHILMNORSX' else 'a'} {noun}"
    return f"{'an' if first[0] in 'aeiou' else 'a'} {noun}"


def count(number: int, noun: str) -> str:
    """Return "1 apple" or "3 apples" for an object of the world."""
    return f"{number} {noun if number == 1 else OBJECTS[noun]}"


def join_words(words: list[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
