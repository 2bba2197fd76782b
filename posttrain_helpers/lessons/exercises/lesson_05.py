"""The exercises of lesson 05: the loss of a ranking, a padded batch, an expected accuracy, one setting."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    is_close,
    like,
    number,
    value_exercise,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

# --- 05.1: the loss of a ranking


def _of_pairs(rewards: torch.Tensor, offset: int = 1) -> torch.Tensor:
    """Return the loss of each pair of a ranking, best first."""
    first, second = torch.triu_indices(len(rewards), len(rewards), offset=offset)
    return -logsigmoid(rewards[first] - rewards[second])


def ranking_loss(rewards: torch.Tensor) -> torch.Tensor:
    """Return the mean Bradley-Terry loss over all pairs of ranked replies."""
    return _of_pairs(rewards).mean()


# --- 05.2: the rewards of a padded batch


def accuracy_of_batch(scores: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the share of pairs whose chosen reply wins, each text scored at its last real token."""
    return _accuracy(_at(scores, mask.sum(1) - 1))


def _at(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the score of each text at its place."""
    return scores[torch.arange(len(scores)), places]


def _accuracy(rewards: torch.Tensor) -> float:
    chosen, rejected = rewards.chunk(2)
    return (chosen > rejected).float().mean().item()


def _alternating(scores: torch.Tensor, mask: torch.Tensor) -> float:
    rewards = _at(scores, mask.sum(1) - 1)
    return _accuracy(torch.cat([rewards[::2], rewards[1::2]]))


def _batch(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and mask of texts of these lengths, padded on the right."""
    scores = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    return scores, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


# The lengths of a pair differ, since half of 7 rounds is no whole number of rounds.
_BATCHES = [_batch([9, 3, 7, 5, 4, 6, 8, 2] * 7, seed) for seed in range(3)]
_FULL = _batch([5] * 40, 9)
_BATCHES += [_FULL, (_FULL[0].round(), _FULL[1])]  # rounded, some pairs are ties
_WRONG_READINGS = (
    (
        lambda scores, mask: _accuracy(scores[:, -1]),
        "Give it two texts of different lengths and print what stands in the column that it reads.",
    ),
    (_alternating, "Which rows make up a pair? The first half of the batch holds the chosen replies."),
    (
        lambda scores, mask: _accuracy((scores * mask).sum(1) / mask.sum(1)),
        "Training looked at one token of each text, not at the mean of them all.",
    ),
    (
        lambda scores, mask: _accuracy(_at(scores, mask.sum(1) - 2)),
        "Take a text of three tokens: which index has its last one?",
    ),
    (
        lambda scores, mask: _accuracy(_at(scores, mask.chunk(2)[0].sum(1).repeat(2) - 1)),
        "A chosen and a rejected text may differ in length: each has a last token of its own.",
    ),
    (
        # A pair is won if it is not lost: the share of the rejected replies that win, from 1.
        lambda scores, mask: 1 - _accuracy(_at(scores, mask.sum(1) - 1).roll(len(scores) // 2)),
        "Which reward is higher where both are equal? A tie is no win.",
    ),
)


def _grade_batch(answer: Any) -> None:
    found = [number(call(answer, *batch)) for batch in _BATCHES]
    right = [accuracy_of_batch(*batch) for batch in _BATCHES]
    if like(found, right):
        return
    for reading, hint in _WRONG_READINGS:  # on one batch alone, two ways may agree by accident
        if like(found, [reading(*batch) for batch in _BATCHES]):
            raise NotYet(hint)
    place = next(i for i, value in enumerate(found) if not like(value, right[i]))
    raise NotYet(
        f"On a batch of {len(_BATCHES[place][0])} texts you return {found[place]:.3f}; {right[place]:.3f} "
        "is right. Make a batch of two pairs and work out each reward by hand first."
    )


# --- 05.3: expected accuracy

_AGREES, _BETTER_WINS = 0.95, 0.9
_EXPECTED = _AGREES * _BETTER_WINS + (1 - _AGREES) * (1 - _BETTER_WINS)


def _share(answer: Any) -> float:
    value = number(answer)
    return value / 100 if value > 1 else value


# --- 05.4: one setting changed

_RELATIONS = list(range(25)) * 4
_RIGHT, _FEWER = [True] * 90 + [False] * 10, [True] * 70 + [False] * 30
_NEARLY_EQUAL = paired_binary([True, False] * 50, [False, True] + [True, False] * 49, clusters=_RELATIONS)


def _check_clusters(answer: dict[str, Any], result: PairedResult) -> None:
    if result.clusters is None:
        raise NotYet("Pairs about one relation are answered alike: compare with clusters=clusters.")


EXERCISES: tuple[Exercise, ...] = (
    function_exercise(
        "05.1",
        "function",
        ranking_loss,
        [
            (torch.tensor(rewards),)
            for rewards in ([1.0, -0.5], [2.0, 1.5, -1.0], [0.0, 0.0, 0.0], [0.3, 1.2, -0.7, 0.1])
        ],
        (
            (
                lambda rewards: ranking_loss(rewards.flip(0)),
                "Which reply of a pair was preferred? The list begins with the best one.",
            ),
            (
                lambda rewards: _of_pairs(rewards).sum(),
                "That grows with the number of pairs, so nine replies would outweigh two; take the mean.",
            ),
            (
                lambda rewards: -logsigmoid(rewards[:-1] - rewards[1:]).mean(),
                "A ranking of three replies says more than two comparisons: what about first and last?",
            ),
            (
                lambda rewards: _of_pairs(rewards, offset=0).mean(),
                "Some of your pairs compare a reply with itself; they teach nothing.",
            ),
        ),
        lambda found, rewards: (
            f"For the rewards {[round(reward, 4) for reward in rewards.tolist()]} you return {found:.4f}. "
            "Write down all pairs of that list by hand, and the loss of each."
        ),
        "Ouyang et al. (2022) let annotators rank 4 to 9 replies and trained on all pairs of a ranking "
        "at once; as separate rows in random order the same pairs made their reward model overfit.",
        same=is_close,
    ),
    Exercise(
        "05.2",
        "bug",
        _grade_batch,
        accuracy_of_batch,
        _WRONG_READINGS,
        "The last column of a padded batch is padding for every text but the longest. Nothing stops with "
        "an error, and where all texts are equally long even the numbers are right.",
    ),
    value_exercise(
        "05.3",
        _EXPECTED,
        (
            (
                _AGREES,
                "That is how often the model sides with gold. The labels are those of annotators who err.",
            ),
            (_BETTER_WINS, "That is what the gold score itself could expect. The model errs, too."),
            (
                _AGREES * _BETTER_WINS,
                "Nearly: there are also pairs in which the model and the annotator err together.",
            ),
        ),
        lambda _: (
            "Split the 100 pairs in two groups, those where the model sides with gold and the others. In "
            "which share of each does the label side with the model?"
        ),
        "0.95 * 0.9 + 0.05 * 0.1. The annotators' errors hide a tenth of what the model does right, and "
        "even turn a few of its own errors into hits.",
        read=_share,
        same=partial(is_close, tolerance=5e-4),
    ),
    change_exercise(
        "05.4",
        ("args.learning_rate", "args.num_train_epochs", "args.center_rewards_coefficient"),
        "args.learning_rate=1e-5",
        (
            ({"result": _NEARLY_EQUAL}, "does it leave 0 out"),
            ({"result": paired_binary(_RIGHT, _FEWER)}, "clusters=clusters"),
        ),
        "The verdict follows from the interval on the same pairs. One seed is one draw, "
        "though: before you keep a setting, repeat the comparison on pairs of the split dev and on "
        "several seeds.",
        result=paired_binary(_RIGHT, _FEWER, clusters=_RELATIONS),
        also=_check_clusters,
    ),
)
