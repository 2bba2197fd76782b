"""The claims of the lessons: what the report card shows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.report.formats import number

if TYPE_CHECKING:
    from posttrain_helpers.report.results import LessonResults
    from posttrain_helpers.statistics.claims import Bound, Claim


@dataclass(frozen=True)
class Axis:
    """A scale that several intervals share.

    Args:
        metric: what is measured.
        ticks: round values in ascending order; the first and the last are the ends of the axis.
    """

    metric: str
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, metric: str, values: list[float], parts: int = 4) -> Axis:
        """Return an axis with round ends that holds zero and all values.

        Args:
            metric: what is measured.
            values: what must lie on the axis.
            parts: the largest number of parts between ticks.
        """
        from matplotlib.ticker import MaxNLocator

        low, high = min(0.0, *values), max(0.0, *values)
        if low == high:  # nothing changed anywhere: any axis around zero will do
            low, high = -1.0, 1.0
        ticks = MaxNLocator(nbins=parts).tick_values(low, high)
        return cls(metric, tuple(float(tick) for tick in ticks))

    def place(self, value: float) -> float:
        """Return where `value` lies on the axis, in percent of its length."""
        low, high = self.ticks[0], self.ticks[-1]
        return 100 * (value - low) / (high - low)


def claim_groups(lessons: list[LessonResults]) -> list[tuple[Axis, list[tuple[str, Claim]]]]:
    """Return all claims by metric, each metric with an axis that holds its intervals and zero."""
    rows: dict[str, list[tuple[str, Claim]]] = {}
    for result in lessons:
        for claim in result.claims:
            rows.setdefault(claim.metric, []).append((result.lesson, claim))
    return [
        (
            Axis.around(
                metric, [end for _, claim in claims for end in (claim.low, claim.difference, claim.high)]
            ),
            claims,
        )
        for metric, claims in rows.items()
    ]


def fresh_seeds(lesson: str, claim: Claim | Bound) -> str:
    """Return on how many fresh seeds a claim held, and how far its values lie apart; empty if never run."""
    from posttrain_helpers.report.fresh_seeds import spread

    table = spread(lesson)
    if claim.name not in table.index:
        return ""
    row = table.loc[claim.name]
    return (
        f"held on {row['held']:.0f} of {row['seeds']:.0f} fresh seeds: "
        f"{number(row['lowest'])} to {number(row['highest'])}"
    )


def headline_cards(lessons: list[LessonResults]) -> list[dict[str, Any]]:
    """Return each lesson's headline with the scale of its before/after picture.

    The scale goes from 0 to 1 for shares, else it is round and holds zero and both values.
    """
    cards = []
    for result in lessons:
        claim = result.headline
        ends = (claim.before, claim.after)
        shares = all(0 <= end <= 1 for end in ends)
        axis = Axis(claim.metric, (0.0, 1.0)) if shares else Axis.around(claim.metric, list(ends), 2)
        cards.append({"result": result, "claim": claim, "axis": axis, "others": len(result.claims) - 1})
    return cards


def environments(sources: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return every setting with its values, and for each value of several who ran with it.

    Args:
        sources: what ran (such as `lesson 01`) and the settings that it ran with.

    Returns:
        (setting, [(value, names)]) in the order of first appearance; a value that all share has no names.
        Who has not recorded a setting is not counted there.
    """
    keys = list(dict.fromkeys(key for _, settings in sources for key in settings))
    table = []
    for key in keys:
        values: dict[str, list[str]] = {}
        for name, settings in sources:
            if key in settings:
                values.setdefault(str(settings[key]), []).append(name)
        shared = len(values) == 1
        table.append((key, [(value, [] if shared else names) for value, names in values.items()]))
    return table
