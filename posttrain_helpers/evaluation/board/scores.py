"""The numbers behind a board: which scores of which models can be compared, and their weighted mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain_helpers import metrics
from posttrain_helpers.errors import CourseError
from posttrain_helpers.statistics.intervals import clusters_of
from posttrain_helpers.statistics.ranking import all_yes_no, score_interval

if TYPE_CHECKING:
    from posttrain_helpers.evaluation.records import EvaluationRecord


@dataclass(frozen=True)
class SuiteScores:
    """The headline scores of one suite, of the models that were measured on the same items.

    Attributes:
        name, skill, kind, measure: as in the records.
        scores: for each model one score per item, of the items for which every one of these models has one.
        clusters: what each of these items is right or wrong together with (see `intervals.clusters_of`);
            None where the records tell of no relations.
    """

    name: str
    skill: str
    kind: str
    measure: str
    scores: Mapping[str, np.ndarray]
    clusters: tuple[tuple[str, ...], ...] | None = None

    @property
    def n(self) -> int:
        """Number of items."""
        return len(next(iter(self.scores.values())))

    @cached_property
    def yes_no(self) -> bool:
        """Whether every score is 0 or 1."""
        return all_yes_no(self.scores)


def check_records(records: Sequence[EvaluationRecord]) -> None:
    """Raise a CourseError unless there are records, of one profile and split and with labels of their own."""
    if not records:
        raise CourseError(
            "A board needs at least one record, but there is none; make some by "
            "`python -m posttrain_helpers evaluate`."
        )
    twice = [label for label, count in Counter(record.label for record in records).items() if count > 1]
    if twice:
        raise CourseError(
            f"Two records have the label {twice[0]!r}, so they cannot be told apart; give one another label."
        )
    for kind, found in (("profiles", {r.profile for r in records}), ("splits", {r.split for r in records})):
        if len(found) > 1:
            raise CourseError(
                f"The records come from several {kind} ({', '.join(sorted(found))}), whose suites differ; "
                "make one board for each."
            )


def suite_scores(records: Mapping[str, EvaluationRecord]) -> tuple[dict[str, SuiteScores], list[str]]:
    """Collect the headline scores of every suite.

    Scores can be compared where the items, the measure and the settings behind `suite_hashes` are the same.
    Where models differ, those stay that agree with most others (the first of them on a tie).

    Args:
        records: by label.

    Returns:
        The suites by name, and a sentence for each model or item that had to be left out.
    """
    found: dict[str, SuiteScores] = {}
    notes: list[str] = []
    for name in dict.fromkeys(name for record in records.values() for name in record.suites):
        keys = {label: _suite_key(r, name) for label, r in records.items() if name in r.suites}
        same, note = _agreeing(
            keys,
            f"not compared on {name}, because the items, the measure or the length limit differ from those "
            "of most models.",
        )
        notes += note
        suite = records[same[0]].suites[name]
        rows = [records[label].suites[name].scores[suite.measure] for label in same]
        positions = tuple(index for index, values in enumerate(zip(*rows, strict=True)) if None not in values)
        partly = sum(len({value is None for value in values}) > 1 for values in zip(*rows, strict=True))
        if partly:
            notes.append(f"{name}: items that only some models have a score for are left out ({partly}).")
        if not positions:
            notes.append(f"{name} is not shown: no item has a score from every model.")
            continue
        scores = {
            label: np.array([row[index] for index in positions], dtype=float)
            for label, row in zip(same, rows, strict=True)
        }
        relations = next((r for label in same if (r := records[label].suites[name].relations)), None)
        every = None if relations is None else clusters_of(relations, source=name)
        clusters = None if every is None else tuple(every[index] for index in positions)
        if clusters and len(set(clusters)) == 1:
            clusters = None  # of other relations nothing is known
        found[name] = SuiteScores(name, suite.skill, suite.kind, suite.measure, scores, clusters)
    return found, notes


def document_losses(records: Mapping[str, EvaluationRecord]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return for each model the mean loss per token of each base document, in nats.

    Args:
        records: by label.

    Returns:
        The losses of the models that read the same tokens of the same texts, and a sentence about the others.
    """
    keys = {label: _documents_key(r) for label, r in records.items() if r.retention}
    same, notes = _agreeing(keys, "no loss on the base documents, which are not those of most models.")
    read = {label: records[label].retention for label in same}
    return {label: np.divide(found["losses"], found["tokens"]) for label, found in read.items()}, notes


