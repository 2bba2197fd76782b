"""Exercises of lesson 11a: what a selector sees, groups of near-duplicates, a false control, one change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    DRAWS,
    Exercise,
    NotYet,
    call,
    change_exercise,
    check_draws,
    function_exercise,
    is_far,
    parts_exercise,
)

# --- 11a.2: groups of what is nearly the same

Shingles = list[set[str]]
_SETS: tuple[tuple[Shingles, float], ...] = (
    ([{"a", "b", "c"}, {"a", "b", "c"}, {"d"}], 0.9),
    ([{"d"}, {"a", "b", "c"}, {"x", "y"}, {"d"}, {"a", "b", "c"}], 0.9),  # others stand between
    ([{"a", "b", "c", "d"}, {"b", "c", "d", "e"}, {"c", "d", "e", "f"}], 0.6),  # a chain
    ([{"a", "b", "c", "d"}, {"c", "d", "e", "f"}, {"b", "c", "d", "e"}], 0.6),  # its middle comes last
    ([{"p"}, {"a", "b", "c", "d"}, {"c", "d", "e", "f"}, {"q"}, {"b", "c", "d", "e"}, {"q"}], 0.6),
    ([{"a"}, {"a", "b"}], 0.5),
    ([{"a", "b", "c", "d", "e"}, {"a", "b"}], 0.6),
    ([{"a", "b", "c"}, {"b", "c", "d"}], 0.6),  # 2 of 4, and 2 of the larger set's 3
)


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def _groups(sets: Shingles, near: Callable[[set[str], set[str]], bool]) -> list[int]:
    group = list(range(len(sets)))
    for one in range(len(sets)):
        for other in range(one):
            if near(sets[one], sets[other]):
                joined, gone = sorted((group[one], group[other]))
                group = [joined if number == gone else number for number in group]
    return _renumbered(group)


def _renumbered(groups: Sequence[float]) -> list[int]:
    renumbered: dict[float, int] = {}
    return [renumbered.setdefault(number, len(renumbered)) for number in groups]


def groups_of(sets: Shingles, threshold: float) -> list[int]:
    """Return the number of each set's group: those that a chain of similar ones connects."""
    return _groups(sets, lambda one, other: _jaccard(one, other) >= threshold)


def _by_the_first(sets: Shingles, threshold: float) -> list[int]:
    """Compare with the first of each group only."""
    first: list[int] = []
    groups = []
    for one in sets:
        found = [number for number, row in enumerate(first) if _jaccard(one, sets[row]) >= threshold]
        if not found:
            first.append(len(groups))
        groups.append(found[0] if found else len(first) - 1)
    return groups


def _never_joined(sets: Shingles, threshold: float) -> list[int]:
    """Go into the group of the first similar set, and never join two groups."""
    groups: list[int] = []
    for number, one in enumerate(sets):
        found = [groups[i] for i in range(number) if _jaccard(one, sets[i]) >= threshold]
        groups.append(found[0] if found else max(groups, default=-1) + 1)
    return groups


def _with_the_last(sets: Shingles, threshold: float) -> list[int]:
    """Compare with the set just before only."""
    groups: list[int] = []
    for number, one in enumerate(sets):
        alike = number > 0 and _jaccard(one, sets[number - 1]) >= threshold
        groups.append(groups[-1] if alike else max(groups, default=-1) + 1)
    return groups


def _of_sizes(size: Callable[[set[str], set[str]], int]) -> Callable[[Shingles, float], list[int]]:
    """Divide what two sets share by another size than that of their union."""
    return lambda sets, threshold: _groups(sets, lambda a, b: len(a & b) / max(1, size(a, b)) >= threshold)


def _other_groups(found: list[float], sets: Shingles, threshold: float) -> str:
    right = groups_of(sets, threshold)
    if _renumbered(found) == right:
        return "The groups are right; number them from 0 in the order in which they first appear."
    returned = ", ".join(f"{group:g}" for group in found)
    shown = [sorted(one) for one in sets]
    return f"For {shown} and {threshold} your function returns [{returned}]; {right} is right."


# --- 11a.3: a control of the same length, for which all prompts have the length of the first

Chosen = list[tuple[int, str]]
# In the fourth row a reply is just two words too long.
_WORDS = ((2, 3, 2, 9), (9, 8, 9, 3), (5, 6, 7, 2), (4, 4, 6, 4), (1, 7, 8, 6))
_REPLIES = [
    [" ".join([f"{prompt}{letter}"] * words) for letter, words in zip("abcd", lengths, strict=True)]
    for prompt, lengths in enumerate(_WORDS)
]
_CHOSEN = [0, 2, 1, 3, 1]


def _near(replies: list[list[str]], chosen: list[int], prompt: int) -> list[str]:
    words = len(replies[prompt][chosen[prompt]].split())
    return [reply for reply in replies[prompt] if abs(len(reply.split()) - words) <= 1]


