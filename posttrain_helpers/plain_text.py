"""One spelling for what can be typed in several ways, and whole words in scripts without spaces."""

from __future__ import annotations

import re
import unicodedata

_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u200b\u2060\ufeff\u00ad"),  # they take no room on a screen
        "\u066b": ".",  # the decimal separator of Arabic digits
        "\u066c": ",",
        "\u3002": ". ",  # a full stop, never a decimal point: no blank follows it
    }
)
_DASHES = str.maketrans(dict.fromkeys("\u2014\u2015", "-"))
# Between digits that are not as wide it ends a clause and does not group thousands.
_WIDE_COMMA = re.compile(r"(?<![\uff10-\uff19])\uff0c|\uff0c(?![\uff10-\uff19])")
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Chinese and Japanese.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_IS_KATAKANA = re.compile("[\u30a1-\u30ff\u31f0-\u31ff]")
_IS_HANGUL = re.compile(f"[{HANGUL}]")


def plain_text(text: str) -> str:
    """Return a text in one spelling: straight quotes, ASCII digits and hyphens, no forms of other widths.

    Raised, lowered, circled digits and fractions stay: 5² is not 52. A long dash stays a dash, not a minus.

    Args:
        text: any text; ASCII comes back as it is.
    """
    if text.isascii():
        return text
    text = _WIDE_COMMA.sub(", ", text).translate(_SPELLINGS)
    return unicodedata.normalize("NFC", "".join(map(_plain_character, text)))


def holds_words(text: str, phrase: str) -> bool:
    """Say whether a text holds a phrase as whole words, in any case and spelling.

    Where a script has no spaces every place may end a word, so a phrase is also found inside a longer word of
    the same script (but Katakana words are told apart). Korean endings may follow. Numbers stay whole:
    "15 km" is not in "1.15 km".

    Args:
        text: where to look.
        phrase: one word or several, with any blanks between them.
    """
    text, words = _folded(text), _folded(phrase).split()
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    found = pattern.search(text)
    while found:
        if _starts_word(text, found.start()) and _ends_word(text, found.end()):
            return True
        found = pattern.search(text, found.start() + 1)
    return False


def _plain_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    form = unicodedata.normalize("NFKC", character)
    return character if any(map(str.isdecimal, form)) else form


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", plain_text(text).translate(_DASHES)).casefold()


def _starts_word(text: str, place: int) -> bool:
    if text[place].isdecimal() and re.search(r"\d[.,]$", text[max(0, place - 2) : place]):
        return False
    return _is_border(text[place], text[place - 1 : place] if place else "")


def _ends_word(text: str, place: int) -> bool:
    last, following = text[place - 1], text[place : place + 1]
    if last.isdecimal() and re.match(r"[.,]\d", text[place : place + 2]):
        return False
    if following and unicodedata.category(following).startswith(
        "M"
    ):  # a vowel or an accent of the last letter
        return False
    return _is_border(last, following) or (last.isalpha() and _IS_HANGUL.match(following) is not None)


def _is_border(inside: str, outside: str) -> bool:
    """Say whether a word may end between a character of it and one beside it, "" at an end of the text."""
    if not (outside.isalnum() or outside == "_" or (outside and unicodedata.category(outside)[0] == "M")):
        return True
    if _IS_KATAKANA.match(inside) and _IS_KATAKANA.match(outside):
        return False
    return any(_IS_UNSPACED.match(character) for character in (inside, outside))
