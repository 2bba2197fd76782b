"""Win rate: on which share of the prompts one model's reply scores higher than another's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from posttrain_helpers.statistics.paired_tests import PairedResult, paired_numeric, paired_scores

# Scores that differ by no more than this are a tie.
TIE = 1e-9


def win_rate(
    before: Sequence[float], after: Sequence[float], *, clusters: Sequence[Hashable] | None = None
) -> PairedResult:
    """Compare two models by who scores higher on each prompt; a tie counts half for both.

    Args:
        before: score per prompt of the first model, length N.
        after: score per prompt of the second model on the same prompts.
        clusters: the cluster of every prompt, as in `paired_numeric`.

    Returns:
        A paired result whose `after` is the win rate of the second model and whose `before` is 0.5, the win
        rate of a model against its equal. `up`, `down` and `same` count wins, losses and ties.

    Raises:
        CourseError: fewer than two prompts, lists of different length, or a missing score.
    """
    first, second = paired_scores(before, after)
    outcomes = np.where(np.abs(second - first) <= TIE, 0.5, second > first)
    return paired_numeric(np.full(len(outcomes), 0.5), outcomes, clusters=clusters)
