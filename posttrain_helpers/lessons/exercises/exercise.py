"""What an exercise of a lesson is, and what a student's answer gets back."""

from __future__ import annotations

import html
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Any, Literal

from posttrain_helpers.statistics.paired_tests import (
    VERDICTS,
    PairedResult,
    format_p,
    paired_binary,
    verdict,
)
from posttrain_helpers.wording import listed

Kind = Literal["predict", "function", "bug", "change"]
READINGS = VERDICTS[:3]  # the last one needs a margin
NOT_ANSWERED = "Not answered yet: put your answer in its place and run the cell again."
FEWEST_ITEMS = 50
DRAWS = 600  # of a control that is drawn by lot
# Standard deviations by which a frequency may be off: chance alone goes so far once in millions.
_FAR = 5
LONGEST_ANSWER = 200


class NotYet(Exception):  # noqa: N818 - it is feedback, no failure
    """A wrong answer; the text is one sentence that helps and does not give the answer away."""


class Unanswered(Exception):  # noqa: N818
    """Nothing was answered: the value is None, or the function returns None."""


@dataclass(frozen=True)
class Feedback:
    """What `check` says; `correct` is None while nothing was answered."""

    correct: bool | None
    message: str

    def __str__(self) -> str:
        return f"{self._head} {self.message}".strip()

    __repr__ = __str__

    @property
    def _head(self) -> str:
        return {True: "Right.", False: "Not yet.", None: ""}[self.correct]

    def _repr_html_(self) -> str:
        colour = {True: "#009e73", False: "#d55e00", None: "#7f7f7f"}[self.correct]
        head = f"<strong>{self._head}</strong> " if self._head else ""
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:4px 10px">'
            f"{head}{html.escape(self.message)}</div>"
        )


@dataclass(frozen=True)
class Exercise:
    """One exercise with all that a student must not see in the notebook.

    Attributes:
        id: the lesson's number and the exercise's, such as "06.2".
        kind: "predict" before running, write a "function", find the "bug", or "change" a setting and compare.
        grade: raises `NotYet` for a wrong answer, with the hint that fits the mistake.
        solution: an answer that is right.
        mistakes: answers that are wrong in a typical way, each with words that its feedback must have.
        why: shown beside "Right.", so that a lucky guess learns something, too.
    """

    id: str
    kind: Kind
    grade: Callable[[Any], None]
    solution: Any
    mistakes: tuple[tuple[Any, str], ...]
    why: str

    def check(self, answer: Any) -> Feedback:
        """Return what a student gets for an answer."""
        try:
            if answer is None or answer is ...:
                raise Unanswered
            self.grade(answer)
        except Unanswered:
            return Feedback(None, NOT_ANSWERED)
        except NotYet as hint:
            return Feedback(False, str(hint))
        return Feedback(True, self.why)


def call(function: Any, *arguments: Any) -> Any:
    """Call a student's function with copies, so that it cannot change what it is graded by.

    What it yields one by one comes back as a list.

    Raises:
        NotYet: it is no function, it stops with an error, or it returns nothing.
        Unanswered: nothing was written into it.
    """
    if not callable(function):
        raise NotYet(f"A function is expected here, but {type(function).__name__} was found.")
    try:
        value = function(*deepcopy(arguments))
        value = list(value) if isinstance(value, Iterator) else value
    except NotImplementedError:
        raise Unanswered from None
    except Exception as error:
        raise NotYet(f"Your function stops with {type(error).__name__}: {error}") from error
    if value is ... or (value is None and _is_empty(function)):
        raise Unanswered
    if value is None:
        raise NotYet("Your function returns nothing. Does every way through it end with `return`?")
    return value


def _is_empty(function: Any) -> bool:
    """Say whether a function has no body but `...`, as the notebooks ship it."""

    def empty() -> None: ...

    def documented() -> None:
        """Nothing follows."""
        ...

    code = getattr(function, "__code__", None)
    return code is not None and code.co_code in (empty.__code__.co_code, documented.__code__.co_code)


def number(answer: Any) -> float:
    """Return a student's number, also of a tensor with one element.

    Raises:
        NotYet: it is no finite number.
    """
    try:
        value = float(answer)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise NotYet(f"A number is expected here, but {_shown(answer)} was found.") from None
    if not math.isfinite(value):
        raise NotYet(f"The number is {value}; somewhere a logarithm or a division went wrong.")
    return value


