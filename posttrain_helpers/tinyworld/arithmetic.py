"""Sums and word problems, with their worked solutions.

Numbers are small enough for a tiny model and a problem never yields 0 or 1, so that every plural is right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from operator import add, mul, sub

from posttrain_helpers.environment.splits import Split, drawn_split
from posttrain_helpers.tinyworld.vocabulary import NAMES, OBJECTS, PLACES, pronouns

LARGEST_OPERAND = 30


@dataclass(frozen=True)
class Sum:
    """One calculation such as `12 + 7 = 19`."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        """The value."""
        return {"+": add, "-": sub, "*": mul}[self.operator](self.left, self.right)

    @property
    def expression(self) -> str:
        """The left-hand side, such as `12 + 7`."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def equation(self) -> str:
        """The whole line, such as `12 + 7 = 19.`."""
        return f"{self.expression} = {self.result}."


@dataclass(frozen=True)
class WordProblem:
    """A question about a small event, and its solution step by step."""

    kind: str
    text: str
    question: str
    steps: tuple[Sum, ...]
    conclusion: str

    @property
    def prompt(self) -> str:
        """The problem as it is asked."""
        return f"{self.text} {self.question}"

    @property
    def answer(self) -> str:
        """The final number."""
        return str(self.steps[-1].result)

    @property
    def solution(self) -> str:
        """Each step as an equation, then the conclusion."""
        return " ".join([*(step.equation for step in self.steps), self.conclusion])


SUM_QUESTIONS = (
    "What is {e}?",
    "How much is {e}?",
    "Calculate {e}.",
    "Please work out {e}.",
    "Can you tell me what {e} is?",
    "Give me the result of {e}.",
    "What do you get for {e}?",
    "Find {e}.",
)


def random_sum(rng: random.Random) -> Sum:
    """Draw a sum, a difference (never negative) or a product from the small tables."""
    operator = rng.choice("++--*")
    if operator == "*":
        return Sum(rng.randint(1, 10), "*", rng.randint(1, 10))
    left, right = rng.randint(0, LARGEST_OPERAND), rng.randint(0, LARGEST_OPERAND)
    if operator == "-":
        left, right = max(left, right), min(left, right)
    return Sum(left, operator, right)


def split_of_sum(item: Sum) -> Split:
    """Return the split of a calculation, the same for either order of a sum or product."""
    numbers = (item.left, item.right)
    left, right = numbers if item.operator == "-" else sorted(numbers)
    return drawn_split(f"{left}{item.operator}{right}")


# {n} {m}: names; {S} {o}: pronouns of the first name; {x} {y}: numbers; {t}: the things; {l}: a place.
_GAIN = (
    ("{m} gives {o} {y} more.", "{m} gives {o} {y}."),
    ("{S} finds {y} more.", "{S} finds {y} more near the {l}."),
    ("{S} buys {y} more.", "{S} buys {y} more at the market."),
    ("{S} gets {y} more from {m}.", "{S} gets {y} more from {m}."),
    ("{S} picks up {y} more.", "{S} picks up {y} more."),
)
_LOSS = (
    ("{S} gives {y} to {m}.", "{S} gives {y} of them to {m}."),
    ("{S} loses {y}.", "{S} loses {y} of them near the {l}."),
    ("{S} sells {y}.", "{S} sells {y} of them."),
    ("{m} takes {y}.", "{m} takes {y} of them."),
    ("{S} drops {y}.", "{S} drops {y} of them."),
)
_START = (
    "{n} has {x} {t}.",
    "{n} has {x} {t} in a bag.",
    "There are {x} {t} in the room of {n}.",
    "{n} owns {x} {t}.",
)
_QUESTION = (
    "How many {t} does {n} have now?",
    "How many {t} does {n} have in the end?",
    "How many {t} does {n} own now?",
    "What number of {t} does {n} have now?",
)
HELD_OUT_PROBLEM_QUESTION = "Count the {t} that {n} has now."


def word_problem(
    rng: random.Random, steps: int, *, smallest: int = 3, largest: int = 12, held_out: bool = False
) -> WordProblem:
    """Draw a word problem.

    One in five of a single step is about groups, such as 5 boxes with 7 bottles each: 2 to 6 groups of 2 to 9
    things, whatever `smallest` and `largest` are.

    Args:
        rng: the source of chance.
        steps: 1 or 2 calculations.
        smallest: the smallest amount that another problem begins with, at least 3.
        largest: the largest number in another problem's text.
        held_out: whether to use the phrasing of the question that is held out from training.

    Returns:
        A problem whose intermediate and final results are at least 2.
    """
    name, other = rng.sample(NAMES, 2)
    noun = rng.choice(tuple(OBJECTS))
    subject, object_, _ = pronouns(name)
    words = {"n": name, "m": other, "S": subject.capitalize(), "o": object_, "t": OBJECTS[noun]}
    if steps == 1 and rng.random() < 0.2:
        return _groups_problem(rng, words, held_out)
    amount = rng.randint(smallest, largest)
    text = [rng.choice(_START).format(x=amount, **words)]
    calculations = []
    for _ in range(steps):
        gain = rng.random() < 0.5 if amount > 4 else True
        change = rng.randint(2, largest) if gain else rng.randint(2, amount - 2)
        place = rng.choice(PLACES)
        text.append(rng.choice(rng.choice(_GAIN if gain else _LOSS)).format(y=change, l=place, **words))
        calculations.append(Sum(amount, "+" if gain else "-", change))
        amount = calculations[-1].result
    question = HELD_OUT_PROBLEM_QUESTION if held_out else rng.choice(_QUESTION)
    return WordProblem(
        kind=f"{steps}_step",
        text=" ".join(text),
        question=question.format(**words),
        steps=tuple(calculations),
        conclusion=f"{name} has {amount} {words['t']}.",
    )


def _groups_problem(rng: random.Random, words: dict[str, str], held_out: bool) -> WordProblem:
    groups, each = rng.randint(2, 6), rng.randint(2, 9)
    holder = rng.choice(("bags", "boxes", "baskets"))
    question = HELD_OUT_PROBLEM_QUESTION if held_out else "How many {t} does {n} have?"
    return WordProblem(
        kind="1_step",
        text=f"{words['n']} has {groups} {holder} with {each} {words['t']} in each.",
        question=question.format(**words).replace(" now.", "."),
        steps=(Sum(groups, "*", each),),
        conclusion=f"{words['n']} has {groups * each} {words['t']}.",
    )
