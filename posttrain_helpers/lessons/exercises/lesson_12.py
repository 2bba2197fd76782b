"""The exercises of lesson 12: flips, Holm's correction, one setting, who was shown first, Cohen's kappa."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    compared,
    is_close,
    number,
    yes_or_no,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

_SETTINGS = ("data.n_train", "args.learning_rate", "args.num_train_epochs")
ALPHA = 0.05


def _flips(answer: Any) -> None:
    found = number(answer)
    if found == 6:
        return
    if found == 5:
        raise NotYet(
            "Five coins fall to one given side once in 32 throws. Would five flips in the other direction "
            "have surprised you as much?"
        )
    if found == 4:
        raise NotYet("Four coins all fall to one given side once in 16 throws: that is more often than 5 %.")
    if found > 20:
        raise NotYet("The prompts that did not flip say nothing, so their number does not come in.")
    raise NotYet("Throw n coins: how probable is it that all fall to the same side, heads or tails?")


def holm(p_values: list[float], alpha: float = ALPHA) -> list[bool]:
    """Return for each p-value, in the order given, whether it is significant after Holm's correction."""
    significant = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= alpha / (len(p_values) - place):
            break
        significant[index] = True
    return significant


def _uncorrected(p_values, alpha=ALPHA):
    return [p < alpha for p in p_values]


def _bonferroni(p_values, alpha=ALPHA):
    return [p < alpha / len(p_values) for p in p_values]


def _never_stops(p_values, alpha=ALPHA):
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    return [p < alpha / (len(p_values) - order.index(index)) for index, p in enumerate(p_values)]


def _in_sorted_order(p_values, alpha=ALPHA):
    return holm(sorted(p_values), alpha)


_HOLM_HINTS = (
    (_uncorrected, "Each p-value is compared with alpha itself: nothing is corrected."),
    (
        _bonferroni,
        "Every p-value has the same bar, alpha / m (Bonferroni); after the smallest one it gets lower.",
    ),
    (_never_stops, "At the first p-value that is too large, Holm stops: all larger ones fail with it."),
    (
        _in_sorted_order,
        "Your verdicts belong to the sorted p-values; give them back in the order of the arguments.",
    ),
)
# Each wrong way gives another answer to one of these.
_P_VALUES = ((0.02, 0.001, 0.015), (0.03, 0.04), (0.01, 0.04, 0.03, 0.005), (0.2,), (0.04,))


def _grade_holm(answer: Any) -> None:
    for p_values in _P_VALUES:
        found = yes_or_no(call(answer, list(p_values)), len(p_values))
        if found == holm(list(p_values)):
            continue
        for wrong, hint in _HOLM_HINTS:
            if found == wrong(list(p_values)):
                raise NotYet(hint)
        raise NotYet(f"For the p-values {list(p_values)} your function returns {found}; do it once by hand.")
    if yes_or_no(call(answer, [0.03], 0.01), 1) != [False]:
        raise NotYet("Your function ignores its argument alpha.")


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
    for wrong, hint in _WIN_HINTS:
        if is_close(found, wrong(letters, flipped), 1e-6):
            raise NotYet(hint)
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
        for wrong, hint in _KAPPA_HINTS:
            if is_close(found, wrong(first, second), 1e-6):
                raise NotYet(hint)
        raise NotYet(
            f"For {len(first)} items with the verdicts {', '.join(sorted(set(first)))} your function gives "
            f"{found:.3f}. Compute the agreement and the chance one by one."
        )


def _without_ties(first, second):
    chance = sum(first.count(v) * second.count(v) for v in ("left", "right")) / len(first) ** 2
    return (_agreement(first, second) - chance) / (1 - chance)


def _result(up: int) -> PairedResult:
    return paired_binary([0] * 60 + [1] * 60, [1] * up + [0] * (60 - up) + [1] * 60)


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="12.1",
        kind="predict",
        grade=_flips,
        solution=6,
        mistakes=(
            (5, "in the other direction"),
            (4, "more often than 5 %"),
            (50, "did not flip"),
            (3, "Throw n coins"),
        ),
        why="Six coins fall to one side, either side, once in 32 throws: p = 0.03. Five: once in 16.",
    ),
    Exercise(
        id="12.2",
        kind="function",
        grade=_grade_holm,
        solution=holm,
        mistakes=(
            (_uncorrected, "nothing is corrected"),
            (_bonferroni, "Bonferroni"),
            (_never_stops, "Holm stops"),
            (_in_sorted_order, "in the order of the arguments"),
            (lambda p_values: [False] * len(p_values), "do it once by hand"),
            (lambda p_values, alpha=0.05: holm(p_values), "ignores its argument"),
        ),
        why="At most 5 % of all families get a false winner, and Holm misses less than Bonferroni.",
    ),
    Exercise(
        id="12.3",
        kind="change",
        grade=partial(compared, allowed=_SETTINGS),
        solution={"changed": "data.n_train=256", "result": _result(20), "verdict": "improved"},
        mistakes=(
            (
                {"changed": "data.n_train=256", "result": _result(20), "verdict": "no_difference_shown"},
                "does it leave 0 out",
            ),
            ({"changed": "seed=1", "result": _result(20), "verdict": "improved"}, "This exercise is about"),
            ({"changed": "data.n_train=256", "result": 0.2, "verdict": "improved"}, "paired comparison"),
        ),
        why="The interval is about these two runs; the spread of the seeds says what another run may do.",
    ),
    Exercise(
        id="12.4",
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
    Exercise(
        id="12.5",
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
)
