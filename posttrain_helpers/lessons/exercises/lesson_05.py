"""The exercises of lesson 05: the loss of a ranking, a padded batch, an expected accuracy, one setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    all_close,
    call,
    change_exercise,
    compared,
    is_close,
    number,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

# --- 05.1: the loss of a ranking


def _of_pairs(rewards: torch.Tensor, adjacent: bool = False) -> torch.Tensor:
    """Return the loss of each pair of a ranking, best first; all pairs, or only those of neighbours."""
    first, second = torch.triu_indices(len(rewards), len(rewards), offset=1)
    if adjacent:
        first, second = first[second - first == 1], second[second - first == 1]
    return -logsigmoid(rewards[first] - rewards[second])


def ranking_loss(rewards: torch.Tensor) -> torch.Tensor:
    """Return the mean Bradley-Terry loss over all pairs of ranked replies."""
    return _of_pairs(rewards).mean()


def _summed(rewards: torch.Tensor) -> torch.Tensor:
    return _of_pairs(rewards).sum()


def _neighbours(rewards: torch.Tensor) -> torch.Tensor:
    return _of_pairs(rewards, adjacent=True).mean()


def _worst_first(rewards: torch.Tensor) -> torch.Tensor:
    return _of_pairs(rewards.flip(0)).mean()


def _with_itself(rewards: torch.Tensor) -> torch.Tensor:
    first, second = torch.triu_indices(len(rewards), len(rewards), offset=0)
    return -logsigmoid(rewards[first] - rewards[second]).mean()


def _grade_ranking(answer: Any) -> None:
    for rewards in ([1.0, -0.5], [2.0, 1.5, -1.0], [0.0, 0.0, 0.0], [0.3, 1.2, -0.7, 0.1]):
        ranked = torch.tensor(rewards)
        value = number(call(answer, ranked))
        if is_close(value, float(ranking_loss(ranked))):
            continue
        if is_close(value, float(_worst_first(ranked))):
            raise NotYet("Which reply of a pair was preferred? The list begins with the best one.")
        if is_close(value, float(_summed(ranked))):
            raise NotYet(
                "That grows with the number of pairs, so nine replies would outweigh two; take the mean."
            )
        if is_close(value, float(_neighbours(ranked))):
            raise NotYet(
                "A ranking of three replies says more than two comparisons: what about first and last?"
            )
        if is_close(value, float(_with_itself(ranked))):
            raise NotYet("Some of your pairs compare a reply with itself; they teach nothing.")
        raise NotYet(
            f"For the rewards {rewards} you return {value:.4f}. Write down all pairs of that list by hand, "
            "and the loss of each."
        )


# --- 05.2: the rewards of a padded batch


def accuracy_of_batch(scores: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the share of pairs whose chosen reply wins, each text scored at its last real token."""
    rewards = scores[torch.arange(len(scores)), mask.sum(1) - 1]
    chosen, rejected = rewards.chunk(2)
    return (chosen > rejected).float().mean().item()


def _last_column(scores: torch.Tensor, mask: torch.Tensor) -> float:
    chosen, rejected = scores[:, -1].chunk(2)
    return (chosen > rejected).float().mean().item()


def _alternating(scores: torch.Tensor, mask: torch.Tensor) -> float:
    rewards = scores[torch.arange(len(scores)), mask.sum(1) - 1]
    return (rewards[::2] > rewards[1::2]).float().mean().item()


def _averaged(scores: torch.Tensor, mask: torch.Tensor) -> float:
    chosen, rejected = ((scores * mask).sum(1) / mask.sum(1)).chunk(2)
    return (chosen > rejected).float().mean().item()


def _one_before(scores: torch.Tensor, mask: torch.Tensor) -> float:
    chosen, rejected = scores[torch.arange(len(scores)), mask.sum(1) - 2].chunk(2)
    return (chosen > rejected).float().mean().item()


