"""One board for all models: who is better at what, by how much, and which differences the data show.

A board is made of evaluation records alone, that is, of the JSON files that an evaluation leaves behind:

    board = Board(read_records("tiny"))
    print(board)
    board.leaderboard()

Models are compared item by item on the same items. Questions about one relation are right or wrong together,
so tests take them as one cluster, where the records name relations. A record whose items of a suite differ
from those of most models is not compared there; `notes` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.board import view
from posttrain_helpers.evaluation.board.forgetting import DOCUMENTS, Forgetting, compare
from posttrain_helpers.evaluation.board.scores import (
    check_records,
    common_clusters,
    differing_settings,
    document_losses,
    frontier_points,
    stratified,
    suite_scores,
    writing_style,
)
from posttrain_helpers.evaluation.board.tables import BETTER, WORSE, Table, leaderboard_table, style_table
from posttrain_helpers.evaluation.records import KINDS
from posttrain_helpers.models.manifest import BASE
from posttrain_helpers.statistics.ranking import significant_ranks
from posttrain_helpers.wording import closest, counted

if TYPE_CHECKING:
    from pandas import DataFrame

    from posttrain_helpers.evaluation.records import EvaluationRecord

# Shown but not averaged: identity is a matter of taste, not a skill.
LEFT_OUT = {"identity"}


class Board:
    """The models of one profile, side by side; HTML in a notebook, a table in a terminal.

    Args:
        records: one per model.
        reference: the model that the others are compared with; the first one where it has no record.

    Attributes:
        records: by label: "base" first, then the reference, then in the order given.
        reference: the label that the marks refer to.
        suites: the headline scores by suite.
        notes: what a reader of the tables has to know about models and suites that are left out.

    Raises:
        CourseError: no record, two records of one label, or records of several profiles or splits.
    """

    def __init__(self, records: Sequence[EvaluationRecord], reference: str | None = "sft") -> None:
        records = list(records)
        check_records(records)
        labels = [record.label for record in records]
        self.notes: list[str] = []
        first = BASE if BASE in labels else labels[0]
        if reference is not None and reference not in labels:
            self.notes.append(
                f"There is no record of {reference!r}; {closest(reference, labels)}the models "
                f"are compared with {first!r} instead."
            )
        self.reference = reference if reference in labels else first
        order = sorted(records, key=lambda r: (r.label != BASE, r.label != self.reference))
        self.records = {record.label: record for record in order}
        self.profile, self.split = order[0].profile, order[0].split
        self.suites, notes = suite_scores(self.records)
        self._documents, more = document_losses(self.records)
        self._frontier, apart = frontier_points(self.records)
        self.notes += [*notes, *more, *apart, *differing_settings(self.records)]
        self._leaderboards: dict[str, DataFrame] = {}
        self._note_the_average()

    @property
    def labels(self) -> list[str]:
        """The models, in the order of the board."""
        return list(self.records)

    def averaged(self, kind: str = "correctness") -> list[str]:
        """Return the suites of one kind that make the average: those that most models were measured on.

        Args:
            kind: "correctness" or "preference".
        """
        if kind not in KINDS:
            raise CourseError(
                f"{kind!r} is no kind of suite; {closest(kind, KINDS)}use one of {', '.join(KINDS)}."
            )
        return [
            name
            for name in self._common_suites()
            if self.suites[name].kind == kind and name not in LEFT_OUT and self.suites[name].n > 1
        ]

    def ranked(self, kind: str = "correctness") -> list[str]:
        """Return the models that have an average: those measured on all of the suites that make it."""
        suites = [self.suites[name] for name in self.averaged(kind)]
        return [label for label in self.labels if suites and all(label in suite.scores for suite in suites)]

    def leaderboard(self, kind: str = "correctness") -> DataFrame:
        """Rank the models by the mean of their suites' means, every suite weighing the same.

        The suites are strata that everybody is measured on, so chance enters only within a suite. Item i of
        suite s, with n_s of the N items and S suites, enters as

            average + N / (S * n_s) * sqrt(n_s / (n_s - 1)) * (score_i - mean_s),

        whose plain mean is the average and whose paired differences have the variance of a stratified mean,
        the sum of s_s^2 / (S^2 * n_s). Items that were only weighted would also count as chance that one
        suite is harder than another. One suite alone is ranked by its own scores. Where the questions of a
        suite form clusters, 1 / (1 - sum of the squared shares of its clusters) stands for n_s / (n_s - 1),
        which is the same when each question is a cluster, and questions about one relation are one cluster
        in all suites.

        Args:
            kind: "correctness", or "preference" for the suites that a gold score judges.

        Returns:
            Index label, the best first: rank (1 + number of significantly better models, after Holm's
            correction), ranks (such as "2-4": the places that no test excludes), score, low, high (95 %
            interval), yes_no (whether it is a share), tied_with (models that no test tells apart) and n
            (items). Models that lack one of the suites are not in it.

        Raises:
            CourseError: there is no such suite on the board.

        Source: Cochran (1977), Sampling Techniques, section 5.3, for the stratified mean.
        """
        if kind not in self._leaderboards:
            self._leaderboards[kind] = self._ranked_averages(kind)
        return self._leaderboards[kind].copy()

    def _ranked_averages(self, kind: str) -> DataFrame:
        names = self.averaged(kind)
        if not names:
            raise CourseError(
                f"No suite of kind {kind!r} can be averaged; the board has {', '.join(self.suites)}. "
                "Evaluate the models on a common suite of at least 2 items."
            )
        suites = [self.suites[name] for name in names]
        labels = self.ranked(kind)
        if not labels:
            raise CourseError(
                f"No model was measured on all of {', '.join(names)}; evaluate one model on all of them."
            )
        ranks = significant_ranks(
            {label: stratified(suites, label) for label in labels}, common_clusters(suites)
        )
        frame = ranks.rename(columns={"mean": "score"})
        frame["yes_no"] = all(suite.yes_no for suite in suites)
        if frame["yes_no"].all():  # resampled residuals may leave the range of a share
            frame["low"], frame["high"] = frame["low"].clip(lower=0.0), frame["high"].clip(upper=1.0)
        frame["ranks"] = [
            f"{best}" if best == worst else f"{best}-{worst}"
            for best, worst in zip(frame["rank"], frame["worst_rank"], strict=True)
        ]
        return frame[["rank", "ranks", "score", "low", "high", "yes_no", "tied_with", "n"]]

    def retention(self) -> Forgetting:
        """Compare every model with the reference, skill by skill, item by item.

        The column `DOCUMENTS` compares the mean loss per token of each document (nats; lower is better).
        """
        return self._forgetting

    @cached_property
    def _forgetting(self) -> Forgetting:
        scores = {name: suite.scores for name, suite in self.suites.items()}
        if self._documents:
            scores[DOCUMENTS] = self._documents
        results = {
            label: {
                name: compare(
                    found[self.reference],
                    found[label],
                    higher_is_better=name != DOCUMENTS,
                    clusters=None if name == DOCUMENTS else self.suites[name].clusters,
                )
                if {label, self.reference} <= set(found)
                else None
                for name, found in scores.items()
            }
            for label in self.labels
            if label != self.reference
        }
        return Forgetting(self.reference, tuple(scores), results)

    def frontier(self) -> DataFrame:
        """Return what each model gained by how far it moved: gold score and KL to the reference.

        Returns:
            Index label; kl, kl_low, kl_high (nats per prompt), gold, gold_low, gold_high: means over prompts
            of sampled replies, 95 % intervals. Only models that were measured against the same reference, on
            the same suite and at the same temperature.

        Raises:
            CourseError: no record holds a divergence.
        """
        import pandas

        if not self._frontier:
            raise CourseError(
                "No record holds a divergence from a reference; evaluate with reference='sft' to measure it."
            )
        return pandas.DataFrame.from_dict(self._frontier, orient="index")

    def style(self) -> DataFrame:
        """Return how the models write in the preference suites, whether or not they are right.

        Without a preference suite, where replies are free, all suites are looked at.

        Returns:
            Index label; distinct-2, repetition, mean tokens, stop rate (all of the replies) and perplexity
            (of the base documents, NaN where they were not read).

        Raises:
            CourseError: no suite has the replies of most models.
        """
        import pandas

        common = self._common_suites()
        chosen = [name for name in common if self.suites[name].kind == "preference"] or common
        if not chosen:
            raise CourseError(
                "No suite has the replies of most models; evaluate the models on a common suite."
            )
        rows = {
            label: writing_style(record, chosen, label in self._documents)
            for label, record in self.records.items()
            if all(label in self.suites[name].scores for name in chosen)
        }
        return pandas.DataFrame.from_dict(rows, orient="index")

    def _common_suites(self) -> list[str]:
        return [suite.name for suite in self.suites.values() if 2 * len(suite.scores) > len(self.records)]

    def samples(self, suite: str, n: int) -> DataFrame:
        """Return replies of all models to a few prompts, evenly spaced, not the most flattering ones.

        Args:
            suite: the name of a suite.
            n: the most prompts to show.

        Returns:
            Index prompt, a column for each model.
        """
        import pandas

        labels = list(self.suites[suite].scores)
        prompts = self.records[labels[0]].suites[suite].prompts
        count = min(n, len(prompts))
        chosen = [index * len(prompts) // count for index in range(count)]
        return pandas.DataFrame(
            {label: [self.records[label].suites[suite].replies[i] for i in chosen] for label in labels},
            index=pandas.Index([prompts[i] for i in chosen], name="prompt"),
        )

    def tables(self) -> list[Table]:
        """Return what a reader sees: a leaderboard for each kind of suite, then how the models write."""
        forgetting = self.retention()
        tables = []
        for kind in KINDS:
            averaged = self.averaged(kind)
            suites = [suite for suite in self.suites.values() if suite.kind == kind]
            suites.sort(key=lambda suite: suite.name not in averaged)
            if suites:
                averages = self.leaderboard(kind) if self.ranked(kind) else None
                tables.append(leaderboard_table(kind.capitalize(), self.labels, suites, averages, forgetting))
        if self._common_suites():
            tables.append(style_table(self.style(), forgetting))
        return tables

    def __str__(self) -> str:
        return view.to_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return view.to_html(self)

    def title(self) -> str:
        """Return what is compared."""
        return (
            f"{counted(len(self.labels), 'model')} on {counted(len(self.suites), 'suite')} of the profile "
            f"{self.profile}, split {self.split}, compared with {self.reference}"
        )

    def explanations(self) -> list[str]:
        """Return how to read the tables, and the notes."""
        return [
            "Suites with yes/no scores are in %, others are mean scores; an average is the mean of its "
            "suites, with its 95 % interval. Rank: a range such as 2-4 holds the places that no test "
            f"excludes. {BETTER} better, {WORSE} worse than {self.reference} on the same items, at the 5 % "
            f"level after Holm's correction for {counted(len(self.retention().adjusted), 'comparison')} "
            "(averages: for the pairs of models); without a mark no difference is shown. Perplexity: on "
            "base documents; lower is better.",
            *self.notes,
        ]

    def _note_the_average(self) -> None:
        for name in LEFT_OUT & set(self.suites):
            self.notes.append(f"{name} is not part of the average: a stage may change it on purpose.")
        for kind in KINDS:
            averaged = self.averaged(kind)
            for suite in self.suites.values():
                if suite.kind == kind and suite.name not in {*averaged, *LEFT_OUT}:
                    self.notes.append(
                        f"{suite.name} is not part of the average: {len(suite.scores)} of "
                        f"{len(self.records)} models have it, with {counted(suite.n, 'item')}."
                    )
            for label in self.labels:
                lacking = [name for name in averaged if label not in self.suites[name].scores]
                if lacking:
                    self.notes.append(f"{label} has no average over {kind}: it lacks {', '.join(lacking)}.")
