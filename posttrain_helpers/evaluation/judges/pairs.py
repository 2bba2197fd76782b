"""Ask a judge about pairs of replies in an order that is recorded, and measure the judge as well.

judgements = judge_pairs(ScoreJudge("gold", gold), items, dpo_replies, sft_replies, labels=("dpo", "sft"))
judgements.win_rate(), judgements.position_bias()

A judge may lean towards the reply that is shown first. So the order is decided by a coin for each item, or
both orders are asked; either way the lean does not favour one model, and it can be measured.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.comparison.scores import check_choice
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import Item, Judge, Reply, check_pairs
from posttrain_helpers.evaluation.judges.judgements import ORDERS, Judgement, Judgements, Order

if TYPE_CHECKING:
    from posttrain_helpers.statistics.agreement import Kappa


def judge_pairs(
    judge: Judge,
    items: Sequence[Item],
    left: Sequence[Reply],
    right: Sequence[Reply],
    *,
    labels: tuple[str, str] = ("left", "right"),
    order: Order = "random",
    seed: int = 0,
) -> Judgements:
    """Ask a judge which of two models replied better to each item.

    Args:
        judge: see `judges`.
        items: N items, each with an `id` of its own.
        left: N replies of one model.
        right: N replies of the other model.
        labels: what to call the two models.
        order: "random": a fair coin for each item decides which reply is shown first; "as given": the left
            one is; "both": the judge is asked twice, once in each order.
        seed: of the coins. An item's coin depends on its id and the labels only, not on the other items.

    Returns:
        The judgements, in the order of the items.

    Raises:
        CourseError: lists of different length, no items, items without an id or with one id, equal labels, an
            unknown order, or a judge that does not return one choice per question.
    """
    check_choice("order", order, ORDERS)
    check_pairs(items, left, right)
    if isinstance(labels, str) or len(labels) != 2:
        raise CourseError(f"labels must be two texts such as ('dpo', 'sft'), but {labels!r} was found.")
    identifiers = [_identifier(item, index) for index, item in enumerate(items)]
    questions = [
        (index, flipped)
        for index, identifier in enumerate(identifiers)
        for flipped in _flips(order, f"{seed}/{labels[0]}/{labels[1]}/{identifier}")
    ]
    choices = judge.compare(
        [items[index] for index, _ in questions],
        [(right if flipped else left)[index] for index, flipped in questions],
        [(left if flipped else right)[index] for index, flipped in questions],
    )
    if len(choices) != len(questions):
        raise CourseError(
            f"the judge {judge.name!r} returned {len(choices)} choices for {len(questions)} questions; "
            "compare() must return one for each item."
        )
    rows = tuple(
        Judgement(identifiers[index], flipped, float(choice.first_share))
        for (index, flipped), choice in zip(questions, choices, strict=True)
    )
    return Judgements(judge.name, *labels, order=order, rows=rows)


def kappa(first: Judgements, second: Judgements) -> Kappa:
    """Return how much two judges agree about the same pairs of replies, beyond chance.

    Args:
        first: what one judge said.
        second: what the other said about the same models and items, in any order of the items.

    Returns:
        Cohen's kappa of the verdicts per item: left, right or tie.

    Raises:
        CourseError: other models or other items, or what `agreement.cohen_kappa` raises.
    """
    from posttrain_helpers.statistics.agreement import cohen_kappa

    if (first.left, first.right) != (second.left, second.right):
        raise CourseError(
            f"one judge compared {first.left!r} with {first.right!r} and the other {second.left!r} with "
            f"{second.right!r}; let both judge the same models, in the same places."
        )
    one, other = first.verdicts(), second.verdicts()
    if one.keys() != other.keys():
        raise CourseError(
            f"{len(one.keys() ^ other.keys())} items were judged by one of the two judges only; let both "
            "judge the same items."
        )
    return cohen_kappa(list(one.values()), [other[identifier] for identifier in one])


def _flips(order: Order, key: str) -> tuple[bool, ...]:
    if order == "both":
        return (False, True)
    # An independent coin for each item, not half of the items: the binomial test is exact for coins.
    return (order == "random" and random.Random(key).random() < 0.5,)


def _identifier(item: Item, index: int) -> str:
    if not isinstance(item.get("id"), str):
        raise CourseError(
            f"item {index} has the id {item.get('id')!r}; give each item a text of its own as id."
        )
    return item["id"]
