"""Exercises of lesson 07: losses and lengths, labels that may be wrong, KTO's reference point and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    members_exercise,
    number,
)
from posttrain_helpers.losses import dpo_loss
from posttrain_helpers.statistics.paired_tests import PairedResult

Tensor = torch.Tensor

# Log-probabilities of two pairs: chosen and rejected under the policy, then under the reference.
PAIRS = tuple(torch.tensor(column) for column in ([-8.0, -5.0], [-22.0, -3.0], [-10.0, -6.0], [-14.0, -9.0]))


def conservative_dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    flipped: float,
) -> Tensor:
    """Return the DPO loss that is expected when a share of the labels is flipped."""
    margin = beta * (policy_chosen - ref_chosen - (policy_rejected - ref_rejected))
    return -(1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)


def _flipped_margin(*arguments: Any) -> Tensor:
    *columns, beta, flipped = arguments
    margin = columns[0] - columns[2] - (columns[1] - columns[3])
    return -logsigmoid(beta * (1 - 2 * flipped) * margin)


def scorer(table: dict[tuple[str, str], float]) -> Callable[..., Tensor]:
    """Return a toy model: a function of prompts and replies that looks up log-probabilities."""
    return lambda prompts, replies: torch.tensor([table[row] for row in zip(prompts, replies, strict=True)])


PROMPTS, REPLIES = ["p0", "p1", "p2"], ["r0", "r1", "r2"]
DESIRABLE = torch.tensor([True, False, True])


def toy_models(drift: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return policy and reference; the policy finds misplaced replies likelier by about `drift` nats.

    The gains of misplaced replies differ, in sign too: so no two ways to move the replies have the same mean,
    and to cut off each gain at 0 is not to cut off their mean.
    """
    reference = {
        (p, r): -10.0 - 2 * i - j - i * j for i, p in enumerate(PROMPTS) for j, r in enumerate(REPLIES)
    }
    policy = {
        (p, r): reference[p, r] + (drift - 1.5 + 2 * j - i * j**2 if i != j else 4.0 - 2 * j)
        for i, p in enumerate(PROMPTS)
        for j, r in enumerate(REPLIES)
    }
    return scorer(policy), scorer(reference)


def kto_batch(
    policy: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    prompts: list[str],
    replies: list[str],
    desirable: Tensor,
    beta: float,
    clamp: bool = True,
    detach: bool = True,
    both: bool = True,
) -> Tensor:
    """Return KTO's loss of a batch, the reference point from replies moved to the next prompt."""
    moved = [replies[-1], *replies[:-1]]
    point = (policy(prompts, moved) - reference(prompts, moved if both else replies)).mean()
    point = point.clamp(min=0) if clamp else point
    point = point.detach() if detach else point
    margins = policy(prompts, replies) - reference(prompts, replies) - point
    return (1 - torch.sigmoid(beta * torch.where(desirable, margins, -margins))).mean()


def rolled_kto_batch(
    policy: Any, reference: Any, prompts: Any, replies: Any, desirable: Any, beta: float
) -> Tensor:
    """The function of the notebook."""
    log_ratios = policy(prompts, replies) - reference(prompts, replies)
    margins = log_ratios - log_ratios.roll(1).mean().clamp(min=0).detach()
    return (1 - torch.sigmoid(beta * torch.where(desirable, margins, -margins))).mean()


def grade_kto_batch(answer: Any) -> None:
    """KTO's loss of a toy batch, with a reference point above and below 0, and its gradient."""
    # A shuffle leaves some reply in its row two times in three: asked so often, it is found out.
    for drift in (*[1.0] * 8, -3.0):
        arguments = (*toy_models(drift), PROMPTS, REPLIES, DESIRABLE, 0.3)
        backwards = (*toy_models(drift), PROMPTS[::-1], REPLIES[::-1], DESIRABLE.flip(0), 0.3)
        value = number(call(answer, *arguments))
        # Each reply may move to the prompt of the next row or of the row before.
        moves = (arguments, backwards)
        if any(like(value, kto_batch(*rows)) for rows in moves):
            continue
        if like(value, rolled_kto_batch(*arguments)):
            raise NotYet(
                "The loss is the same as before. Compute the reference point by hand for three log ratios: "
                "what does the mean make of their new order? And which replies should it be about?"
            )
        if any(like(value, kto_batch(*rows, both=False)) for rows in moves):
            raise NotYet("The policy scores the moved replies. What does the reference score?")
        if any(like(value, kto_batch(*rows, clamp=False)) for rows in moves):
            raise NotYet("Where misplaced replies became less likely, your reference point is below 0.")
        raise NotYet(
            "Another loss is expected. The reference point needs two more forward passes: score each reply "
            "under the prompt of another row, with both models. The rest of the function is right."
        )
    if _has_gradient(answer):
        raise NotYet(
            "The value is right, but a gradient flows through the reference point; it should be a constant."
        )


