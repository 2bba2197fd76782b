"""Before/after comparison: models answer the same held-out prompts, side by side and with a verdict.

Every model gets the same prompts in the same batches with the same decoding, and scores are paired per
prompt. The first model is the one that the others are compared with.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.comparison import view
from posttrain_helpers.comparison.scores import (
    MATCHES,
    Item,
    Score,
    Value,
    apply_measures,
    check_choice,
    measures_of,
    rate,
)
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import Generation, Prompt, generate
from posttrain_helpers.statistics import paired_tests
from posttrain_helpers.statistics.claims import Claim
from posttrain_helpers.statistics.intervals import clusters_of
from posttrain_helpers.statistics.paired_tests import PairedResult

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    ModelSource = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase]

# Which items the tables can show, in words.
SELECTIONS = {
    "all": "prompts",
    "changed": "prompts with a different reply",
    "up": "prompts whose score rose",
    "down": "prompts whose score fell",
}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The replies of several models to the same prompts, their scores and what the scores show.

    Attributes:
        title: heading of the table.
        labels: names of the models; the first one is compared with each of the others.
        items: the held-out items, see `compare_generations`.
        generations: for each label one `Generation` per item.
        scores: for each label and measure ("strict", "lenient", "stop", the name of an own score) one value
            per item; None where the item has nothing to score.
        measure: the measure that the verdicts are about.
        fingerprints: for each label the fingerprint of the weights.
        settings: decoding settings, the same for every model.
        rows: the most items that the tables show.
        selection: which items the tables show, one of `SELECTIONS`.
    """

    title: str
    labels: tuple[str, ...]
    items: list[Item]
    generations: dict[str, list[Generation]]
    scores: dict[str, dict[str, list[Value]]]
    measure: str
    fingerprints: dict[str, str]
    settings: dict[str, Any]
    rows: int = 8
    selection: str = "all"

    def __post_init__(self) -> None:
        check_choice("selection", self.selection, tuple(SELECTIONS))
        if self.rows < 0:
            raise CourseError(f"rows must be 0 or more, but {self.rows} was found.")

    def result(self, label: str | None = None, measure: str | None = None) -> PairedResult | None:
        """Compare one model with the first one.

        Items with a "relation" form clusters, as a model tends to know a relation or not; any other item
        counts on its own.

        Args:
            label: the model; None is the last one.
            measure: "strict", "lenient", "stop" or the name of an own score; None is the comparison's own.

        Returns:
            The paired result over the items that can be scored; None when there is none, or only one whose
            score is not yes/no.

        Raises:
            CourseError: an unknown label or measure.
        """
        label, measure = self._known(label, measure)
        before, after = (
            [value for value in self.scores[name][measure] if value is not None]
            for name in (self.labels[0], label)
        )
        if not before or (len(before) == 1 and not {*before, *after} <= {0, 1}):
            return None
        scored = zip(self.items, self.scores[label][measure], strict=True)
        clusters = clusters_of(item.get("relation") for item, value in scored if value is not None)
        return paired_tests.paired(before, after, clusters=clusters)

    def same_weights(self, label: str) -> bool:
        """Return whether a model has exactly the weights of the first one."""
        return self.fingerprints[label] == self.fingerprints[self.labels[0]]

    @property
    def verdicts(self) -> dict[str, str | None]:
        """For each model but the first: the verdict on `measure`, or None when nothing was scored."""
        return {label: self._verdict(label) for label in self.labels[1:]}

    def _verdict(self, label: str) -> str | None:
        if self.same_weights(label):
            return "no_difference_shown"
        result = self.result(label)
        return paired_tests.verdict(result) if result else None

    def warnings_first(self) -> list[str]:
        """Return the models but the first, those with its weights before the others."""
        return sorted(self.labels[1:], key=lambda label: not self.same_weights(label))

    def reason(self, label: str | None = None) -> str:
        """Return the sentence behind a verdict (label None: of the last model)."""
        label, _ = self._known(label, None)
        first = self.labels[0]
        if self.same_weights(label):
            return (
                f"The weights are equal: '{label}' is the same model as '{first}', so nothing here is an "
                "effect of training. Check which model or stage was passed."
            )
        result = self.result(label)
        if result:
            return paired_tests.describe(result, f"'{label}' against '{first}', {self.measure}")
        counts = {measure: rate(self.scores[first][measure])["n"] for measure in (self.measure, *MATCHES)}
        if counts[self.measure]:
            return f"One item was scored by {self.measure!r}; compare on more to say anything."
        other = next((f" They could be by score={name!r}." for name in MATCHES if counts[name]), "")
        return f"Nothing was scored: the items have nothing that {self.measure!r} could score.{other}"

    def claim(
        self,
        name: str,
        expected: str = "improved",
        *,
        label: str | None = None,
        measure: str | None = None,
        margin: float | None = None,
        at_least: float | None = None,
    ) -> Claim:
        """Make the claim that a lesson stores.

        Args:
            name: what the lesson claims, for readers.
            expected: the verdict that the lesson promises.
            label: the model that is compared with the first one; None is the last one.
            measure: as in `result`.
            margin: non-inferiority margin, with `expected="non_inferior"` only.
            at_least: the lowest mean score of the model that the lesson accepts.

        Returns:
            The claim. Models of equal weights get "no_difference_shown", whatever the scores.

        Raises:
            CourseError: nothing was scored, or an unknown label, measure or verdict.
        """
        label, measure = self._known(label, measure)
        result = self.result(label, measure)
        if result is None:
            raise CourseError(
                f"The claim {name!r} has no evidence: no item can be scored by {measure!r}; pass items with "
                "accepted replies or an answer."
            )
        claim = Claim.from_result(name, measure, result, expected, margin, at_least)
        return replace(claim, verdict="no_difference_shown") if self.same_weights(label) else claim

    def where(self, keep: Callable[[Item], bool]) -> Comparison:
        """Return the comparison on the items for which `keep(item)` is true, e.g. those of one task."""
        kept = [index for index, item in enumerate(self.items) if keep(item)]
        if not kept:
            raise CourseError(f"None of the {len(self.items)} items is kept; check the condition.")
        return replace(
            self,
            items=[self.items[i] for i in kept],
            generations={label: [g[i] for i in kept] for label, g in self.generations.items()},
            scores={
                label: {measure: [values[i] for i in kept] for measure, values in measures.items()}
                for label, measures in self.scores.items()
            },
        )

    def show(self, selection: str) -> Comparison:
        """Return the comparison with other items in its tables; all numbers stay those of all items.

        Args:
            selection: "all", "changed" (a reply differs from the first model's), "up" or "down" (its score
                rose or fell).

        Raises:
            CourseError: an unknown selection.
        """
        return replace(self, selection=selection)

    def summary(self, parts: Callable[[str, Item], Mapping[str, float]] | None = None) -> pd.DataFrame:
        """Return one row per model: items, mean of every measure, mean length in tokens, and other means.

        Args:
            parts: a function of reply and item that returns more numbers by name, such as the parts of a
                score; their means become columns.

        Returns:
            The table, indexed by the model's name; NaN where the items have nothing to score.
        """
        import pandas as pd

        rows = {}
        for label in self.labels:
            replies = self.generations[label]
            row: dict[str, Any] = {"n": len(replies)}
            row |= {measure: rate(values)["mean"] for measure, values in self.scores[label].items()}
            row["tokens"] = sum(len(reply.token_ids) for reply in replies) / len(replies)
            if parts is not None:
                found = pd.DataFrame(
                    [dict(parts(reply.text, item)) for reply, item in zip(replies, self.items, strict=True)]
                )
                row |= found.mean().to_dict()
            rows[label] = row
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
        return table.astype({column: float for column in table.columns if column != "n"})

    def _known(self, label: str | None, measure: str | None) -> tuple[str, str]:
        label = self.labels[-1] if label is None else label
        measure = self.measure if measure is None else measure
        check_choice("label", label, self.labels)
        check_choice("measure", measure, tuple(self.scores[label]))
        return label, measure

    def shown(self) -> list[int]:
        """Return the indices of the items in the tables: evenly spaced, not the most flattering ones."""
        chosen = self._selected()
        count = min(self.rows, len(chosen))
        return [chosen[i * len(chosen) // count] for i in range(count)]

    def _selected(self) -> list[int]:
        first, *others = self.labels
        indices = range(len(self.items))
        if self.selection == "all":
            return list(indices)
        if self.selection == "changed":
            texts = {label: [reply.text for reply in self.generations[label]] for label in self.labels}
            return [i for i in indices if any(texts[label][i] != texts[first][i] for label in others)]
        sign = 1 if self.selection == "up" else -1
        values = {label: self.scores[label][self.measure] for label in self.labels}
        return [
            i
            for i in indices
            if values[first][i] is not None
            and any(sign * (values[label][i] - values[first][i]) > 0 for label in others)
        ]

    def _repr_html_(self) -> str:
        return view.to_html(self)

    def __repr__(self) -> str:
        return view.to_text(self)

    def rates(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return for each model and measure that scored anything what `scores.rate` finds."""
        clusters = clusters_of(item.get("relation") for item in self.items)
        found = {
            label: {measure: rate(values, clusters) for measure, values in self.scores[label].items()}
            for label in self.labels
        }
        return {label: {name: r for name, r in row.items() if r["n"]} for label, row in found.items()}

    def note(self) -> str:
        """Return how many prompts the tables show, and how the models decoded."""
        settings, count, chosen = self.settings, len(self.shown()), len(self._selected())
        decoding = (
            f"sampled at temperature {settings['temperature']:g} with seed {settings['seed']}"
            if settings["temperature"] > 0
            else "greedy"
        )
        return (
            f"{len(self.items)} prompts were compared. Shown: {count} of {chosen} "
            f"{SELECTIONS[self.selection]}{', evenly spaced' if count < chosen else ''}. Decoding: "
            f"{decoding}, at most {settings['max_new_tokens']} new tokens, the same batches for every model."
        )


def compare_generations(
    before: ModelSource | Mapping[str, ModelSource],
    after: ModelSource | Sequence[Item | Prompt] | None = None,
    prompts: Sequence[Item | Prompt] | None = None,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    batch_size: int = 32,
    seed: int = 0,
    score: str | Score = "strict",
    rows: int = 8,
    title: str = "The same prompts, side by side",
) -> Comparison:
    """Let models answer the same prompts and compare the replies.

    Call it as `compare_generations("base", "sft", held_out)`, or with two or more models under names of your
    own as `compare_generations({"base": "base", "after SFT": "sft"}, held_out)`.

    Args:
        before: the first model, or a dictionary from labels to models. A model is a stage name, a directory
            or a Hub id (loaded, and freed after generating), or a pair (model, tokenizer).
        after: the second model; with a dictionary, the prompts.
        prompts: N held-out items (dictionaries with "prompt" and, to be scored, "answer" or "accepted"),
            strings or message lists.
        max_new_tokens: the most tokens of a reply.
        temperature: 0 is greedy; above 0 replies are sampled.
        batch_size: prompts in a batch, the same for every model.
        seed: seed of the sampling, the same for every model.
        score: what the verdict is about: "strict" (the reply is an accepted one), "lenient" (it holds the
            answer), or a function of reply and item that returns a number, a bool, or None (not scored).
        rows: the most items that the tables show.
        title: heading of the table.

    Returns:
        The comparison; display it in a notebook, or print it.

    Raises:
        CourseError: fewer than two models, no prompts, an item without a prompt, an unknown score, or a score
            that returns anything but a finite number.
    """
    models, prompts = _arguments(before, after, prompts)
    items = [_as_item(prompt, index) for index, prompt in enumerate(prompts)]
    if not items:
        raise CourseError("There is nothing to compare: the list of prompts is empty; pass held-out items.")
    measure, measures = measures_of(score)
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    settings |= {"batch_size": batch_size, "seed": seed}
    generations: dict[str, list[Generation]] = {}
    fingerprints: dict[str, str] = {}
    for label, source in models.items():
        generations[label], fingerprints[label] = _run(source, [item["prompt"] for item in items], settings)
    scores = apply_measures(measures, generations, items)
    return Comparison(title, tuple(models), items, generations, scores, measure, fingerprints, settings, rows)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Return a SHA-256 that two models share when their parameters have equal names, types and bytes.

    Args:
        model: any module. A tied weight counts under each of its names, so that a model with tied and one
            with equal but separate embeddings count as equal.
    """
    import torch

    total = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), key=lambda pair: pair[0]):
        total.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        total.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _arguments(
    before: Any, after: Any, prompts: Any
) -> tuple[dict[str, ModelSource], Sequence[Item | Prompt]]:
    several = isinstance(before, Mapping)
    if ((after is None) + (prompts is None)) != several:
        raise CourseError(
            "Two models and prompts are needed: write compare_generations(before, after, prompts), "
            "or compare_generations({label: model, ...}, prompts)."
        )
    if several:
        models, prompts = dict(before), after if prompts is None else prompts
    else:
        named = isinstance(before, str) and isinstance(after, str) and before != after
        models = dict(zip((before, after) if named else ("before", "after"), (before, after), strict=True))
    if len(models) < 2:
        raise CourseError(f"A comparison needs at least two models; found {len(models)}: {list(models)}.")
    for label, source in models.items():
        pair = isinstance(source, tuple) and len(source) == 2 and all(part is not None for part in source)
        if not (pair or isinstance(source, (str, Path))):
            raise CourseError(
                f"The model {label!r} must be a stage name, a directory, a Hub id or (model, tokenizer), "
                f"but a {type(source).__name__} was found."
            )
    if isinstance(prompts, (str, Mapping)):
        raise CourseError("prompts must be a list of items or prompts; put the single one in a list.")
    return models, prompts


def _as_item(prompt: Any, index: int) -> Item:
    if not isinstance(prompt, Mapping):
        return {"id": str(index), "prompt": prompt}
    if "prompt" not in prompt:
        raise CourseError(
            f'Item {index} has no "prompt" among its keys {sorted(map(str, prompt))}; a held-out item looks '
            'like {"prompt": [{"role": "user", "content": "..."}], "answer": "..."}.'
        )
    return {"id": str(index), **prompt}


def _run(
    source: ModelSource, prompts: list[Prompt], settings: dict[str, Any]
) -> tuple[list[Generation], str]:
    if isinstance(source, tuple):
        model, tokenizer = source
        return generate(model, tokenizer, prompts, **settings), weights_fingerprint(model)

    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    try:
        return _run(load_model_and_tokenizer(str(source), merge=True, verbose=False), prompts, settings)
    finally:
        release_memory()


def release_memory() -> None:
    """Free what a model that nobody holds any more has left: the next one may not fit beside it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
