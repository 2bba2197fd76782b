"""Exercises of lesson 11a: what a selector sees, near-duplicates, a control that is none, one change."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    choice,
    name_mistake,
)
from posttrain_helpers.statistics.paired_tests import paired_numeric

# --- 11a.2: which selector sees which fault?

SELECTORS = ("rules", "perplexity", "reward model")
_SEEN = {"wrong": "perplexity", "rude": "reward model"}


def grade_seen(answer: Any) -> None:
    """Take a selector for each of two faults."""
    if not isinstance(answer, dict) or set(answer) != set(_SEEN):
        raise NotYet('Give a dictionary with the keys "wrong" and "rude".')
    said = {fault: choice(value, SELECTORS) for fault, value in answer.items()}
    if said["wrong"] != _SEEN["wrong"]:
        raise NotYet(
            "Which of the three has read what is true? Remember what lesson 05 found that the reward model "
            "does not see."
        )
    if said["rude"] != _SEEN["rude"]:
        raise NotYet(
            "A rude reply is well formed, and a model that has read many rude texts is not surprised by it. "
            "Which of the three knows people's verdicts?"
        )


# --- 11a.1: keep the first of what is nearly the same

Shingles = list[set[str]]
_SETS: tuple[tuple[Shingles, float], ...] = (
    ([{"a", "b", "c"}, {"a", "b", "c"}, {"d"}], 0.9),
    ([{"a", "b", "c"}, {"a", "b"}, {"x", "y"}], 0.6),
    ([{"a", "b", "c", "d"}, {"a", "b", "c", "x"}, {"a", "b", "x", "y"}], 0.6),  # below, then above
    ([{"a", "b", "c", "d"}, {"b", "c", "d", "e"}, {"c", "d", "e", "f"}], 0.6),  # a chain
    ([{"a"}, {"a", "b"}], 0.5),
    ([{"a", "b", "c", "d", "e"}, {"a", "b"}], 0.6),
    ([], 0.5),
)


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def _kept(sets: Shingles, near: Callable[[set[str], set[str]], bool], dropped_too: bool) -> list[bool]:
    keep: list[bool] = []
    for number, one in enumerate(sets):
        earlier = [sets[i] for i in range(number) if keep[i] or dropped_too]
        keep.append(not any(near(one, other) for other in earlier))
    return keep


def keep_first(sets: Shingles, threshold: float) -> list[bool]:
    """Say of each set whether it stays: no earlier one that stays is as similar as the threshold."""
    return _kept(sets, lambda one, other: _jaccard(one, other) >= threshold, dropped_too=False)


def against_the_dropped_too(sets: Shingles, threshold: float) -> list[bool]:
    """Compare with every earlier set, dropped ones as well."""
    return _kept(sets, lambda one, other: _jaccard(one, other) >= threshold, dropped_too=True)


def only_above(sets: Shingles, threshold: float) -> list[bool]:
    """Drop above the threshold only."""
    return _kept(sets, lambda one, other: _jaccard(one, other) > threshold, dropped_too=False)


def by_overlap(sets: Shingles, threshold: float) -> list[bool]:
    """Divide by the size of the smaller set."""

    def near(one: set[str], other: set[str]) -> bool:
        return len(one & other) / max(1, min(len(one), len(other))) >= threshold

    return _kept(sets, near, dropped_too=False)


def keep_last(sets: Shingles, threshold: float) -> list[bool]:
    """Keep the last of those that are alike."""
    return keep_first(sets[::-1], threshold)[::-1]


def grade_keep_first(answer: Any) -> None:
    """Call a function of sets and a threshold."""
    hints = (
        (against_the_dropped_too, "What was dropped is gone: compare with the texts that stay."),
        (only_above, "A similarity equal to the threshold counts as a near-duplicate, too."),
        (by_overlap, "Jaccard similarity divides by the size of the union."),
        (keep_last, "The first one stays, and the later ones go."),
    )
    for sets, threshold in _SETS:
        value = call(answer, sets, threshold)
        right = keep_first(sets, threshold)
        try:
            value = [bool(one) for one in value]
        except (TypeError, ValueError, RuntimeError):
            raise NotYet("Return a list with True (stays) or False for each set.") from None
        if value == right:
            continue
        name_mistake(hints, value, sets, threshold, same=lambda a, b: a == b)
        shown = [sorted(one) for one in sets]
        raise NotYet(f"For {shown} and {threshold} your function returns {value}; {right} is right.")


# --- 11a.3: a control of the same size, but not of the same prompts

Chosen = list[tuple[int, str]]
_REPLIES = [[f"{prompt}{letter}" for letter in "abcd"] for prompt in range(6)]
_DRAWS = 200


def one_reply_each(replies: list[list[str]], rng: random.Random) -> Chosen:
    """Draw one reply to each prompt."""
    return [(prompt, rng.choice(group)) for prompt, group in enumerate(replies)]


def any_replies(replies: list[list[str]], rng: random.Random) -> Chosen:
    """Draw among all replies: the mistake that the notebook shows."""
    everything = [(prompt, reply) for prompt, group in enumerate(replies) for reply in group]
    return rng.sample(everything, len(replies))


def always_the_first(replies: list[list[str]], rng: random.Random) -> Chosen:
    """Take the first reply to each prompt."""
    return [(prompt, group[0]) for prompt, group in enumerate(replies)]


def one_place_for_all(replies: list[list[str]], rng: random.Random) -> Chosen:
    """Draw one place, and take it from every group."""
    place = rng.randrange(len(replies[0]))
    return [(prompt, group[place]) for prompt, group in enumerate(replies)]


def all_of_them(replies: list[list[str]], rng: random.Random) -> Chosen:
    """Take every reply."""
    return [(prompt, reply) for prompt, group in enumerate(replies) for reply in group]


def grade_control(answer: Any) -> None:
    """Call a function of the replies and a generator many times."""
    seen: list[set[str]] = [set() for _ in _REPLIES]
    joint = set()
    for seed in range(_DRAWS):
        value = call(answer, _REPLIES, random.Random(seed))
        try:
            rows = [(int(prompt), str(reply)) for prompt, reply in value]
        except (TypeError, ValueError, RuntimeError):
            raise NotYet("Return a list of pairs, the number of the prompt and the reply.") from None
        if len(rows) != len(_REPLIES):
            raise NotYet(f"{len(_REPLIES)} rows are needed, as many as there are prompts; found {len(rows)}.")
        if any(not 0 <= prompt < len(_REPLIES) or reply not in _REPLIES[prompt] for prompt, reply in rows):
            raise NotYet("A reply stands beside a prompt that it does not answer.")
        if sorted(prompt for prompt, _ in rows) != list(range(len(_REPLIES))):
            raise NotYet(
                "The number of rows is right. Count how often each prompt is among them: the best of K has "
                "each of them once."
            )
        for prompt, reply in rows:
            seen[prompt].add(reply)
        joint.add(tuple(reply[-1] for _, reply in sorted(rows)))
    if any(len(found) < len(group) for found, group in zip(seen, _REPLIES, strict=True)):
        raise NotYet("Each prompt is there once, but some replies are never drawn: choose by lot.")
    if len(joint) <= len(_REPLIES[0]):
        raise NotYet("Draw anew for each prompt; here one draw decides for all of them.")


# --- 11a.4: one changed setting

SETTINGS = (
    "data.samples",
    "data.sampling_temperature",
    "data.n_prompts",
    "data.scorer",
    "args.learning_rate",
)
_GAINED = paired_numeric([1.0, 1.5, 2.0, 2.5] * 30, [1.5, 2.0, 2.4, 3.0] * 30)

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "11a.2",
        "predict",
        grade_seen,
        _SEEN,
        (
            ({**_SEEN, "wrong": "reward model"}, "has read what is true"),
            ({**_SEEN, "rude": "perplexity"}, "is not surprised"),
            ({"wrong": "rules"}, "the keys"),
        ),
        "The base model has read these facts, so a false one surprises it; who knows nothing of a subject "
        "cannot filter for truth. And it has read rude replies, so they do not surprise it.",
    ),
    Exercise(
        "11a.1",
        "function",
        grade_keep_first,
        keep_first,
        (
            (against_the_dropped_too, "What was dropped is gone"),
            (only_above, "equal to the threshold"),
            (by_overlap, "size of the union"),
            (keep_last, "The first one stays"),
        ),
        "Each text is compared with all that stay, which takes time in the square of their number: hence "
        "signatures and buckets for millions of texts.",
    ),
    Exercise(
        "11a.3",
        "bug",
        grade_control,
        one_reply_each,
        (
            (any_replies, "how often each prompt"),
            (always_the_first, "choose by lot"),
            (one_place_for_all, "Draw anew"),
            (all_of_them, "as many as there are prompts"),
        ),
        "The colleague's rows were as many, but they had some prompts twice and others never: what it showed "
        "could have been the choice of prompts, or of replies.",
    ),
    change_exercise(
        "11a.4",
        SETTINGS,
        "data.samples=12",
        _GAINED,
        "One change, the same questions, an interval, and a verdict that follows from it.",
    ),
)
