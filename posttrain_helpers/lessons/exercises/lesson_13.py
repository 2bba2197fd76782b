"""The exercises of lesson 13: blind raters, Cohen's kappa, who was shown first, another question."""

from __future__ import annotations

from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    change_exercise,
    function_exercise,
    is_close,
    numbers,
)


def _grade_blind(answer: Any) -> None:
    agreement, kappa = numbers(answer, 2)
    if is_close(agreement, 82) or (is_close(agreement, 0.82) and is_close(kappa, 82)):
        raise NotYet("Give shares, such as 0.25 for a quarter of the pairs.")
    if is_close(agreement, 0.81):
        raise NotYet('That is how often both say "left". On which other pairs do they agree?')
    if is_close(agreement, 0.9):
        raise NotYet("Each of them says it on nine pairs in ten, but not on the same nine.")
    if not is_close(agreement, 0.82):
        raise NotYet("How probable is it that both say the same, when neither reads the pair?")
    if abs(kappa) > 5e-3:
        raise NotYet("The agreement is right. How much of it is more than what blind raters would reach?")


def win_rate_of_left(letters: list[str], flipped: list[bool]) -> float:
    """Return how often the left reply won. Flipped: the right reply was shown first, as A."""
    return sum((letter == "A") != flip for letter, flip in zip(letters, flipped, strict=True)) / len(letters)


def _share(letters: list[str], flipped: list[bool], won: Any) -> float:
    return sum(won(letter == "A", flip) for letter, flip in zip(letters, flipped, strict=True)) / len(letters)


def cohens_kappa(first: list[str], second: list[str]) -> float:
    """Return the agreement beyond chance of two raters: a verdict each for the same items."""
    agreement, chance = _agreement(first, second), _by_chance(first, second)
    return (agreement - chance) / (1 - chance)


def _agreement(first: list[str], second: list[str]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _by_chance(first: list[str], second: list[str]) -> float:
    return sum(first.count(said) * second.count(said) for said in set(first)) / len(first) ** 2


def _one_verdict(first: list[str], second: list[str]) -> float:
    left_by_chance = first.count("left") * second.count("left") / len(first) ** 2
    return (_agreement(first, second) - left_by_chance) / (1 - left_by_chance)


def _two_raters(counts: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    return [first for first, _ in pairs], [second for _, second in pairs]


_TWO_VERDICTS = {("left", "left"): 6, ("left", "right"): 2, ("right", "left"): 1, ("right", "right"): 3}
_THREE_VERDICTS = {
    ("left", "left"): 4,
    ("tie", "tie"): 2,
    ("right", "tie"): 1,
    ("right", "right"): 2,
    ("left", "right"): 3,
}

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "13.1",
        "predict",
        _grade_blind,
        [0.82, 0.0],
        (
            ([0.81, 0.0], 'both say "left"'),
            ([0.9, 0.0], "not on the same nine"),
            ([0.5, 0.0], "neither reads the pair"),
            ([82, 0], "Give shares"),
            ([0.82, 0.82], "more than what blind raters"),
        ),
        "0.9 * 0.9 + 0.1 * 0.1 = 0.82, all of it chance: (0.82 - 0.82) / (1 - 0.82) = 0.",
    ),
    function_exercise(
        "13.2",
        "function",
        cohens_kappa,
        [_two_raters(_TWO_VERDICTS), _two_raters(_THREE_VERDICTS)],
        (
            (_agreement, "That is the agreement itself; take off what would agree by chance."),
            (
                lambda first, second: (_agreement(first, second) - 0.5) / 0.5,
                "Chance is 1/2 only for two raters who use two verdicts equally often.",
            ),
            (_one_verdict, 'Chance agreement is not only both saying "left": add the other verdicts.'),
            (
                lambda first, second: _agreement(first, second) - _by_chance(first, second),
                "The difference to chance must be divided by the most that it could be.",
            ),
        ),
        lambda found, first, second: (
            f"For {len(first)} items with the verdicts {', '.join(sorted(set(first)))} your function gives "
            f"{found:.3f}. Compute the agreement and the chance one by one."
        ),
        "Two raters who say left nine times in ten agree in 82 % without looking: kappa takes that off.",
    ),
    function_exercise(
        "13.3",
        "bug",
        win_rate_of_left,
        # So many of each of the four cases that no two ways to count them give the same number.
        [(list("AABABABAAB"), [True, False, True, False, True, False, False, False, False, True])],
        (
            (
                lambda letters, flipped: _share(letters, flipped, lambda is_a, flip: is_a or flip),
                "Every flipped pair still counts as won by left. Go through the four cases: A or B, flipped "
                "or not.",
            ),
            (
                lambda letters, flipped: _share(letters, flipped, lambda is_a, flip: is_a and not flip),
                "A pair that was shown the other way round can be won by left, too: which letter is left "
                "then?",
            ),
            (
                lambda letters, flipped: _share(letters, flipped, lambda is_a, flip: is_a),
                "That is how often the reply shown first won, whichever it was.",
            ),
            (
                lambda letters, flipped: _share(letters, flipped, lambda is_a, flip: is_a == flip),
                "That is the win rate of the right reply.",
            ),
        ),
        lambda found, *_: (
            f"Of ten pairs your function gives left {found:.2f}; go through the four cases by hand."
        ),
        "Left won with A if nothing was flipped, and with B if it was: the conditions must differ.",
    ),
    change_exercise(
        "13.4",
        ("template", "letters"),
        "letters=1 and 2",
        why="A small judge knows the words of its training; check a strong one for the same habit.",
    ),
)
