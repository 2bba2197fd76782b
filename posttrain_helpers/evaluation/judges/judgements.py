"""The answers of a judge about pairs of replies, and what they say about the models and about the judge."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from posttrain_helpers.comparison.scores import check_choice
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import Choice

if TYPE_CHECKING:
    import pandas as pd

    from posttrain_helpers.statistics.paired_tests import PairedResult

Order = Literal["random", "as given", "both"]
ORDERS: tuple[Order, ...] = ("random", "as given", "both")
COLUMNS = ("judge", "order", "id", "left", "right", "flipped", "first_share", "outcome")

_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Judgement:
    """One question to a judge and its answer.

    Attributes:
        id: the item's.
        flipped: whether the right reply was shown first.
        first_share: how strongly the reply shown first was preferred, as in `Choice`.
    """

    id: str
    flipped: bool
    first_share: float

    @property
    def first_won(self) -> float:
        """1 when the reply shown first was preferred, 0.5 for a tie, 0 when the second was."""
        return _POINTS[Choice(self.first_share).verdict]

    @property
    def outcome(self) -> float:
        """1 when the left reply was preferred, 0.5 for a tie, 0 when the right one was."""
        return 1 - self.first_won if self.flipped else self.first_won


@dataclass(frozen=True)
class Share:
    """A share of items with its interval.

    Attributes:
        n: number of items.
        share: the share, from 0 to 1.
        low, high: ends of the 95 % interval.
        p: two-sided p-value of a share of 0.5; None where 0.5 is nothing special.
    """

    n: int
    share: float
    low: float
    high: float
    p: float | None = None


@dataclass(frozen=True)
class Judgements:
    """What a judge said about the replies of two models to the same items.

    Attributes:
        judge: the judge's name.
        left, right: the labels of the two models.
        order: "random", "as given" or "both", as for `judge_pairs`.
        rows: one per question to the judge; with "both" two per item.

    Raises:
        CourseError: no rows, one label for both sides, or rows that do not fit the order.
    """

    judge: str
    left: str
    right: str
    order: Order
    rows: tuple[Judgement, ...]

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        if self.left == self.right:
            raise CourseError(
                f"both sides are called {self.left!r}, so their wins cannot be told apart; give the two "
                "models different labels."
            )
        if not self.rows:
            raise CourseError("there is no judgement: the list of rows is empty; judge at least one item.")
        asked = defaultdict(list)
        for row in self.rows:
            asked[row.id].append(row.flipped)
        allowed = {"random": ([False], [True]), "as given": ([False],), "both": ([False, True],)}[self.order]
        for identifier, flips in asked.items():
            if sorted(flips) not in allowed:
                raise CourseError(
                    f"with order={self.order!r} each item is asked "
                    f"{'once in each order' if self.order == 'both' else 'once'}"
                    f"{', not flipped' if self.order == 'as given' else ''}, but item {identifier!r} has "
                    f"{len(flips)} rows, {sum(flips)} of them flipped; give the items different ids."
                )

    def outcomes(self) -> dict[str, float]:
        """Return for each item how the left reply did: 1 won, 0 lost, 0.5 tie.

        With both orders it is the mean of two answers: a verdict that turns with the order is a tie.
        """
        return self._by_item("outcome")

    def verdicts(self) -> dict[str, Literal["left", "right", "tie"]]:
        """Return for each item the side that the judge prefers."""
        return {
            identifier: "tie" if outcome == 0.5 else "left" if outcome > 0.5 else "right"
            for identifier, outcome in self.outcomes().items()
        }

    def win_rate(self) -> PairedResult:
        """Return the win rate of the left model, ties half, as `posttrain_helpers.statistics.wins` does.

        Returns:
            A paired result over items whose `after` is the win rate and whose `before` is 0.5; `up`, `down`
            and `same` count the items won, lost and tied.

        Raises:
            CourseError: fewer than two items.
        """
        from posttrain_helpers.statistics.paired_tests import paired_numeric

        outcomes = list(self.outcomes().values())
        return paired_numeric([0.5] * len(outcomes), outcomes)

    def position_bias(self) -> Share:
        """Return how often the reply shown first won, ties half; 0.5 is a judge without a lean.

        With a random order, a judge without a lean prefers the first reply with probability 0.5 on every
        item, however good the replies are, because a fair coin decided which of them was first. With both
        orders each item is compared with itself, and counts only where the two answers differ. So in both
        cases the two-sided exact binomial test of the items that are not even is valid.

        Returns:
            The share over items, with the p-value of "no lean".

        Raises:
            CourseError: the replies were shown in the order given, where the lean cannot be told from the
                quality of the replies.
        """
        if self.order == "as given":
            raise CourseError(
                f"every reply of {self.left!r} was shown first, so a lean towards the first reply cannot be "
                "told from better replies; judge with order='random' or order='both'."
            )
        from scipy.stats import binomtest

        values = list(self._by_item("first_won").values())
        up, down = (sum(sign * (value - 0.5) > 0 for value in values) for sign in (1, -1))
        p = float(binomtest(up, up + down).pvalue) if up + down else 1.0
        return Share(len(values), sum(values) / len(values), *_interval(values), p)

    def consistency(self) -> Share:
        """Return the share of items whose verdict stays the same when the order is turned round.

        A judge that always names the same position has 0, one that tosses a coin 0.5.

        Returns:
            The share with Wilson's interval.

        Raises:
            CourseError: only one order was asked.
        """
        if self.order != "both":
            raise CourseError(
                f"the consistency needs each item judged in both orders, but the order was {self.order!r}; "
                "judge with order='both'."
            )
        answers = defaultdict(set)
        for row in self.rows:
            answers[row.id].add(row.outcome)
        values = [float(len(outcomes) == 1) for outcomes in answers.values()]
        return Share(len(values), sum(values) / len(values), *_interval(values))

    def comparisons(self) -> list[tuple[str, str, float, str]]:
        """Return (left, right, outcome for left, id) for every question, as `bradley_terry` takes them."""
        return [(self.left, self.right, row.outcome, row.id) for row in self.rows]

    def frame(self) -> pd.DataFrame:
        """Return one line per question to the judge."""
        import pandas as pd

        about = {"judge": self.judge, "order": self.order, "left": self.left, "right": self.right}
        rows = [{**about, **asdict(row), "outcome": row.outcome} for row in self.rows]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _by_item(self, value: str) -> dict[str, float]:
        values = defaultdict(list)
        for row in self.rows:
            values[row.id].append(getattr(row, value))
        return {identifier: sum(found) / len(found) for identifier, found in values.items()}


def _interval(values: list[float]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share over items."""
    from posttrain_helpers.statistics.intervals import mean_interval, tango_interval, wilson_interval

    found = set(values)
    if found <= {0.0, 1.0}:
        return wilson_interval(int(sum(values)), len(values))
    if found <= {0.0, 0.5, 1.0}:
        # With ties a half, the share is half the difference of two rates, which has a score interval.
        low, high = tango_interval(values.count(1.0), values.count(0.0), len(values))
        return (1 + low) / 2, (1 + high) / 2
    if len(values) == 1:
        return 0.0, 1.0
    low, high = mean_interval(values)
    return max(low, 0.0), min(high, 1.0)