def _has_gradient(function: Callable[..., Any]) -> bool:
    """Say whether the loss has a gradient with regard to misplaced replies."""
    weights = torch.zeros((), requires_grad=True)
    policy, reference = toy_models(1.0)

    def misplaced(prompts: list[str], replies: list[str]) -> Tensor:
        moved = torch.tensor([float(p[1] != r[1]) for p, r in zip(prompts, replies, strict=True)])
        return policy(prompts, replies) + weights * moved

    loss = call(function, misplaced, reference, PROMPTS, REPLIES, DESIRABLE, 0.3)
    gradient = None
    if isinstance(loss, Tensor) and loss.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss, weights, allow_unused=True)
        except RuntimeError as error:
            raise NotYet(f"The value is right, but its gradient stops with {error}") from error
    if gradient is None:
        raise NotYet(
            "The value is right, but nothing can be learned from it: what you return has no gradient."
        )
    return bool(gradient.abs() > 0)


def check_weight(answer: dict[str, Any], _: PairedResult) -> None:
    """Take a finite weight above 0."""
    value = answer["changed"].partition("=")[2].strip()
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise NotYet(f"A weight is a number above 0, but {value!r} was found.")


_WITH_LENGTH = "Look at the arguments of the losses of DPO and KTO: does the length enter anywhere?"
_MISSING = "At least one is missing: which losses take the mean log-probability of the policy alone?"

EXERCISES: tuple[Exercise, ...] = (
    members_exercise(
        "07.1",
        ["ORPO", "SimPO"],
        {
            "IPO": "IPO does divide by the length. But what does it divide, where policy and reference "
            "agree?",
            "DPO": _WITH_LENGTH,
            "KTO": _WITH_LENGTH,
            "ORPO": _MISSING,
            "SimPO": _MISSING,
        },
        "Where policy and reference agree, every log ratio is 0, and 0 divided by any length is 0. ORPO and "
        "SimPO look at the policy's mean alone, and there the long reply is likely, token by token.",
    ),
    function_exercise(
        "07.2",
        "function",
        conservative_dpo,
        [(*PAIRS, 0.3, 0.1), (*PAIRS, 0.15, 0.25), (*PAIRS, 0.3, 0.0)],
        (
            (
                lambda *arguments: conservative_dpo(*arguments[:5], 1 - arguments[5]),
                "Most labels are right. Which of the two losses should get the larger weight?",
            ),
            (
                _flipped_margin,
                "You have averaged the margins. It is the two losses that are to be averaged.",
            ),
            (
                lambda *arguments: dpo_loss(*arguments[:5]),
                "That is DPO's own loss: where does `flipped` come in?",
            ),
        ),
        lambda found, *arguments: (
            f"With beta {arguments[4]} and flipped {arguments[5]} another loss is expected. Write down DPO's "
            "loss of a pair, and again with chosen and rejected exchanged; then weight the two."
        ),
        "This loss is smallest at the margin log((1 - flipped) / flipped) / beta. Like IPO's it has a "
        "target, and beyond that it pushes back.",
        same=is_close,
    ),
    Exercise(
        "07.3",
        "bug",
        grade_kto_batch,
        kto_batch,
        (
            (rolled_kto_batch, "what does the mean make"),
            (partial(kto_batch, both=False), "What does the reference score"),
            (partial(kto_batch, clamp=False), "below 0"),
            (partial(kto_batch, detach=False), "a gradient flows"),
        ),
        "A mean has no order, so to roll the log ratios changes nothing: the reference point was that of the "
        "matched replies. The replies must move, and be scored again under their new prompts.",
    ),
    change_exercise(
        "07.4",
        ("args.desirable_weight",),
        "args.desirable_weight=1",
        (({"changed": "args.desirable_weight=0"}, "a number above 0"),),
        "One run on one seed, whatever it shows: read the interval, not the point. The balance matters "
        "more the fewer replies of one kind there are; one good reply in a hundred would be a harder "
        "test.",
        also=check_weight,
    ),
)