def is_close(found: Any, expected: Any, tolerance: float = 5e-3) -> bool:
    """Say whether a number, or a list of numbers, is the expected one, up to rounding."""
    if isinstance(found, list):
        return len(found) == len(expected) and all(
            is_close(one, other, tolerance) for one, other in zip(found, expected, strict=True)
        )
    return bool(abs(found - expected) <= tolerance * max(1.0, abs(expected)))


def like(found: Any, expected: Any) -> bool:
    """Say whether results are the same, up to the rounding of float32."""
    return is_close(found, expected, 1e-4)


def numbers(answer: Any, count: int) -> list[float]:
    """Return a student's numbers, of a list or a tensor.

    Raises:
        NotYet: there are more or fewer, or one is no number.
    """
    values = plain(answer)
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or len(values) != count:
        raise NotYet(f"{count} numbers are expected here, but {_shown(answer)} was found.")
    return [number(value) for value in values]


def whole_numbers(answer: Any, count: int) -> list[int]:
    """Return a student's whole numbers, of a list or a tensor.

    Raises:
        NotYet: there are more or fewer, or one is no whole number.
    """
    values = numbers(answer, count)
    if not all(value.is_integer() for value in values):
        raise NotYet(f"{count} whole numbers are expected here, but {_shown(answer)} was found.")
    return [int(value) for value in values]


def yes_or_no(answer: Any, count: int) -> list[bool]:
    """Return a student's verdicts, of a list or a tensor of truth values.

    Raises:
        NotYet: there are more or fewer, or one is neither true nor false.
    """
    values = numbers(answer, count)
    if not set(values) <= {0.0, 1.0}:
        raise NotYet(f"{count} times True or False is expected here, but {_shown(answer)} was found.")
    return [bool(value) for value in values]


def plain(answer: Any) -> Any:
    """Return the list that an array, a tensor or a series holds; anything else as it is."""
    return answer.tolist() if hasattr(answer, "tolist") else answer


def _shown(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]}..."


def choice(answer: Any, choices: Sequence[str]) -> str:
    """Return a student's choice among words, whatever its case.

    Raises:
        NotYet: it is none of them.
    """
    known = {word.lower(): word for word in choices}
    if not isinstance(answer, str) or answer.strip().lower() not in known:
        raise NotYet(
            f"One of {', '.join(map(repr, choices))} is expected here, but {_shown(answer)} was found."
        )
    return known[answer.strip().lower()]


def choices_by_key(answer: Any, keys: Collection[str], choices: Sequence[str]) -> dict[str, str]:
    """Return the choices of an answer that has one for each key."""
    if not isinstance(answer, dict) or set(answer) != set(keys):
        quoted = [f'"{key}"' for key in keys]
        raise NotYet(f"Give a dictionary with the keys {listed(quoted)}.")
    return {key: choice(value, choices) for key, value in answer.items()}


def check_draws(draw: Callable[[int], Any]) -> None:
    """Refuse a control whose draws depend on Python's own generator beside the one that it is given.

    Args:
        draw: of a seed for the generator that is given.
    """
    state = random.getstate()
    found = []
    try:
        for own in (1, 2):
            random.seed(own)
            found.append([draw(seed) for seed in range(8)])
    finally:
        random.setstate(state)
    if found[0] != found[1]:
        raise NotYet("Draw with `rng` alone, so that the same seed gives the same control.")


def is_far(count: int, share: float) -> bool:
    """Say whether a count among the draws of a control is further from its expectation than chance goes."""
    return abs(count - DRAWS * share) > _FAR * (DRAWS * share * (1 - share)) ** 0.5


def selection(answer: Any, choices: Sequence[str]) -> list[str]:
    """Return a student's choices among words, of a list, a set or an array; one word is a list of one.

    Raises:
        NotYet: it is no list, or one is none of the words.
    """
    values = plain(answer)
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise NotYet(
            f"A list of words out of {', '.join(map(repr, choices))} is expected here, but {_shown(answer)} "
            "was found."
        )
    return [choice(value, choices) for value in values]


