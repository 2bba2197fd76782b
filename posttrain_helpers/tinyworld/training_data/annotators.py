"""Annotators of the tiny world: they prefer the better reply, but not always.

An annotator sees two replies and prefers the first with the probability of the Bradley-Terry model, where
the gold score is the strength of a reply. The gold score is known here, so the best accuracy that anything
trained on such labels can reach, the Bayes ceiling, is known too.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from posttrain_helpers.tinyworld.gold import gold_score

if TYPE_CHECKING:
    from posttrain_helpers.stages.samples import Sample

# Gold scores closer than this are a tie: a label would be the toss of a coin.
TIE = 0.25


def preference_probability(gold_difference: float, temperature: float) -> float:
    """Return the probability that a reply is preferred to another.

    Args:
        gold_difference: gold score of the reply minus that of the other.
        temperature: of the annotators, in units of the gold score; towards 0 they never err.

    Source: Bradley and Terry (1952), Biometrika 39, equation 1, with strengths exp(gold / temperature).
    """
    # The sigmoid, in a form that does not overflow.
    return 0.5 * (1 + math.tanh(gold_difference / temperature / 2))


def annotated_pairs(
    items: Sequence[dict[str, Any]],
    replies: Sequence[Sequence[Sample]],
    temperature: float,
    seed: int,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Make one preference pair of each prompt's replies: its best and its worst, labelled by an annotator.

    Args:
        items: N items, each with `id`, `task`, `prompt` and what the gold score needs.
        replies: for each item its sampled replies.
        temperature: of the annotators.
        seed: of their errors.

    Returns:
        Rows with `prompt`, `chosen` and `rejected` (messages), `gold_chosen` and `gold_rejected`, and
        `probability`, with which annotators prefer the better reply; and for each reason the number of
        prompts dropped.
    """
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item, group in zip(items, replies, strict=True):
        scored = [
            (gold_score(item, r.text, stopped=r.stopped).total, r.text) for r in group if r.text.strip()
        ]
        if len(scored) < 2:
            dropped["empty completion"] += 1
            continue
        scored.sort(key=itemgetter(0))
        (low, worse), (high, better) = scored[0], scored[-1]
        if worse.strip() == better.strip() or high - low < TIE:
            dropped["identical" if worse.strip() == better.strip() else "tie"] += 1
            continue
        probability = preference_probability(high - low, temperature)
        # The item's own generator: dropping one prompt leaves the labels of all others as they are.
        right = random.Random(f"annotator/{seed}/{item['id']}").random() < probability
        preferred, other = (high, better), (low, worse)
        row = preference_row(item, *((preferred, other) if right else (other, preferred)))
        rows.append({**row, "probability": probability})
    return rows, dropped


def preference_row(
    item: dict[str, Any], chosen: tuple[float | None, str], rejected: tuple[float | None, str]
) -> dict[str, Any]:
    """Return the row of a preference pair.

    Args:
        item: with `id`, `task` and `prompt`.
        chosen: gold score, None where there is none, and text of the preferred reply.
        rejected: of the other one.
    """
    return {
        "id": item["id"],
        "task": item["task"],
        "prompt": item["prompt"],
        "chosen": [{"role": "assistant", "content": chosen[1]}],
        "rejected": [{"role": "assistant", "content": rejected[1]}],
        "gold_chosen": chosen[0],
        "gold_rejected": rejected[0],
    }
