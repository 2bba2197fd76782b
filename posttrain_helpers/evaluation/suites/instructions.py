"""Constraints on a reply that code can verify: three sentences, no commas, valid JSON, this word twice.

An item states them as a list of plain dicts, so that a suite can live in a file::

    {"id": "rain", "prompt": [...], "constraints": [{"kind": "words", "at_most": 9}, {"kind": "no_commas"}]}

`obeys` asks for all of an item's constraints, and `obeyed_share` counts them one by one.

Two rules hold for every kind. A reply of no words obeys nothing: silence has no commas either. Words are
compared as whole words and in any case, unless the constraint is about case.

Source: Zhou et al. (2023), "Instruction-Following Evaluation for Large Language Models", arXiv:2311.07911.
The kinds and their code are our own.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, StringConstraints

from posttrain_helpers.environment.schemas import checked
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import closest

Constraint = Mapping[str, Any]

_ENDS_NO_SENTENCE = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e)|\b(?!I)[A-Z]|(?:^|\n)\s*\d+)\.$"  # the last: "1." of a list
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)\]*_]*\s+")
_BULLET = re.compile(r"^[ \t]*[-*•+–][ \t]+.*\w", re.MULTILINE)
# Paragraphs and the points of a list end a sentence without a full stop.
_BLOCK_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•+–]|\d+[.)])\s)")
_FENCE = re.compile(r"\A\s*```\w*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


def word_list(text: str) -> list[str]:
    """Return the words of a text: what blanks and em dashes separate and holds a letter or digit."""
    return [piece for piece in re.split(r"[\s\u2014]+", text) if re.search(r"[^\W_]", piece)]


def sentence_count(text: str) -> int:
    """Return the number of sentences, a last one without a full stop included.

    Approximate, as every rule for sentences is: "Dr.", "e.g.", initials and the numbers of a list do not end
    one; a blank line and the point of a list do.

    Args:
        text: a reply.
    """
    count = 0
    for block in _BLOCK_BREAK.split(text):
        open_piece = ""
        for piece in _SENTENCE_BREAK.split(block):
            open_piece = f"{open_piece} {piece}" if open_piece else piece
            if not _ENDS_NO_SENTENCE.search(open_piece):
                count += bool(word_list(open_piece))
                open_piece = ""
        count += bool(word_list(open_piece))
    return count


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("’", "'").casefold()


def _pattern(phrase: str) -> str:
    """Return the pattern of a folded phrase as whole words, whatever blanks are between them."""
    words = _fold(phrase).split()
    left = r"(?<!\w)" if words[0][0].isalnum() else ""
    right = r"(?!\w)" if words[-1][-1].isalnum() else ""
    return left + r"\s+".join(map(re.escape, words)) + right


def _mentions(reply: str, phrase: str) -> int:
    return len(re.findall(_pattern(phrase), _fold(reply)))


def _edges(text: str) -> str:
    """Return a folded reply or phrase without blanks and quotation marks around it."""
    return _fold(text).strip(' \t\r\n"“”') or text


def _within(count: int, constraint: Constraint) -> bool:
    exactly, at_least, at_most = (constraint.get(key) for key in ("exactly", "at_least", "at_most"))
    return (
        (exactly is None or count == exactly)
        and (at_least is None or count >= at_least)
        and (at_most is None or count <= at_most)
    )


def _contains(reply: str, constraint: Constraint) -> bool:
    times = constraint.get("at_least") or 1
    return all(_mentions(reply, word) >= times for word in constraint["words"])


def _repeats(reply: str, constraint: Constraint) -> bool:
    word, times = _pattern(constraint["word"]), constraint["times"]
    in_a_row = rf"{word}(?:[\W_]+{word}){{{times - 1}}}"
    return _mentions(reply, constraint["word"]) == times and re.search(in_a_row, _fold(reply)) is not None


def _is_json(reply: str, constraint: Constraint) -> bool:
    fenced = _FENCE.match(reply)
    try:
        value = json.loads(fenced[1] if fenced else reply, parse_constant=int)  # NaN is no int
    except (ValueError, RecursionError):
        return False
    keys = constraint.get("keys")
    return keys is None or (isinstance(value, dict) and set(keys) <= set(value))


@dataclass(frozen=True)
class Kind:
    """One kind of constraint.

    Attributes:
        check: says whether a reply, which has at least one word, obeys a constraint of this kind.
        required: parameters that it must have, with their types.
        optional: parameters that it may have.
    """

    check: Callable[[str, Constraint], bool]
    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
_BOUNDS = ("exactly", "at_least", "at_most")

KINDS: dict[str, Kind] = {
    "words": Kind(lambda r, c: _within(len(word_list(r)), c), optional=dict.fromkeys(_BOUNDS, Count)),
    "one_word": Kind(lambda r, c: len(word_list(r)) == 1),
    "sentences": Kind(lambda r, c: _within(sentence_count(r), c), optional=dict.fromkeys(_BOUNDS, Count)),
    "starts_with": Kind(
        lambda r, c: re.match(_pattern(_edges(c["phrase"])), _edges(r)) is not None, {"phrase": Text}
    ),
    # And nothing after it.
    "ends_with": Kind(
        lambda r, c: re.search(_pattern(_edges(c["phrase"])) + r"\Z", _edges(r)) is not None, {"phrase": Text}
    ),
    # Each of the words, once or `at_least` times.
    "contains": Kind(_contains, {"words": Texts}, {"at_least": Count}),
    "contains_any": Kind(
        lambda r, c: any(_mentions(r, phrase) for phrase in c["phrases"]), {"phrases": Texts}
    ),
    "avoids": Kind(lambda r, c: not any(_mentions(r, word) for word in c["words"]), {"words": Texts}),
    # A word so many times in a row, and nowhere else.
    "repeats": Kind(_repeats, {"word": Text, "times": Count}),
    "lowercase": Kind(lambda r, c: r.islower()),
    "uppercase": Kind(lambda r, c: r.isupper()),
    "no_commas": Kind(lambda r, c: "," not in r),
    # In a code fence or not; an object with these keys if there are any.
    "json": Kind(_is_json, optional={"keys": Texts}),
    # Each on a line after -, * or •.
    "bullets": Kind(
        lambda r, c: _within(len(_BULLET.findall(r)), c),
        optional=dict.fromkeys(_BOUNDS, NonNegativeInt),
    ),
}


def obeys(reply: str, item: Mapping[str, Any]) -> bool | None:
    """Return whether a reply obeys every constraint of its item, read strictly.

    Args:
        reply: the text of the reply.
        item: an item; its "constraints" list dicts with a "kind" of `KINDS` and the kind's parameters, as
            `check_constraints` accepts them.

    Returns:
        None when the item has no constraint, that is, cannot be scored.

    Source: the prompt-level strict accuracy of IFEval.
    """
    share = obeyed_share(reply, item)
    return None if share is None else share == 1


def obeyed_share(reply: str, item: Mapping[str, Any]) -> float | None:
    """Return the share of the item's constraints that a reply obeys, read strictly.

    Args:
        reply: the text of the reply.
        item: as for `obeys`.

    Returns:
        A number from 0 to 1; None when the item has no constraint.

    Source: the instruction-level strict accuracy of IFEval, here averaged within each prompt first.
    """
    constraints = item.get("constraints")
    if not constraints:
        return None
    if not word_list(reply):
        return 0.0
    return sum(KINDS[one["kind"]].check(reply, one) for one in constraints) / len(constraints)


def check_constraints(item: Mapping[str, Any], where: str = "") -> list[Constraint]:
    """Return the constraints of an item, checked.

    Args:
        item: an item. No "constraints", None and an empty list all mean that there are none. A parameter that
            is None counts as absent: tables of dicts fill their gaps so.
        where: what to call the item in an error; by default its id does.

    Raises:
        CourseError: "constraints" is no list of dicts, a kind does not exist, or a parameter is missing,
            unknown, of a wrong type or contradicts another one.
    """
    constraints = item.get("constraints") or []
    where = where or f"item {item.get('id')!r}"
    if not isinstance(constraints, list) or not all(isinstance(c, Mapping) for c in constraints):
        raise CourseError(
            f"the constraints of {where} must be a list of dicts; found {constraints!r}. Write them as "
            '[{"kind": "one_word"}].'
        )
    for constraint in constraints:
        _check_constraint(constraint, where)
    return constraints


def _check_constraint(constraint: Constraint, where: str) -> None:
    name = constraint.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        found = "has no kind" if name is None else f"has the unknown kind {name!r}"
        raise CourseError(
            f"a constraint of {where} {found}; {closest(name, KINDS)}the kinds are {', '.join(KINDS)}."
        )
    kind, where = KINDS[name], f"the constraint {name!r} of {where}"
    parameters = {**kind.required, **kind.optional}
    given = {key: value for key, value in constraint.items() if key != "kind" and value is not None}
    for key, value in given.items():
        if key not in parameters:
            raise CourseError(
                f"{where} has the unknown parameter {key!r}; {closest(key, parameters)}its parameters are: "
                f"{', '.join(parameters) or 'none'}."
            )
        checked(parameters[key], value, where, key)
    if missing := [key for key in kind.required if key not in given]:
        raise CourseError(f"{where} lacks {', '.join(missing)}; add it.")
    if "exactly" not in parameters:
        return
    if not given:
        raise CourseError(f"{where} says no number; add exactly, at_least or at_most.")
    if "exactly" in given and len(given) > 1:
        raise CourseError(f"{where} has exactly beside other numbers; keep exactly alone or leave it out.")
    if given.get("at_least", 0) > given.get("at_most", float("inf")):
        raise CourseError(
            f"{where} asks for at least {given['at_least']} and at most {given['at_most']}, which no reply "
            "obeys; swap or correct the two."
        )
