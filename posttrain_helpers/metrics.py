"""Measures of replies: correctness (strict and lenient), repetition, diversity, length and loss."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from posttrain_helpers.errors import CourseError

# A minus is a sign only where no operand stands directly before it: "10-3" holds 10 and 3, "= -3" holds -3.
# Digits that follow a letter belong to a name ("H2O", "gpt2"); commas group exactly three digits.
_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9_])
        (?P<sign>(?<![)\]%])[-\u2212])?
        [$\u20ac\u00a3]? (?P<inner_sign>(?<=[$\u20ac\u00a3])[-\u2212])?
        (?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9_.])\.[0-9]+)
        (?P<exponent>[eE][-+]?[0-9]{1,3}(?![0-9]))?""",
    re.VERBOSE,
)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, or None when it holds none.

    Understands signs, decimals, thousands separators ("1,000"), a currency sign before the number, units and
    punctuation after it ("$72", "72.", "72 kg", "72%"). Number words and fractions are not numbers.

    Args:
        text: a reply.
    """
    found = list(_NUMBER.finditer(plain_text(text)))
    return _value(found[-1]) if found else None


def numbers_equal(left: str | float | Decimal, right: str | float | Decimal) -> bool:
    """Return whether both sides are the same number, however they are written ("72.0", "$72", "72.", 72).

    Args:
        left: a number, or a text that is one number and nothing else.
        right: the same.

    Returns:
        False also when a side is no number. The comparison is exact: 0.333 does not equal 1/3.
    """
    first, second = _as_number(left), _as_number(right)
    return first is not None and first == second


def strict_match(reply: str, item: Mapping[str, Any]) -> bool | None:
    """Return whether the reply is one of the complete replies that the item accepts: content and format.

    Args:
        reply: the text of the reply; blanks around it and the spelling of quotes and digits do not count.
        item: a held-out item; its "accepted" lists complete replies.

    Returns:
        None when the item accepts none, that is, cannot be scored strictly.

    Raises:
        CourseError: when "accepted" is one string, in which every fragment would count as correct.
    """
    accepted = item.get("accepted")
    if isinstance(accepted, str):
        raise CourseError(
            f"'accepted' must be a list of complete replies; found the text {accepted!r}. Put it into a list."
        )
    if not accepted:
        return None
    return plain_text(reply).strip() in {plain_text(candidate).strip() for candidate in accepted}


def lenient_match(reply: str, item: Mapping[str, Any]) -> bool | None:
    """Return whether the reply holds the answer, whatever stands around it.

    A number must be the *last* number of the reply, compared by value: 9 is not found in "19", and 72 is
    found in "72.0", "72." and "$72". Words must occur as whole words, in any case, as `holds_words` finds
    them. A reply that lists many candidates, or denies the right one, passes too: read this score beside
    `strict_match`.

    Args:
        reply: the text of the reply.
        item: a held-out item; its "answer" is a text or a number.

    Returns:
        None when the answer is None, that is, cannot be scored.

    Raises:
        CourseError: when the answer is empty, which every reply would hold.
    """
    answer = item.get("answer")
    if answer is None:
        return None
    number = _as_number(answer)
    if number is not None:
        return last_number(reply) == number
    if not _folded(str(answer)).split():
        raise CourseError(
            "The answer of an item is empty; every reply would hold it. Use None for 'no answer'."
        )
    return holds_words(reply, str(answer))


def repetition_rate(text: str) -> float:
    """Return the share of the triples of words that occurred before in the same text: 0 never, near 1 a loop.

    Args:
        text: one reply; fewer than 3 words give 0.

    Source: seq-rep-n of Welleck et al. (2020), arXiv:1908.04319, here on words.
    """
    triples = _ngrams(text, 3)
    return 1.0 - len(set(triples)) / len(triples) if triples else 0.0


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Return the number of different n-grams of words divided by all n-grams, over all texts together.

    Args:
        texts: replies; when none has `n` words the result is 0.
        n: words per n-gram.

    Raises:
        CourseError: when `texts` is one string.

    Source: Li et al. (2016), arXiv:1510.03055, section 5.
    """
    ngrams = [ngram for text in several_texts(texts) for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _value(match: re.Match[str]) -> Decimal:
    sign = "-" if match["sign"] or match["inner_sign"] else ""
    return Decimal(sign + match["digits"].replace(",", "") + (match["exponent"] or ""))


def _as_number(value: str | float | Decimal) -> Decimal | None:
    """Return a number, or a text that is one number with at most a unit sign or a full stop, as a Decimal."""
    text = plain_text(str(value)).strip()
    match = _NUMBER.match(text)
    return _value(match) if match and text[match.end() :] in ("", ".", "%", "%.") else None


def several_texts(texts: Iterable[str]) -> Iterable[str]:
    """Return the texts; one string in place of a list is an error."""
    if isinstance(texts, str):
        raise CourseError("Expected a list of texts; found one string. Put it into a list.")
    return texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


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