def differing_settings(records: Mapping[str, EvaluationRecord]) -> list[str]:
    """Return a sentence for each setting in which records differ although it can change replies.

    Args:
        records: by label.
    """
    notes = []
    for name in ("batch_size", "temperature", "chat_template", "device"):
        found = {
            label: record.device if name == "device" else record.settings.get(name)
            for label, record in records.items()
        }
        usual = Counter(found.values()).most_common(1)[0][0]
        if other := {label: value for label, value in found.items() if value != usual}:
            values = ", ".join(map(str, dict.fromkeys(other.values())))
            notes.append(
                f"{', '.join(other)}: {name.replace('_', ' ')} {values} instead of {usual}, which can change "
                "replies by itself."
            )
    return notes


def stratified(suites: Sequence[SuiteScores], label: str) -> np.ndarray:
    """Return one number per item whose mean is the mean of the suites' means.

    See `Board.leaderboard` for the formula: the paired differences of two models' numbers have the variance
    of a stratified mean, in which the differences between suites are no chance.

    Args:
        suites: at least one, each with 2 items or more.
        label: a model that all of them have.
    """
    if len(suites) == 1:
        return suites[0].scores[label]
    total = sum(suite.n for suite in suites)
    average = float(np.mean([suite.scores[label].mean() for suite in suites]))
    return np.concatenate(
        [
            average
            + total
            / (len(suites) * suite.n)
            / math.sqrt(1 - _repeated_share(suite))
            * (suite.scores[label] - suite.scores[label].mean())
            for suite in suites
        ]
    )


def _repeated_share(suite: SuiteScores) -> float:
    """Return how probable it is that two draws of an item are of the same cluster."""
    counts = Counter(suite.clusters or range(suite.n)).values()
    return sum((count / suite.n) ** 2 for count in counts)


def common_clusters(suites: Sequence[SuiteScores]) -> list[tuple[str, ...]] | None:
    """Return the cluster of every item of several suites; questions about one relation share it.

    Args:
        suites: those of `stratified`, in the same order.

    Returns:
        One cluster per item; None where no suite has any.
    """
    if not any(suite.clusters for suite in suites):
        return None
    return [
        cluster
        for suite in suites
        for cluster in suite.clusters or clusters_of([None] * suite.n, source=suite.name)
    ]


def frontier_points(
    records: Mapping[str, EvaluationRecord],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return mean KL and mean score, with intervals, of the models measured against the usual reference.

    Args:
        records: by label.

    Returns:
        The numbers by label, and a sentence about models that were measured otherwise.
    """
    found = {label: r.divergence for label, r in records.items() if r.divergence}
    same, notes = _agreeing(
        {label: _divergence_key(value) for label, value in found.items()},
        "not on the frontier, because the reference, the prompts or the sampling differ from those of most "
        "models.",
    )
    rows: dict[str, dict[str, float]] = {label: {} for label in same}
    for label, row in rows.items():
        for name in ("kl", "gold"):
            values = np.asarray(found[label][name], dtype=float)
            low, high = score_interval(values, yes_no=False)
            row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return rows, notes


def writing_style(record: EvaluationRecord, names: Sequence[str], documents: bool) -> dict[str, float]:
    """Return how one model writes in the suites named, and its perplexity.

    Args:
        record: of the model.
        names: suites of the record.
        documents: whether its losses on the base documents count; else the perplexity is NaN.
    """
    parts = [record.suites[name] for name in names]
    replies = [reply for part in parts for reply in part.replies]
    found = record.retention
    return {
        "distinct-2": metrics.distinct_n(replies),
        "repetition": float(np.mean([metrics.repetition_rate(reply) for reply in replies])),
        "mean tokens": float(np.mean([count for part in parts for count in part.tokens])),
        "stop rate": float(np.mean([stopped for part in parts for stopped in part.stopped])),
        "perplexity": math.exp(sum(found["losses"]) / sum(found["tokens"])) if documents else math.nan,
    }


def _suite_key(record: EvaluationRecord, name: str) -> tuple[Any, ...]:
    suite = record.suites[name]
    asked = record.settings.get("suite_hashes", {}).get(name)
    return (suite.ids, suite.prompts, suite.kind, suite.measure, asked)


def _documents_key(record: EvaluationRecord) -> tuple[Any, ...]:
    # Losses per token of another tokenizer are losses of another thing.
    return (record.settings.get("retention"), tuple(record.retention["tokens"]))


def _agreeing(keys: Mapping[str, Any], what: str) -> tuple[list[str], list[str]]:
    """Return the labels of the most frequent key (the first on a tie), and a note on the others."""
    usual = Counter(keys.values()).most_common(1)
    same = [label for label, key in keys.items() if key == usual[0][0]]
    other = [label for label in keys if label not in same]
    return same, [f"{', '.join(other)}: {what}"] if other else []


def _divergence_key(divergence: dict[str, Any]) -> tuple[Any, ...]:
    names = ("reference_identity", "suite", "temperature", "measure")
    return (*(divergence.get(name) for name in names), tuple(divergence.get("ids") or ()))
