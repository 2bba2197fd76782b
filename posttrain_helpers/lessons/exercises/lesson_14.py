"""The exercises of lesson 14, real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    compared,
    function_exercise,
    members_exercise,
    numbers,
    plain,
    yes_or_no,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_numeric

# What a row that is wrongly kept, or wrongly dropped, should make a student look at.
_ROW_HINTS = {
    0: "Row 0 has two different replies and clear ratings, and no row comes before it. Why drop it?",
    1: "A prompt may come twice. Do two rows of one prompt say the same if the rejected replies differ?",
    2: "Print the two replies of row 2 without the blanks around them. What is left to prefer?",
    3: "Look at the ratings of row 3. Which of the two replies is the better one?",
    4: "Would you show a model the rejected reply of row 4?",
    5: "Compare the texts of row 5 with those of the rows before it, and leave the ratings aside.",
}


def _rows(answer: Any) -> set[float]:
    values = plain(answer)
    values = list(values) if isinstance(values, (set, frozenset, range)) else values
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= len(_ROW_HINTS):
        raise NotYet("Give a list of row numbers, such as [3, 5].")
    if any(isinstance(plain(value), bool) for value in values):
        raise NotYet("Give the numbers of the rows that are left, and no True or False for each row.")
    rows = set(numbers(values, len(values)))
    if not rows <= _ROW_HINTS.keys():
        raise NotYet("The rows are numbered from 0 to 5.")
    return rows


Words = Sequence[str]
Ngrams = set[tuple[str, ...]]


def coverage(words: Words, known: Ngrams, n: int) -> float:
    """Return the share of words that lie in a known n-gram."""
    covered = {place for start in _known_starts(words, known, n) for place in range(start, start + n)}
    return len(covered) / len(words)


def _known_starts(words: Words, known: Ngrams, n: int) -> list[int]:
    return [start for start in range(len(words) - n + 1) if tuple(words[start : start + n]) in known]


def _known_words(words: Words, known: Ngrams, n: int) -> float:
    single = {word for ngram in known for word in ngram}
    return sum(word in single for word in words) / len(words)


def _without_the_last(words: Words, known: Ngrams, n: int) -> float:
    return coverage(words, known - {tuple(words[-n:])}, n)


def _ngrams(text: str, n: int) -> Ngrams:
    words = text.split()
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


_TEXT = "tom has fifty coins and buys three books how many coins has tom left"
_QUESTION = _TEXT.split()
_COVERAGE_INPUTS: tuple[tuple[list[str], Ngrams, int], ...] = (
    (_QUESTION, _ngrams("once tom has fifty coins and a dog", 3), 3),
    (_QUESTION, _ngrams("how many coins has tom left and why has tom fifty", 3), 3),
    (_QUESTION, _ngrams("the dog buys three books", 4), 4),
    (_QUESTION[:2], _ngrams("tom has fifty coins", 3), 3),
    (_QUESTION, _ngrams(_TEXT, 3), 3),
)


START, END = "<|im_start|>", "<|im_end|>"


def reply_mask(tokens: Sequence[str]) -> list[int]:
    """Return 1 for each token of a reply, its end token included, and 0 for all others."""
    inside, mask = False, []
    for place, token in enumerate(tokens):
        if list(tokens[max(place - 3, 0) : place]) == [START, "assistant", "\n"]:
            inside = True
        mask.append(int(inside))
        if token == END:
            inside = False
    return mask


def _with_header(tokens: Sequence[str]) -> list[int]:
    mask = reply_mask(tokens)
    return [int(any(mask[place : place + 4])) for place in range(len(mask))]


def _with_line_break(tokens: Sequence[str]) -> list[int]:
    mask = reply_mask(tokens)
    return [int(mark or (place > 0 and mask[place - 1])) for place, mark in enumerate(mask)]


def _after_the_first(tokens: Sequence[str]) -> list[int]:
    first = reply_mask(tokens).index(1)
    return [int(place >= first) for place in range(len(tokens))]


def _the_last_alone(tokens: Sequence[str]) -> list[int]:
    mask = reply_mask(tokens)
    last = max(
        place for place, token in enumerate(tokens) if token == "assistant" and tokens[place - 1] == START
    )
    return [int(mark and place > last) for place, mark in enumerate(mask)]


def _turn(role: str, *words: str) -> list[str]:
    return [START, role, "\n", *words, END, "\n"]


_CONVERSATIONS = (
    [
        *_turn("user", "2", "+", "2", "?"),
        *_turn("assistant", "4"),
        *_turn("user", "assistant", "\n", "?"),
        *_turn("assistant", "An", "assistant", "\n", "."),
    ],
    [*_turn("user", "Hi", "."), *_turn("assistant", "Hello", "!")],
    [*_turn("system", "Be", "kind", "."), *_turn("user", "Hi"), *_turn("assistant", "Hi", ",", "you", ".")],
)


def _another_mask(found: list[bool], tokens: Sequence[str]) -> str:
    marked = "".join(f"[{token}]" if mark else token for token, mark in zip(tokens, found, strict=True))
    return f"Your mask marks {marked!r}. Are these the tokens that the assistant says?"


_SETTINGS = ("args.learning_rate", "args.max_steps", "args.max_length")


def _grade_change(answer: Any) -> None:
    result = answer.get("result") if isinstance(answer, dict) else None
    # Before the verdict, which is read the other way round.
    if isinstance(result, PairedResult) and result.higher_is_better and result.difference:
        raise NotYet("These are losses: give `paired` the argument `higher_is_better=False`.")
    compared(answer, _SETTINGS)


_LOSSES = [5.0, 5.5, 6.0] * 20, [4.5, 5.25, 5.0] * 20

EXERCISES: tuple[Exercise, ...] = (
    members_exercise(
        "14.1",
        [0, 1],
        _ROW_HINTS,
        "Two rows are left. Row 2 has equal replies, row 3 is a tie, row 4 lacks a reply, and row 5 "
        "repeats row 0 with other ratings. A pair has to say which of two different replies is better, once.",
        read=_rows,
    ),
    function_exercise(
        "14.2",
        "bug",
        reply_mask,
        [(tokens,) for tokens in _CONVERSATIONS],
        (
            (
                lambda tokens: [
                    int(mark and token != END) for mark, token in zip(reply_mask(tokens), tokens, strict=True)
                ],
                "A model that is trained with this mask writes good replies. When does it stop?",
            ),
            (
                _with_line_break,
                "Who writes the line break behind the end token when the model is used?",
            ),
            (_with_header, "Who writes the header of the assistant's turn when the model is used?"),
            (
                _after_the_first,
                "Look at the second question of the user. Should the model learn to ask it?",
            ),
            (_the_last_alone, "A conversation of several turns has several replies to learn from."),
        ),
        _another_mask,
        "The end token belongs to the reply: it is how the assistant says that it has finished. Without "
        "it in the loss the model talks on, often as the user. The header is written by the template.",
        read=lambda answer, mask: yes_or_no(answer, len(mask)),
    ),
    function_exercise(
        "14.3",
        "function",
        coverage,
        _COVERAGE_INPUTS,
        (
            (
                lambda words, known, n: n * len(_known_starts(words, known, n)) / len(words),
                "A word that lies in two known n-grams is still one word.",
            ),
            (
                lambda words, known, n: len(_known_starts(words, known, n)) / max(1, len(words) - n + 1),
                "That is the share of the n-grams. How many *words* lie in one of them?",
            ),
            (_without_the_last, "Look at the last n words: does your function ever test them?"),
            (_known_words, "A word alone proves nothing; n words in a row have to be known."),
        ),
        lambda found, words, known, n: (
            f"For {' '.join(words)!r} with {len(known)} known n-grams of {n} words your function returns "
            f"{found:.3f}, which is not right; mark the covered words by hand and count them."
        ),
        "This is how the Llama 2 report measures contamination: by the share of an item's tokens that "
        "were seen in training, so that a shared phrase weighs less than a copied problem.",
    ),
    replace(
        change_exercise(
            "14.4",
            _SETTINGS,
            "args.learning_rate=1e-3",
            (
                ({"changed": "args.max_steps=48 args.learning_rate=1e-3"}, "Change one setting"),
                ({"result": paired_numeric(*_LOSSES)}, "higher_is_better=False"),
            ),
            "One change, the same replies, an interval, and a verdict that it supports. Compare it with what "
            "the training loss did: on few rows the two soon part.",
            result=paired_numeric(*_LOSSES, higher_is_better=False),
        ),
        grade=_grade_change,
    ),
)
