"""Rewards that a program can check: is the answer right, does the reply have the form that was asked for?

Each verifier has the signature of TRL's reward functions, so a recipe names it and a trainer calls it:

    exact_answer(completions=["12 + 7 = 19. Mia has 19 pens."], answer=["19"])  # [1.0]

The completions are B replies, texts or lists of messages; columns that a verifier does not read are passed
over. A policy is trained to raise the number that a verifier returns, and finds out what the verifier does
not check. What each of them lets through stands in its docstring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.metrics import HANGUL, UNSPACED, last_number, lenient_match, numbers_equal, plain_text

Completion = str | list[dict[str, Any]]

BOXED_REQUEST = r"Put the final number in \boxed{}."

# Where a term stands; whether it is a number, and which, `metrics` decides.
_TERM = r"[-\u2212]?[$\u20ac\u00a3]?[0-9]++(?:[.,][0-9]++)*+"
_OPERATORS = r"-+*/\u2212\u00d7\u00f7"
_FURTHER_TERM = rf"\s*[{_OPERATORS}]\s*{_TERM}"
# Both sides in whole: what goes on before or behind ("x - 3 + 5 = 7", "2 + 3 = 5 + 1") is no equation.
_EQUATION = re.compile(
    rf"(?<![\w.,$({_OPERATORS}])(?<![=({_OPERATORS}]\s)"
    rf"({_TERM}(?:{_FURTHER_TERM})+)\s*=\s*({_TERM})(?!\w|{_FURTHER_TERM})"
)
_OPERATION = re.compile(rf"\s*([{_OPERATORS}])\s*({_TERM})")
_END_OF_EQUATION = re.compile(r"\.\s+")
_SENTENCE = re.compile(r"[A-Z]\w*\s(?:[^=.!?]|\.(?=[0-9]))+[.!?]")
_BOX = r"\boxed{"
# LaTeX that may stand in a box without changing what it says.
_LATEX = (
    (re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,;:! ]|~"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
)
# They multiply a number by ten thousand and the like, so they are no units.
_MULTIPLIERS = "\u5341\u767e\u5343\u4e07\u842c\u4ebf\u5104\u5146\ub9cc\uc5b5\ucc9c"
_MULTIPLYING_WORDS = "(?:hundred|thousand|[mbtr]+illion|dozen)"
_UNIT = re.compile(
    rf"(?:\s++(?!{_MULTIPLYING_WORDS})[A-Za-z][A-Za-z /]*\.?|\s*(?![{_MULTIPLIERS}])[{UNSPACED}{HANGUL}]+)$",
    re.IGNORECASE,
)


def exact_answer(
    completions: Sequence[Completion], answer: Sequence[Any], **kwargs: Any
) -> list[float | None]:
    r"""Reward a reply whose final answer is the right one: 1.0 or 0.0.

    The final answer is what the last complete \boxed{...} holds, otherwise the last number of the reply. It
    is compared by value: "72.0", "$72", "72." and "1,000" count, and 9 is not found in "19". An answer that
    is no number must occur as whole words (in the box, if there is one).

    A reply may say anything before its final answer: wrong steps are not seen, and where the answer is a
    word, a reply that lists many of them passes.

    Args:
        completions: B replies.
        answer: B answers; None gives no reward, which TRL leaves out.
        **kwargs: other columns, unused.

    Raises:
        CourseError: another number of answers than of replies, or an empty answer.
    """
    replies = reply_texts(completions)
    if isinstance(answer, str) or len(answer) != len(replies):
        found = "one text" if isinstance(answer, str) else f"{len(answer)} answers"
        raise CourseError(
            f"each reply needs its answer, but {len(replies)} replies and {found} were given; pass two lists "
            "of one length."
        )
    return [_is_right(reply, expected) for reply, expected in zip(replies, answer, strict=True)]


def worked_format(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """Reward the form of a worked solution, equations "a + b = c." and then one sentence: 1.0 or 0.0.

    Only the form counts. "1 + 1 = 5. Mia has 5 pens." gets the full reward, so a policy that is trained on
    this alone learns to write any equation. `equations_right` looks at the numbers.
    """
    return [float(_has_worked_form(reply)) for reply in reply_texts(completions)]


def equations_right(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """Reward the share of the equations in a reply that are true, from 0.0 to 1.0; no equation gives 0.0.

    The comparison is exact: "10 / 3 = 3.33" is not true. Whether an equation has to do with the question is
    not checked, so "1 + 1 = 2." gets the full reward.
    """
    shares = []
    for reply in reply_texts(completions):
        truths = [_is_true(found) for found in _EQUATION.finditer(plain_text(reply))]
        shares.append(sum(truths) / len(truths) if truths else 0.0)
    return shares


def boxed_format(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    r"""Reward a reply with exactly one \boxed{...} that is closed and not empty: 1.0 or 0.0.

    Whatever stands in the box counts.
    """
    rewards = []
    for reply in reply_texts(completions):
        content = last_boxed(reply)
        rewards.append(float(reply.count(_BOX) == 1 and content is not None and bool(content.strip())))
    return rewards


VERIFIERS: dict[str, Callable[..., list[float | None]]] = {
    function.__name__: function for function in (exact_answer, worked_format, equations_right, boxed_format)
}


# What chooses rows of made data without a model.
NO_MODEL = ("gold", "random", "verifier")


def reward_models(names: Iterable[str]) -> list[str]:
    """Return those of the names of rewards that are reward models and no verifiers."""
    return [name for name in names if name not in VERIFIERS]


def gsm8k_answer(text: str) -> str:
    """Return the final number of a solution in the form of GSM8K: what stands behind "####".

    It loses its thousands separators: "... 2 + 1 = 3 clips.\\n#### 1,003" gives "1003".

    Raises:
        CourseError: there is no "####", or what follows is no number.

    Source: Cobbe et al. (2021), arXiv:2110.14168.
    """
    _, mark, final = text.rpartition("####")
    if not mark or not _is_number(final):
        raise CourseError(
            f"a solution in the form of GSM8K ends with '#### <number>', but {text[-40:]!r} was found."
        )
    return f"{last_number(final):f}"


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete \boxed{...} with balanced braces holds, None if there is none."""
    start = text.rfind(_BOX)
    while start >= 0:
        depth = 1
        for position in range(start + len(_BOX), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(_BOX) : position]
        start = text.rfind(_BOX, 0, start)
    return None


