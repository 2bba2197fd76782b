"""The exercises of lesson 14, real data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import eq
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    compared,
    is_close,
    name_mistake,
    number,
    numbers,
    plain,
    yes_or_no,
)
from posttrain_helpers.statistics import PairedResult, paired_numeric

KEPT = {0, 1}
# What a row that is wrongly kept, or wrongly dropped, should make a student look at.
_ROW_HINTS = {
    0: "Row 0 has two different replies and clear ratings, and no row comes before it. Why drop it?",
    1: "A prompt may come twice. Do two rows of one prompt say the same if the rejected replies differ?",
    2: "Print the two replies of row 2 without the blanks around them. What is left to prefer?",
    3: "Look at the ratings of row 3. Which of the two replies is the better one?",
    4: "Would you show a model the rejected reply of row 4?",
    5: "Compare the texts of row 5 with those of the rows before it, and leave the ratings aside.",
}


def _grade_rows(answer: Any) -> None:
    values = plain(answer)
    values = list(values) if isinstance(values, (set, frozenset, range)) else values
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= len(_ROW_HINTS):
        raise NotYet("Give a list of row numbers, such as [3, 5].")
    if any(isinstance(plain(value), bool) for value in values):
        raise NotYet("Give the numbers of the rows that are left, and no True or False for each row.")
    rows = set(numbers(values, len(values)))
    if not rows <= _ROW_HINTS.keys():
        raise NotYet("The rows are numbered from 0 to 5.")
    for row, hint in _ROW_HINTS.items():
        if (row in rows) != (row in KEPT):
            raise NotYet(hint)


Words = Sequence[str]
Ngrams = set[tuple[str, ...]]


def coverage(words: Words, known: Ngrams, n: int) -> float:
    """Return the share of words that lie in a known n-gram."""
    covered: set[int] = set()
    for start in range(len(words) - n + 1):
        if tuple(words[start : start + n]) in known:
            covered.update(range(start, start + n))
    return len(covered) / len(words)


def _share_of_ngrams(words: Words, known: Ngrams, n: int) -> float:
    starts = range(len(words) - n + 1)
    found = [tuple(words[start : start + n]) in known for start in starts]
    return sum(found) / max(1, len(found))


def _counted_twice(words: Words, known: Ngrams, n: int) -> float:
    return n * sum(tuple(words[i : i + n]) in known for i in range(len(words) - n + 1)) / len(words)


def _without_the_last(words: Words, known: Ngrams, n: int) -> float:
    covered: set[int] = set()
    for start in range(len(words) - n):
        if tuple(words[start : start + n]) in known:
            covered.update(range(start, start + n))
    return len(covered) / len(words)


def _known_words(words: Words, known: Ngrams, n: int) -> float:
    single = {word for ngram in known for word in ngram}
    return sum(word in single for word in words) / len(words)


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


def _grade_coverage(answer: Any) -> None:
    for words, known, n in _COVERAGE_INPUTS:
        found, expected = number(call(answer, words, known, n)), coverage(words, known, n)
        if is_close(found, expected, 1e-6):
            continue
        hints: tuple[tuple[Callable[..., float], str], ...] = (
            (_counted_twice, "A word that lies in two known n-grams is still one word."),
            (_share_of_ngrams, "That is the share of the n-grams. How many *words* lie in one of them?"),
            (_without_the_last, "Look at the last n words: does your function ever test them?"),
            (_known_words, "A word alone proves nothing; n words in a row have to be known."),
        )
        name_mistake(hints, found, words, known, n)
        raise NotYet(
            f"For {' '.join(words)!r} with {len(known)} known n-grams of {n} words your function returns "
            f"{found:.3f}, which is not right; mark the covered words by hand and count them."
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


def _without_end(tokens: Sequence[str]) -> list[int]:
    return [int(mark and token != END) for mark, token in zip(reply_mask(tokens), tokens, strict=True)]


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


def _grade_mask(answer: Any) -> None:
    for tokens in _CONVERSATIONS:
        found = [int(mark) for mark in yes_or_no(call(answer, tokens), len(tokens))]
        if found == reply_mask(tokens):
            continue
        hints = (
            (_without_end, "A model that is trained with this mask writes good replies. When does it stop?"),
            (_with_line_break, "Who writes the line break behind the end token when the model is used?"),
            (_with_header, "Who writes the header of the assistant's turn when the model is used?"),
            (_after_the_first, "Look at the second question of the user. Should the model learn to ask it?"),
            (_the_last_alone, "A conversation of several turns has several replies to learn from."),
        )
        name_mistake(hints, found, tokens, same=eq)
        marked = "".join(f"[{token}]" if mark else token for token, mark in zip(tokens, found, strict=True))
        raise NotYet(f"Your mask marks {marked!r}. Are these the tokens that the assistant says?")


def _no_mask(tokens: Sequence[str]) -> list[int]:
    return [0] * len(tokens)


def _without_start(tokens: Sequence[str]) -> list[int]:
    mask: list[int] = []
    for place in range(len(tokens)):
        goes_on = mask[-1:] == [1] and tokens[place - 1] != END
        mask.append(int(goes_on or list(tokens[:place][-2:]) == ["assistant", "\n"]))
    return mask


_SETTINGS = ("args.learning_rate", "args.max_steps", "args.max_length")


def _grade_change(answer: Any) -> None:
    result = answer.get("result") if isinstance(answer, dict) else None
    # Before the verdict, which is read the other way round.
    if isinstance(result, PairedResult) and result.higher_is_better and result.difference:
        raise NotYet("These are losses: give `paired` the argument `higher_is_better=False`.")
    compared(answer, _SETTINGS)


_BEFORE, _AFTER = [5.0, 5.5, 6.0] * 20, [4.5, 5.25, 5.0] * 20
_LOWER_LOSS = paired_numeric(_BEFORE, _AFTER, higher_is_better=False)
_CHANGE = change_exercise(
    "14.4",
    allowed=_SETTINGS,
    changed="args.learning_rate=1e-3",
    result=_LOWER_LOSS,
    why="One change, the same replies, an interval, and a verdict that it supports. Compare it with what "
    "the training loss did: on few rows the two soon part.",
)
_TWO_CHANGES = {**_CHANGE.solution, "changed": "args.max_steps=48 args.learning_rate=1e-3"}
_HIGHER_IS_BETTER = {**_CHANGE.solution, "result": paired_numeric(_BEFORE, _AFTER)}

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="14.1",
        kind="predict",
        grade=_grade_rows,
        solution=[0, 1],
        mistakes=(
            ([0], "A prompt may come twice"),
            ([0, 1, 2], "without the blanks"),
            ([0, 1, 3], "ratings of row 3"),
            ([0, 1, 5], "the rows before it"),
            ([1, 7], "from 0 to 5"),
            (2, "list of row numbers"),
            ([True, True, False, False, False, False], "no True or False"),
        ),
        why="Two rows are left. Row 2 has equal replies, row 3 is a tie, row 4 lacks a reply, and row 5 "
        "repeats row 0 with other ratings. A pair has to say which of two different replies is better, once.",
    ),
    Exercise(
        id="14.2",
        kind="bug",
        grade=_grade_mask,
        solution=reply_mask,
        mistakes=(
            (_without_end, "When does it stop"),
            (_with_line_break, "the line break"),
            (_with_header, "Who writes the header"),
            (_after_the_first, "second question"),
            (_the_last_alone, "several replies"),
            (_no_mask, "that the assistant says"),
            (_without_start, "says"),
        ),
        why="The end token belongs to the reply: it is how the assistant says that it has finished. Without "
        "it in the loss the model talks on, often as the user. The header is written by the template.",
    ),
    Exercise(
        id="14.3",
        kind="function",
        grade=_grade_coverage,
        solution=coverage,
        mistakes=(
            (_share_of_ngrams, "share of the n-grams"),
            (_counted_twice, "still one word"),
            (_without_the_last, "the last n words"),
            (_known_words, "A word alone"),
            (lambda words, known, n: 0.5, "by hand"),
        ),
        why="This is how the Llama 2 report measures contamination: by the share of an item's tokens that "
        "were seen in training, so that a shared phrase weighs less than a copied problem.",
    ),
    replace(
        _CHANGE,
        grade=_grade_change,
        mistakes=(
            *_CHANGE.mistakes,
            (_TWO_CHANGES, "Change one setting"),
            (_HIGHER_IS_BETTER, "higher_is_better=False"),
        ),
    ),
)
