"""Win rate: on which share of the prompts one model's reply scores higher than another's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics import PairedResult, paired_numeric

# Scores that differ by less than this are a tie.
TIE = 1e-9


def win_rate(
    before: Sequence[float],
    after: Sequence[float],
    tie: float = TIE,
    *,
    clusters: Sequence[Hashable] | None = None,
) -> PairedResult:
    """Compare two models by who scores higher on each prompt; a tie counts half for both.

    Args:
        before: score per prompt of the first model, length N.
        after: score per prompt of the second model on the same prompts.
        tie: scores that differ by no more than this are a tie.
        clusters: the cluster of every prompt, as in `paired_numeric`.

    Returns:
        A paired result whose `after` is the win rate of the second model and whose `before` is 0.5, the win
        rate of a model against its equal. `up`, `down` and `same` count wins, losses and ties.

    Raises:
        CourseError: fewer than two prompts, lists of different length, or a missing score.
    """
    if len(before) != len(after) or any(score is None for score in (*before, *after)):
        missing = sum(score is None for score in (*before, *after))
        raise CourseError(
            f"a win rate needs one score per prompt from each model; found {len(before)} and {len(after)} "
            f"scores, {missing} of them missing. Score both models on the same prompts."
        )
    differences = [second - first for first, second in zip(before, after, strict=True)]
    outcomes = [0.5 if abs(difference) <= tie else float(difference > 0) for difference in differences]
    return paired_numeric([0.5] * len(outcomes), outcomes, clusters=clusters)