def compared(answer: Any, allowed: Sequence[str]) -> PairedResult:
    """Return the comparison of "change a setting and compare", if one setting changed and it is read right.

    Args:
        answer: {"changed": "args.beta=0.5", "result": a `PairedResult`, "verdict": what it shows}.
        allowed: the settings that the exercise is about, such as "args.beta".

    Raises:
        NotYet: something is missing, more than one setting differs, or the verdict is not the result's.
    """
    if not isinstance(answer, dict) or set(answer) != {"changed", "result", "verdict"}:
        raise NotYet('Give a dictionary with the keys "changed", "result" and "verdict".')
    changed = answer["changed"]
    if not isinstance(changed, str) or changed.count("=") != 1 or changed.count("args.") > 1:
        raise NotYet(
            'Change one setting and name it, such as "args.learning_rate=1e-4": with two changes at once '
            "nobody knows which one did it."
        )
    setting, value = (part.strip() for part in changed.split("="))
    if value in ("", "..."):
        raise NotYet(f"Say which value {setting!r} got, such as {setting + '=2'!r}.")
    if setting not in allowed:
        raise NotYet(f"This exercise is about {' or '.join(allowed)}; {setting!r} was changed.")
    result = answer["result"]
    if not isinstance(result, PairedResult):
        raise NotYet("The result must come from a paired comparison on the same items, interval included.")
    if result.n < FEWEST_ITEMS:
        raise NotYet(f"{result.n} items decide nothing; compare on at least {FEWEST_ITEMS}.")
    if result.same == result.n:
        raise NotYet(
            f"Not one of the {result.n} items changed: did the new value reach the run, or was a run "
            "compared with itself?"
        )
    said, shown = choice(answer["verdict"], READINGS), verdict(result)
    if said != shown and shown == "no_difference_shown" and not result.low <= 0 <= result.high:
        raise NotYet(
            f"The interval leaves 0 out, but {format_p(result.p)}: where so few items differ, p has to be "
            "below 0.05, too."
        )
    if said != shown:
        better = "higher" if result.higher_is_better else "lower"
        raise NotYet(
            f"The interval goes from {result.low:+.3f} to {result.high:+.3f}, and {better} counts as better: "
            f"does it leave 0 out, and on which side? {said!r} does not say that."
        )
    return result


def check_begins_trained(result: PairedResult, rival: str) -> None:
    """Refuse a comparison with the base model where one with a trained model is asked for.

    Args:
        result: of right answers.
        rival: what to compare with, for the hint.
    """
    if result.before < result.after / 2:
        raise NotYet(
            f"Your comparison begins at {result.before:.0%}, as the base model does; compare with {rival}."
        )


def parts_exercise(
    number: str,
    right: dict[str, Any] | list[Any],
    values: Sequence[Any],
    hints: dict[Any, str | dict[Any, str]],
    why: str,
    read: Callable[[Any], Any] | None = None,
) -> Exercise:
    """Return an exercise "predict" that asks for several things; the first wrong one gets its hint.

    Args:
        number: the exercise's id, such as "06.1".
        right: what is right, by key or in order.
        values: what may be said of each part.
        hints: a hint for each part, or one for each wrong value of it, in the order of looking.
        why: as in `Exercise`.
        read: makes parts of an answer; a dictionary of choices is expected otherwise.
    """
    read = read or partial(choices_by_key, keys=right, choices=values)

    def grade(answer: Any) -> None:
        said = read(answer)
        for part, hint in hints.items():
            if said[part] != right[part]:
                raise NotYet(hint if isinstance(hint, str) else hint[said[part]])

    def with_wrong(part: Any, value: Any) -> Any:
        answer = deepcopy(right)
        answer[part] = value
        return answer

    mistakes = []
    for part, hint in hints.items():
        if isinstance(hint, str):
            hint = {next(value for value in values if value != right[part]): hint}
        mistakes += [(with_wrong(part, value), words) for value, words in hint.items()]
    return Exercise(number, "predict", grade, right, tuple(mistakes), why)


def members_exercise(
    number: str,
    right: list[Any],
    hints: dict[Any, str],
    why: str,
    read: Callable[[Any], Collection[Any]] | None = None,
) -> Exercise:
    """Return an exercise "predict" that asks which ones of some things belong together.

    Args:
        number: the exercise's id, such as "01.1".
        right: the ones that belong.
        hints: what is said of each thing that is wrongly in the answer or missing, in the order of looking.
        why: as in `Exercise`.
        read: makes things of an answer; a selection of words is expected otherwise.
    """

    def grade(answer: Any) -> None:
        named = read(answer) if read else selection(answer, list(hints))
        for member, hint in hints.items():
            if (member in named) != (member in right):
                raise NotYet(hint)

    mistakes = {
        hint: [one for one in hints if (one in right) != (one == member)] for member, hint in hints.items()
    }
    return Exercise(
        number, "predict", grade, right, tuple((one, hint) for hint, one in mistakes.items()), why
    )


