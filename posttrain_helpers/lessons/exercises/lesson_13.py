"""The exercises of lesson 13: blind raters, Cohen's kappa, who was shown first, another question."""

from __future__ import annotations

from collections import Counter
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    is_close,
    name_mistake,
    number,
    numbers,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

_SETTINGS = ("template", "letters")
_BLIND = (0.82, 0.0)  # 0.9 * 0.9 + 0.1 * 0.1, and nothing beyond chance


def _grade_blind(answer: Any) -> None:
    agreement, kappa = numbers(answer, 2)
    if is_close(agreement, 82) or (is_close(agreement, 0.82) and is_close(kappa, 82)):
        raise NotYet("Give shares, such as 0.25 for a quarter of the pairs.")
    if is_close(agreement, 0.81):
        raise NotYet('That is how often both say "left". On which other pairs do they agree?')
    if is_close(agreement, 0.9):
        raise NotYet("Each of them says it on nine pairs in ten, but not on the same nine.")
    if not is_close(agreement, _BLIND[0]):
        raise NotYet("How probable is it that both say the same, when neither reads the pair?")
    if abs(kappa) > 5e-3:
        raise NotYet("The agreement is right. How much of it is more than what blind raters would reach?")


def win_rate_of_left(letters: list[str], flipped: list[bool]) -> float:
    """Return how often the left reply won. Flipped: the right reply was shown first, as A."""
    return sum((letter == "A") != flip for letter, flip in zip(letters, flipped, strict=True)) / len(letters)


def _as_shipped(letters, flipped):
    return sum(letter == "A" or flip for letter, flip in zip(letters, flipped, strict=True)) / len(letters)


def _not_flipped(letters, flipped):
    return sum(letter == "A" and not flip for letter, flip in zip(letters, flipped, strict=True)) / len(
        letters
    )


def _ignores_flips(letters, flipped):
    return letters.count("A") / len(letters)


def _win_rate_of_right(letters, flipped):
    return 1 - win_rate_of_left(letters, flipped)


_WIN_HINTS = (
    (
        _as_shipped,
        "Every flipped pair still counts as won by left. Go through the four cases: A or B, flipped or not.",
    ),
    (
        _not_flipped,
        "A pair that was shown the other way round can be won by left, too: which letter is left then?",
    ),
    (_ignores_flips, "That is how often the reply shown first won, whichever it was."),
    (_win_rate_of_right, "That is the win rate of the right reply."),
)


def _grade_wins(answer: Any) -> None:
    # So many of each of the four cases that no two ways to count them give the same number.
    letters, flipped = list("AABABABAAB"), [True, False, True, False, True, False, False, False, False, True]
    found = number(call(answer, letters, flipped))
    if is_close(found, win_rate_of_left(letters, flipped), 1e-6):
        return
    name_mistake(_WIN_HINTS, found, letters, flipped)
    raise NotYet(f"Of ten pairs your function gives left {found:.2f}; go through the four cases by hand.")


def cohens_kappa(first: list[str], second: list[str]) -> float:
    """Return the agreement beyond chance of two raters: a verdict each for the same items."""
    n = len(first)
    agreement = sum(a == b for a, b in zip(first, second, strict=True)) / n
    shares = Counter(first), Counter(second)
    chance = sum(shares[0][verdict] * shares[1][verdict] for verdict in shares[0]) / n**2
    return (agreement - chance) / (1 - chance)


def _agreement(first, second):
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _chance_of_a_coin(first, second):
    return (_agreement(first, second) - 0.5) / 0.5


def _one_verdict(first, second):
    chance = first.count("left") * second.count("left") / len(first) ** 2
    return (_agreement(first, second) - chance) / (1 - chance)


def _not_divided(first, second):
    n = len(first)
    return _agreement(first, second) - sum(first.count(v) * second.count(v) for v in set(first)) / n**2


_KAPPA_HINTS = (
    (_agreement, "That is the agreement itself; take off what would agree by chance."),
    (_chance_of_a_coin, "Chance is 1/2 only for two raters who use two verdicts equally often."),
    (_one_verdict, 'Chance agreement is not only both saying "left": add the other verdicts.'),
    (_not_divided, "The difference to chance must be divided by the most that it could be."),
)


def _grade_kappa(answer: Any) -> None:
    for counts in (
        {("left", "left"): 6, ("left", "right"): 2, ("right", "left"): 1, ("right", "right"): 3},
        {
            ("left", "left"): 4,
            ("tie", "tie"): 2,
            ("right", "tie"): 1,
            ("right", "right"): 2,
            ("left", "right"): 3,
        },
    ):
        pairs = [pair for pair, count in counts.items() for _ in range(count)]
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        found = number(call(answer, first, second))
        if is_close(found, cohens_kappa(first, second), 1e-6):
            continue
        name_mistake(_KAPPA_HINTS, found, first, second)
        raise NotYet(
            f"For {len(first)} items with the verdicts {', '.join(sorted(set(first)))} your function gives "
            f"{found:.3f}. Compute the agreement and the chance one by one."
        )


def _without_ties(first, second):
    chance = sum(first.count(v) * second.count(v) for v in ("left", "right")) / len(first) ** 2
    return (_agreement(first, second) - chance) / (1 - chance)


def _result(up: int) -> PairedResult:
    return paired_binary([0] * 60 + [1] * 60, [1] * up + [0] * (60 - up) + [1] * (60 - up) + [0] * up)


def _lost(down: int) -> PairedResult:
    return paired_binary([1] * 120, [0] * down + [1] * (120 - down))


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="13.1",
        kind="predict",
        grade=_grade_blind,
        solution=list(_BLIND),
        mistakes=(
            ([0.81, 0.0], 'both say "left"'),
            ([0.9, 0.0], "not on the same nine"),
            ([0.5, 0.0], "neither reads the pair"),
            ([82, 0], "Give shares"),
            ([0.82, 0.82], "more than what blind raters"),
        ),
        why="0.9 * 0.9 + 0.1 * 0.1 = 0.82, all of it chance: (0.82 - 0.82) / (1 - 0.82) = 0.",
    ),
    Exercise(
        id="13.2",
        kind="function",
        grade=_grade_kappa,
        solution=cohens_kappa,
        mistakes=(
            (_agreement, "the agreement itself"),
            (_chance_of_a_coin, "Chance is 1/2 only"),
            (_one_verdict, "add the other verdicts"),
            (_not_divided, "must be divided"),
            (_without_ties, "left, right, tie"),
        ),
        why="Two raters who say left nine times in ten agree in 82 % without looking: kappa takes that off.",
    ),
    Exercise(
        id="13.3",
        kind="bug",
        grade=_grade_wins,
        solution=win_rate_of_left,
        mistakes=(
            (_as_shipped, "four cases: A or B"),
            (_not_flipped, "can be won by left, too"),
            (_ignores_flips, "shown first won"),
            (_win_rate_of_right, "of the right reply"),
            (lambda letters, flipped: 0.05, "by hand"),
        ),
        why="Left won with A if nothing was flipped, and with B if it was: the conditions must differ.",
    ),
    change_exercise(
        "13.4",
        allowed=_SETTINGS,
        changed="letters=1 and 2",
        result=_lost(40),
        why="A small judge knows the words of its training; check a strong one for the same habit.",
        more=(({"changed": "letters=1 and 2", "result": _result(20), "verdict": "worse"}, "on which side"),),
    ),
)