def as_long_as_the_chosen(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Draw for each prompt one reply that is as long as the chosen one, up to a word."""
    return [(prompt, rng.choice(_near(replies, chosen, prompt))) for prompt in range(len(replies))]


def _none_of_the_chosen(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Leave the chosen reply out."""
    near = [_near(replies, chosen, prompt) for prompt in range(len(replies))]
    for prompt, group in enumerate(near):
        group.remove(replies[prompt][chosen[prompt]])
    return [(prompt, rng.choice(group)) for prompt, group in enumerate(near)]


def _one_draw_for_all(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Draw once, and use it for every prompt."""
    place = rng.random()
    near = [_near(replies, chosen, prompt) for prompt in range(len(replies))]
    return [(prompt, group[int(place * len(group))]) for prompt, group in enumerate(near)]


def _in_another_order(replies: list[list[str]], chosen: list[int], rng: random.Random) -> Chosen:
    """Shuffle the prompts."""
    rows = as_long_as_the_chosen(replies, chosen, rng)
    rng.shuffle(rows)
    return rows


def _drawn(answer: Any, seed: int) -> Chosen:
    """Return what the function draws, with the prompts in their order and replies that are allowed."""
    value = call(answer, _REPLIES, _CHOSEN, random.Random(seed))
    try:
        rows = [(int(prompt), reply) for prompt, reply in value]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise NotYet("Return a list of pairs, the number of the prompt and the reply.") from None
    if not all(isinstance(reply, str) for _, reply in rows):
        raise NotYet("The second part of a pair is the text of the reply, as in the colleague's function.")
    if sorted(prompt for prompt, _ in rows) != list(range(len(_REPLIES))):
        raise NotYet("Each prompt is needed once, as in the best of K.")
    if [prompt for prompt, _ in rows] != list(range(len(_REPLIES))):
        raise NotYet("Keep the prompts in their order, so that nothing but the replies differs.")
    if any(reply not in _REPLIES[prompt] for prompt, reply in rows):
        raise NotYet("A reply stands beside a prompt that it does not answer.")
    if any(reply not in _near(_REPLIES, _CHOSEN, prompt) for prompt, reply in rows):
        raise NotYet(
            "Compare, prompt by prompt, the words of a drawn reply with those of the chosen one: for some "
            "prompts they differ by more than one."
        )
    return rows


def grade_control(answer: Any) -> None:
    """Call a function of the replies and a generator many times."""
    draws = [[reply for _, reply in _drawn(answer, seed)] for seed in range(DRAWS)]
    check_draws(lambda seed: _drawn(answer, seed))
    if all(draw == draws[0] for draw in draws):
        raise NotYet("Every draw gives the same replies; draw by lot, with the generator `rng`.")
    allowed = [_near(_REPLIES, _CHOSEN, prompt) for prompt in range(len(_REPLIES))]
    for prompt, group in enumerate(allowed):
        counts = Counter(draw[prompt] for draw in draws)
        if any(is_far(counts[reply], 1 / len(group)) for reply in group):
            raise NotYet(
                "Of the replies that are as long as the chosen one, up to a word, each must be equally "
                "likely, the chosen one too."
            )
    for one, other in combinations(range(len(allowed)), 2):
        counts = Counter((draw[one], draw[other]) for draw in draws)
        pairs = list(product(allowed[one], allowed[other]))
        if any(is_far(counts[pair], 1 / len(pairs)) for pair in pairs):
            raise NotYet("Draw anew for each prompt; here one draw decides for several of them.")


EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "11a.1",
        {"wrong": "perplexity", "rude": "reward model"},
        ("rules", "perplexity", "reward model"),
        {
            "wrong": "Which of the three has read what is true? Remember what lesson 05 found that the "
            "reward model does not see.",
            "rude": "A rude reply is well formed, and a model that has read many rude texts is not surprised "
            "by it. Which of the three knows people's verdicts?",
        },
        "The base model has read these facts, so a false one surprises it; who knows nothing of a subject "
        "cannot filter for truth. And it has read rude replies, so they "
        "surprise it no more than good ones do on average.",
    ),
    function_exercise(
        "11a.2",
        "function",
        groups_of,
        _SETS,
        (
            (_never_joined, "A text may connect two groups that were apart until then: they become one."),
            (_by_the_first, "A chain may lead through any text of a group, not only through its first."),
            (_with_the_last, "Compare with all texts; those of one group may stand far apart."),
            (
                lambda sets, threshold: _groups(sets, lambda a, b: _jaccard(a, b) > threshold),
                "A similarity equal to the threshold counts, too.",
            ),
            (
                _of_sizes(lambda a, b: max(len(a), len(b))),
                "Jaccard similarity divides by the size of the union, not of the larger set.",
            ),
            (
                _of_sizes(lambda a, b: min(len(a), len(b))),
                "Jaccard similarity divides by the size of the union, not of the smaller set.",
            ),
        ),
        _other_groups,
        "These are the connected components of a graph. A chain may connect texts with little in common. "
        "The rule of the next cell compares with kept texts alone, so it cannot drop such a text.",
    ),
    Exercise(
        "11a.3",
        "bug",
        grade_control,
        as_long_as_the_chosen,
        (
            (
                lambda replies, chosen, rng: as_long_as_the_chosen(replies, [chosen[0]] * len(replies), rng),
                "prompt by prompt",
            ),
            (_none_of_the_chosen, "equally likely"),
            (
                lambda replies, chosen, rng: as_long_as_the_chosen(replies, chosen, random.Random(0)),
                "Every draw gives the same",
            ),
            (lambda replies, chosen, rng: list(enumerate(chosen)), "the text of the reply"),
            (_one_draw_for_all, "Draw anew"),
            (
                lambda replies, chosen, rng: as_long_as_the_chosen(replies, chosen, random),
                "`rng` alone",
            ),
            (_in_another_order, "in their order"),
        ),
        "The length was looked up once, for the first prompt's chosen number; where no reply was that long, "
        "`or group` hid it. A fallback that nobody sees turns one control into another.",
    ),
    change_exercise(
        "11a.4",
        (
            "data.samples",
            "data.sampling_temperature",
            "data.n_prompts",
            "data.largest",
            "args.learning_rate",
        ),
        "data.samples=12",
    ),
)