def _batch(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and mask of texts of these lengths, padded on the right."""
    scores = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    return scores, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def _of_chosen_length(scores: torch.Tensor, mask: torch.Tensor) -> float:
    last = mask.chunk(2)[0].sum(1) - 1
    chosen, rejected = scores[torch.arange(len(scores)), last.repeat(2)].chunk(2)
    return (chosen > rejected).float().mean().item()


def _tie_for_a_win(scores: torch.Tensor, mask: torch.Tensor) -> float:
    chosen, rejected = scores[torch.arange(len(scores)), mask.sum(1) - 1].chunk(2)
    return (chosen >= rejected).float().mean().item()


# The lengths of a pair differ, since half of 7 rounds is no whole number of rounds.
_BATCHES = [_batch([9, 3, 7, 5, 4, 6, 8, 2] * 7, seed) for seed in range(3)]
_FULL = _batch([5] * 40, 9)
_BATCHES += [_FULL, (_FULL[0].round(), _FULL[1])]  # rounded, some pairs are ties
_WRONG_READINGS = {
    _last_column: "Give it two texts of different lengths and print what stands in the column that it reads.",
    _alternating: "Which rows make up a pair? The first half of the batch holds the chosen replies.",
    _averaged: "Training looked at one token of each text, not at the mean of them all.",
    _one_before: "Take a text of three tokens: which index has its last one?",
    _of_chosen_length: "A chosen and a rejected text may differ in length: each has a last token of its own.",
    _tie_for_a_win: "Which reward is higher where both are equal? A tie is no win.",
}


def _grade_batch(answer: Any) -> None:
    found = [number(call(answer, *batch)) for batch in _BATCHES]
    right = [accuracy_of_batch(*batch) for batch in _BATCHES]
    if all_close(found, right, 1e-4):
        return
    for reading, hint in _WRONG_READINGS.items():  # on one batch alone, two ways may agree by accident
        if all_close(found, [reading(*batch) for batch in _BATCHES], 1e-4):
            raise NotYet(hint)
    place = next(i for i, value in enumerate(found) if not is_close(value, right[i], 1e-4))
    raise NotYet(
        f"On a batch of {len(_BATCHES[place][0])} texts you return {found[place]:.3f}; {right[place]:.3f} "
        "is right. Make a batch of two pairs and work out each reward by hand first."
    )


# --- 05.3: expected accuracy

_AGREES, _BETTER_WINS = 0.95, 0.9
_EXPECTED = _AGREES * _BETTER_WINS + (1 - _AGREES) * (1 - _BETTER_WINS)


def _grade_expected(answer: Any) -> None:
    value = number(answer)
    value = value / 100 if value > 1 else value
    if is_close(value, _EXPECTED, 5e-4):
        return
    for wrong, hint in (
        (_AGREES, "That is how often the model sides with gold. The labels are those of annotators who err."),
        (_BETTER_WINS, "That is what the gold score itself could expect. The model errs, too."),
        (
            _AGREES * _BETTER_WINS,
            "Nearly: there are also pairs in which the model and the annotator err together.",
        ),
    ):
        if is_close(value, wrong, 5e-4):
            raise NotYet(hint)
    raise NotYet(
        "Split the 100 pairs in two groups, those where the model sides with gold and the others. In which "
        "share of each does the label side with the model?"
    )


# --- 05.4: one setting changed

_SETTINGS = ("args.learning_rate", "args.num_train_epochs", "args.center_rewards_coefficient")
_RELATIONS = list(range(25)) * 4
_RIGHT, _FEWER = [True] * 90 + [False] * 10, [True] * 70 + [False] * 30
_WORSE = paired_binary(_RIGHT, _FEWER, clusters=_RELATIONS)
_NEARLY_EQUAL = paired_binary([True, False] * 50, [False, True] + [True, False] * 49, clusters=_RELATIONS)


def _grade_change(answer: Any) -> None:
    if compared(answer, _SETTINGS).clusters is None:
        raise NotYet("Pairs about one relation are answered alike: compare with clusters=clusters.")


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        id="05.1",
        kind="function",
        grade=_grade_ranking,
        solution=ranking_loss,
        mistakes=(
            (_summed, "grows with the number of pairs"),
            (_neighbours, "first and last"),
            (_worst_first, "begins with the best one"),
            (_with_itself, "with itself"),
            (lambda rewards: float(rewards.mean()), "all pairs of that list by hand"),
        ),
        why="Ouyang et al. (2022) let annotators rank 4 to 9 replies and trained on all pairs of a ranking "
        "at once; as separate rows in random order the same pairs made their reward model overfit.",
    ),
    Exercise(
        id="05.2",
        kind="bug",
        grade=_grade_batch,
        solution=accuracy_of_batch,
        mistakes=(
            (_last_column, "different lengths"),
            (_alternating, "first half"),
            (_averaged, "not at the mean"),
            (_one_before, "three tokens"),
            (_of_chosen_length, "a last token of its own"),
            (_tie_for_a_win, "A tie is no win"),
        ),
        why="The last column of a padded batch is padding for every text but the longest. Nothing stops with "
        "an error, and where all texts are equally long even the numbers are right.",
    ),
    Exercise(
        id="05.3",
        kind="predict",
        grade=_grade_expected,
        solution=_EXPECTED,
        mistakes=(
            (_AGREES, "annotators who err"),
            (_BETTER_WINS, "The model errs, too"),
            (_AGREES * _BETTER_WINS, "err together"),
            (0.5, "two groups"),
        ),
        why="0.95 * 0.9 + 0.05 * 0.1. The annotators' errors hide a tenth of what the model does right, and "
        "even turn a few of its own errors into hits.",
    ),
    replace(
        change_exercise(
            "05.4",
            allowed=_SETTINGS,
            changed="args.learning_rate=1e-5",
            result=_WORSE,
            why="The verdict follows from the interval on the same pairs. One seed is one draw, "
            "though: before you keep a setting, repeat the comparison on pairs of the split dev and on "
            "several seeds.",
            more=(
                (
                    {"changed": "args.learning_rate=1e-5", "result": _NEARLY_EQUAL, "verdict": "worse"},
                    "does it leave 0 out",
                ),
                (
                    {
                        "changed": "args.learning_rate=1e-5",
                        "result": paired_binary(_RIGHT, _FEWER),
                        "verdict": "worse",
                    },
                    "clusters=clusters",
                ),
            ),
        ),
        grade=_grade_change,
    ),
)