def reply_texts(completions: Sequence[Completion]) -> list[str]:
    """Return the text of each completion, whether it is a text or a list of messages.

    Raises:
        CourseError: one string instead of a list, or a completion of another form.
    """
    if isinstance(completions, str):
        raise CourseError("completions must be a list, but one string was given; write [reply].")
    texts = []
    for completion in completions:
        text = completion
        if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
            text = completion[-1].get("content")
        if not isinstance(text, str):
            raise CourseError(
                "a completion must be a text or a list of messages that ends with the reply, but "
                f"{str(completion)[:60]!r} was found."
            )
        texts.append(text)
    return texts


def _is_right(reply: str, answer: Any) -> float | None:
    if answer is None:
        return None
    boxed = last_boxed(reply)
    if boxed is None:
        return float(bool(lenient_match(reply, {"answer": answer})))
    for pattern, plain in _LATEX:
        boxed = pattern.sub(plain, boxed)
    boxed = boxed.strip()
    if not _is_number(answer):
        return float(bool(lenient_match(boxed, {"answer": answer})))
    # One number and its unit: a box with several candidates, or with a fraction, holds no final number.
    return float(numbers_equal(_UNIT.sub("", plain_text(boxed)), answer))


def _is_number(value: Any) -> bool:
    return numbers_equal(value, value)


def _has_worked_form(reply: str) -> bool:
    reply, position = plain_text(reply).strip(), 0
    while equation := _EQUATION.match(reply, position):
        end = _END_OF_EQUATION.match(reply, equation.end())
        if end is None:
            return False
        position = end.end()
    return position > 0 and _SENTENCE.fullmatch(reply, position) is not None


def _is_true(equation: re.Match[str]) -> bool:
    left, right = _value_of(equation[1]), _value_of(equation[2])
    return left is not None and left == right


def _value_of(expression: str) -> Fraction | None:
    """Return the value of terms with operators between them, products before sums; None if it has none."""
    first = re.match(_TERM, expression)
    # The product that is being formed is kept apart: only a sum or a difference closes it.
    total, product = Fraction(0), _number(first[0])
    for operator, term in _OPERATION.findall(expression, first.end()):
        number = _number(term)
        if product is None or number is None or (operator in "/\u00f7" and number == 0):
            return None
        if operator in "*\u00d7":
            product *= number
        elif operator in "/\u00f7":
            product /= number
        else:
            total, product = total + product, number if operator == "+" else -number
    return None if product is None else total + product


def _number(term: str) -> Fraction | None:
    return Fraction(last_number(term)) if _is_number(term) else None
