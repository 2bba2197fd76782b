"""Answers to the exercises of lessons 06 to 10 that were taken for right, or had a hint that did not fit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from posttrain_helpers.lessons.exercises import check
from posttrain_helpers.lessons.exercises.lesson_06 import batch_loss
from posttrain_helpers.lessons.exercises.lesson_09 import stop_at

Tensor = torch.Tensor


def test_tokens_are_chosen_by_the_mask_and_not_counted_from_the_left() -> None:
    def counted_from_the_left(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
        first = torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True)
        return batch_loss(policy, ref, first, beta)

    assert check("06.3", counted_from_the_left).correct is False


def test_a_loss_with_the_sign_turned_round_is_asked_for_both_reasons() -> None:
    def rejected_first(policy: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
        return batch_loss(*(rows.roll(len(mask) // 2, dims=0) for rows in (policy, ref, mask)), beta)

    assert "which half of the rows" in check("06.3", rejected_first).message


def kto_loss_of(
    move: Callable[[list[str]], Sequence[str]], point: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    """Return a batch loss of KTO that moves replies in one way and makes a reference point in one way."""

    def loss(policy, reference, prompts, replies, desirable, beta):
        moved = move(replies)
        margins = policy(prompts, replies) - reference(prompts, replies)
        margins = margins - point(policy(prompts, moved) - reference(prompts, moved)).detach()
        return (1 - torch.sigmoid(beta * torch.where(desirable, margins, -margins))).mean()

    return loss


def to_the_next(replies: list[str]) -> list[str]:
    return [replies[-1], *replies[:-1]]


def shuffled(replies: list[str]) -> list[str]:
    return random.sample(replies, len(replies))


def mean_above_0(gains: Tensor) -> Tensor:
    return gains.mean().clamp(min=0)


def mean_of_gains_above_0(gains: Tensor) -> Tensor:
    return gains.clamp(min=0).mean()


@pytest.mark.parametrize(
    ("move", "point"),
    [
        (lambda replies: replies[::-1], mean_above_0),
        (shuffled, mean_above_0),
        (to_the_next, mean_of_gains_above_0),
        (to_the_next, lambda gains: gains.sum().clamp(min=0)),
    ],
    ids=["one reply stays", "shuffled", "each gain cut off", "sum"],
)
def test_another_reference_point_is_refused(move: Callable, point: Callable) -> None:
    assert check("07.3", kto_loss_of(move, point)).correct is False


@pytest.mark.parametrize("move", [to_the_next, lambda replies: np.roll(replies, -1)])
def test_replies_may_move_either_way_and_in_an_array(move: Callable) -> None:
    assert check("07.3", kto_loss_of(move, mean_above_0)).correct is True


@pytest.mark.parametrize("answer", [[0.4, 0.6, -0.4, -0.6], [0, 2, 0, -2]])
def test_directions_are_not_rounded(answer: list[float]) -> None:
    assert "Only the direction" in check("08.1", answer).message


def test_a_wrong_fit_has_its_hint_whatever_its_peak_is() -> None:
    def fitted(kl: np.ndarray, gain: np.ndarray, sign: int, over_root: bool) -> Any:
        d = np.sqrt(kl) if over_root else kl
        columns = np.stack([d, sign * d * np.log(d)], axis=1)
        alpha, beta = np.linalg.lstsq(columns, gain, rcond=None)[0]
        return alpha, beta, np.exp(2 * (alpha / beta - 1))

    assert check("09.2", lambda kl, gain: fitted(kl, gain, -1, over_root=True)).correct is True
    assert "sign of beta" in check("09.2", lambda kl, gain: fitted(kl, gain, 1, over_root=True)).message
    assert "square root" in check("09.2", lambda kl, gain: fitted(kl, gain, -1, over_root=False)).message


def test_a_place_is_not_rounded() -> None:
    assert "returns 2.4" in check("09.3", lambda kls, budget: stop_at(kls, budget) + 0.4).message
    assert check("09.3", lambda kls, budget: np.float64(stop_at(kls, budget))).correct is True