def value_exercise(
    number: str,
    right: Any,
    mistakes: tuple[tuple[Any, str], ...],
    otherwise: Callable[[Any], str],
    why: str,
    read: Callable[[Any], Any],
    same: Callable[[Any, Any], bool] = eq,
) -> Exercise:
    """Return an exercise "predict" with one right value.

    Args:
        number: the exercise's id, such as "05.3".
        right: the value.
        mistakes: values that are wrong in a typical way, each with its hint.
        otherwise: the hint for another value.
        why: as in `Exercise`.
        read: makes a value of an answer.
        same: says whether two values are the same.
    """

    def grade(answer: Any) -> None:
        found = read(answer)
        if not same(found, right):
            known = (hint for wrong, hint in mistakes if same(found, wrong))
            raise NotYet(next(known, None) or otherwise(found))

    return Exercise(number, "predict", grade, right, mistakes, why)


def function_exercise(
    number: str,
    kind: Kind,
    right: Callable[..., Any],
    inputs: Iterable[tuple[Any, ...]],
    mistakes: tuple[tuple[Callable[..., Any], str], ...],
    otherwise: Callable[..., str],
    why: str,
    *,
    read: Callable[[Any, Any], Any] | None = None,
    same: Callable[[Any, Any], bool] = like,
    before: Callable[..., str] | None = None,
    also: Callable[[Any], None] | None = None,
) -> Exercise:
    """Return an exercise whose answer is a function, tried on inputs one after the other.

    Args:
        number: the exercise's id, such as "06.2".
        kind: "function" or "bug".
        right: the solution.
        inputs: what the functions are called with.
        mistakes: functions that are wrong in a typical way, each with its hint; a student's function gets the
            hint of the first that has given the same results up to the first wrong one.
        otherwise: the hint for another function, made of the wrong result and its inputs.
        why: as in `Exercise`.
        read: makes a result that can be compared of what a function returned and the right result; as many
            numbers, or truth values, as in the right result are expected otherwise.
        same: says whether two results are the same.
        before: made of the wrong result and its inputs, stands before any hint.
        also: raises `NotYet` for a function that gives the right results, and yet is wrong.
    """
    read = read or _in_the_form_of

    def grade(answer: Any) -> None:
        alike = mistakes
        for given in inputs:
            expected = right(*given)
            found = read(call(answer, *given), expected)
            alike = [(mistake, hint) for mistake, hint in alike if same(found, mistake(*given))]
            if not same(found, expected):
                shown = before(found, *given) if before else ""
                raise NotYet(shown + (alike[0][1] if alike else otherwise(found, *given)))
        if also:
            also(answer)

    return Exercise(number, kind, grade, right, mistakes, why)


def _in_the_form_of(answer: Any, expected: Any) -> Any:
    wanted = plain(expected)
    if not isinstance(wanted, (list, tuple)):
        return number(answer)
    read = yes_or_no if all(isinstance(value, bool) for value in wanted) else numbers
    return read(answer, len(wanted))


# The comparison in the solution of an exercise "change a setting and compare" that needs no other one.
LOST = paired_binary([True] * 90 + [False] * 10, [True] * 70 + [False] * 30)


def change_exercise(
    number: str,
    allowed: Sequence[str],
    changed: str,
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (),
    why: str = "One change, the same questions, an interval, and a verdict that follows from it.",
    *,
    result: PairedResult = LOST,
    also: Callable[[dict[str, Any], PairedResult], None] | None = None,
) -> Exercise:
    """Return an exercise "change a setting and compare", with the mistakes that all of them share.

    Args:
        number: the exercise's id, such as "06.4".
        allowed: the settings that it is about.
        changed: one of them with its value, as in the solution.
        mistakes: beside the shared ones: what differs from the solution, and words that the feedback has.
        why: as in `Exercise`.
        result: what the comparison of the solution gives.
        also: raises `NotYet` for an answer that is wrong in a way of this exercise alone; called with the
            answer and its comparison.
    """
    right = {"changed": changed, "result": result, "verdict": verdict(result)}

    def grade(answer: Any) -> None:
        found = compared(answer, allowed)
        if also:
            also(answer, found)

    unchanged = paired_binary([True] * FEWEST_ITEMS, [True] * FEWEST_ITEMS)
    shared = (
        (
            {"verdict": next(reading for reading in READINGS if reading != verdict(result))},
            "does it leave 0 out",
        ),
        ({"changed": "another.setting=1"}, "This exercise is about"),
        ({"result": result.difference}, "paired comparison"),
        ({"result": unchanged}, "compared with itself"),
    )
    wrong = tuple(({**right, **other}, words) for other, words in shared + mistakes)
    return Exercise(number, "change", grade, right, wrong, why)
