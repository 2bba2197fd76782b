"""Evaluate models: load each once, let it answer every suite, and leave one record of it on disk.

    records = evaluate(["base", "sft", "dpo"])

Replies are greedy and made in the same batches for every model. What a record on disk already holds of the
same weights, prompts and settings is not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.comparison.compare import release_memory
from posttrain_helpers.comparison.scores import Item, Value, apply_measures, check_choice
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.environment.runtime import current_runtime, display_path
from posttrain_helpers.environment.splits import reported_split
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.records import (
    EvaluationRecord,
    SuiteRecord,
    record_on_disk,
    with_older,
    write_record,
)
from posttrain_helpers.evaluation.suites.loading import load_suites, retention_texts
from posttrain_helpers.evaluation.suites.suite import Suite, check_limit, check_suites
from posttrain_helpers.evaluation.targets import Target, targets_of
from posttrain_helpers.memory import readings as memory_readings
from posttrain_helpers.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain_helpers.generation.decoding import Generation

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

DIVERGENCE_PROMPTS = 100
DIVERGENCE_SUITE = "preference"
SAMPLING_TEMPERATURE = 1.0
# Beside the weights these decide what a model writes: chat template, tokens, and where it stops.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "adapter_config.json",
)


def evaluate(
    models: str | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    suites: str | Sequence[str] | Sequence[Suite] | None = None,
    profile: str | Profile | None = None,
    limit: int | None = None,
    reference: str | None = "sft",
    batch_size: int = 100,
    chat_template: str | None = None,
    reuse: bool = True,
) -> list[EvaluationRecord]:
    """Evaluate models one after the other and write the record of each as soon as it is complete.

    One line for each model tells the seconds, and the suites and prompts that it was asked now.

    Every model answers every suite greedily. How well it still predicts texts of its base's kind, and how far
    it has moved from a reference (on the first 100 prompts of a suite of preferences, sampled), is measured
    as well.

    Args:
        models: "base", stages (built if they are missing), directories or Hub ids; a dictionary gives them
            labels of your own.
        suites: names or files as for `load_suites`, or suites; None takes those of the tiny world.
        profile: None takes the profile in use.
        limit: only the first items of each suite.
        reference: the model that divergence is measured from: a label, or whatever `models` may name. None,
            or a stage that has not been built, leaves the divergence out.
        batch_size: prompts in a batch; fewer at the end are filled up, so that all batches have one shape.
        chat_template: "chatml" lends plain ChatML to models that have no chat template of their own.
        reuse: take over what the record on disk holds of the same weights, prompts and settings; False
            begins a new file. A change in the code of a scoring function is not noticed: then pass False.

    Returns:
        One record per model, in the order of `models`, with what was asked for. The file also keeps what was
        measured before on the same weights: other suites, and more items of the same suite.

    Raises:
        CourseError: no models, two of one label, a directory that holds no model, a reward model, a model
            without a chat template, or what `load_suites` and `generate` refuse.
    """
    profile = get_profile(profile)
    targets = targets_of(models, profile)
    check_limit(limit)
    if chat_template is not None:
        check_choice("chat_template", chat_template, ("chatml",))
    evaluation = _Evaluation(profile, _suites(suites, profile), limit, batch_size, chat_template)
    evaluation.find_reference(reference, targets)
    return [evaluation.run(target, take_over=reuse) for target in targets]


def _suites(suites: Any, profile: Profile) -> list[Suite]:
    given = [suites] if isinstance(suites, Suite) else suites
    if given is None or isinstance(given, str) or not any(isinstance(suite, Suite) for suite in given):
        return load_suites(given, profile)
    if wrong := [suite for suite in given if not isinstance(suite, Suite)]:
        raise CourseError(f"suites must be all names or all suites, but {wrong[0]!r} is none; load it first.")
    check_suites(given)
    return list(given)


class _Evaluation:
    """What all models of one call share: prompts, settings, and the reference once it is loaded."""

    def __init__(
        self,
        profile: Profile,
        suites: list[Suite],
        limit: int | None,
        batch_size: int,
        chat_template: str | None,
    ) -> None:
        self.profile, self.batch_size, self.chat_template = profile, batch_size, chat_template
        self.whole = {suite.name: suite for suite in suites}
        self.suites = [replace(suite, items=suite.items[:limit]) for suite in suites]
        self.texts = retention_texts(profile)
        self.reference: Target | None = None
        self._loaded_reference: Loaded | None = None

    def find_reference(self, name: str | None, targets: list[Target]) -> None:
        """Find the model that divergence is measured from; a stage is not trained for that alone."""
        from posttrain_helpers.models.manifest import saved_stages
        from posttrain_helpers.recipes import stage_recipes

        if name is None or self._preference_suite() is None:
            return
        if named := [target for target in targets if name in (target.label, target.source)]:
            self.reference = named[0]
        elif name in stage_recipes() and name not in saved_stages(self.profile):
            print(f"no divergence: the reference {name!r} has not been built; add it to the models.")
        else:
            (self.reference,) = targets_of(name, self.profile)

    def run(self, target: Target, take_over: bool) -> EvaluationRecord:
        """Return the record of one model, measured or taken from disk."""
        settings = self._settings(target)
        old = self._on_disk(target, settings) if take_over else None
        missing = [suite for suite in self.suites if old is None or not old.has(suite)]
        needs_retention = old is None or old.settings["retention"] != settings["retention"]
        divergence_key = settings["divergence"]
        needs_divergence = divergence_key is not None and (
            old is None or old.settings["divergence"] != divergence_key
        )
        if old is not None and not (missing or needs_retention or needs_divergence):
            print(f"{target.label}: the record on disk is of the same model, prompts and settings")
            return self._asked(old)

        started = time.perf_counter()
        scope, _ = memory_readings.TRACKER.open()
        try:
            model, tokenizer = self._load(target)
            device = str(model.device)
            suites = {suite.name: self._suite(model, tokenizer, suite) for suite in missing}
            retention = self._retention(model, tokenizer) if needs_retention else old.retention
            divergence = old.divergence if old and divergence_key else None
            if needs_divergence:
                divergence = self._divergence(model, tokenizer, target)
            del model, tokenizer
        finally:
            memory_readings.TRACKER.close(scope)
            release_memory()
        seconds = time.perf_counter() - started
        measured = {**(old.suites if old else {}), **suites}
        record = EvaluationRecord(
            label=target.label,
            source=display_path(target.source),
            identity=target.identity,
            parent=target.parent,
            profile=self.profile.name,
            settings=settings,
            suites={suite.name: measured[suite.name] for suite in self.suites},
            retention=retention,
            divergence=divergence,
            seconds=round(seconds + (old.seconds if old else 0.0), 2),
            peak_cpu_mb=round(scope.total.rss / 2**20, 1),
            device=device,
            versions=old.versions if old else dict(current_runtime(self.profile).versions),
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        # Read again: another process may have written its suites meanwhile.
        old = self._on_disk(target, settings) if take_over else None
        write_record(with_older(record, old, self.whole))
        prompts = sum(len(suite.items) for suite in missing)
        asked = f"{counted(len(missing), 'suite')}, {counted(prompts, 'prompt')}"
        print(f"{target.label}: {seconds:.1f} s, {asked}", flush=True)
        return record

    # What a record consists of

    def _load(self, target: Target) -> Loaded:
        from posttrain_helpers.stages.loading import load_model_and_tokenizer

        asks_messages = any(suite.asks_messages for suite in self.suites)
        return load_model_and_tokenizer(
            target.source,
            head="language",
            profile=self.profile,
            default_chat_template=self.chat_template is not None or not asks_messages,
            verbose=False,
        )

    def _suite(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, suite: Suite) -> SuiteRecord:
        several_turns = any(item.get("follow_ups") for item in suite.items)
        transcripts, replies = _answers(model, tokenizer, suite, self.batch_size)
        scores = _scored(suite, replies, suite.items)
        return SuiteRecord(
            name=suite.name,
            skill=suite.skill,
            kind=suite.kind,
            measure=suite.measure,
            ids=tuple(item["id"] for item in suite.items),
            prompts=tuple(_last_turn(item) for item in suite.items),
            replies=tuple(reply.text for reply in replies),
            stopped=tuple(scores["stop"]),
            tokens=tuple(len(reply.token_ids) for reply in replies),
            scores={measure: tuple(scores[measure]) for measure in suite.scores},
            transcripts=tuple(map(tuple, transcripts)) if several_turns else None,
            relations=_relations(suite),
        )

    def _retention(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, list[float]] | None:
        from posttrain_helpers.generation.likelihood import text_losses

        if not self.texts:
            print("no retention: the course's notebooks are not there to be read.")
            return None
        try:
            pairs = text_losses(model, tokenizer, self.texts, batch_size=self.batch_size)
        except CourseError as error:
            print(f"no retention: {error}")
            return None
        return {"losses": [loss for loss, _ in pairs], "tokens": [count for _, count in pairs]}

    def _divergence(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Target
    ) -> dict[str, Any] | None:
        from posttrain_helpers.generation.decoding import generate
        from posttrain_helpers.generation.likelihood import kl_to_reference

        suite = self._preference_suite()
        items = suite.items[:DIVERGENCE_PROMPTS]
        prompts = [item["prompt"] for item in items]
        options = {
            "max_new_tokens": suite.max_new_tokens,
            "temperature": SAMPLING_TEMPERATURE,
            "batch_size": self.batch_size,
        }
        if target.identity == self.reference.identity:
            replies, divergences = generate(model, tokenizer, prompts, **options), [0.0] * len(items)
        else:
            reference, reference_tokenizer = self._reference()
            if tokenizer.get_vocab() != reference_tokenizer.get_vocab():
                print(
                    f"no divergence: {target.label!r} and the reference {self.reference.label!r} have "
                    "different vocabularies."
                )
                return None
            values, replies = kl_to_reference(
                model, reference, tokenizer, prompts, return_generations=True, **options
            )
            # Rounding may leave the sum of a hundred small numbers just below 0.
            divergences = [max(0.0, value) for value in values.tolist()]
        scores = _scored(suite, replies, items)[suite.measure]
        return {
            "reference": self.reference.label,
            "reference_identity": self.reference.identity,
            "suite": suite.name,
            "temperature": SAMPLING_TEMPERATURE,
            "measure": suite.measure,
            "ids": [item["id"] for item in items],
            "kl": divergences,
            "gold": list(map(float, scores)),
        }

    def _reference(self) -> Loaded:
        """Load the reference when it is first needed; it stays in memory for the models that follow."""
        from posttrain_helpers.stages.loading import load_model_and_tokenizer

        if self._loaded_reference is None:
            self._loaded_reference = load_model_and_tokenizer(
                self.reference.source, head="language", profile=self.profile, verbose=False
            )
        return self._loaded_reference

    # Bookkeeping

    def _preference_suite(self) -> Suite | None:
        suites = [suite for suite in self.suites if suite.kind == "preference"]
        return next((suite for suite in suites if suite.name == DIVERGENCE_SUITE), next(iter(suites), None))

    def _on_disk(self, target: Target, settings: dict[str, Any]) -> EvaluationRecord | None:
        device = current_runtime(self.profile).device
        return record_on_disk(target.label, target.identity, settings, self.profile.name, device)

    def _settings(self, target: Target) -> dict[str, Any]:
        suite = self._preference_suite()
        paths = [target.directory / name for name in _FILES]
        measured_from = None if self.reference is None else [self.reference.identity, suite.hash]
        return {
            "split": reported_split(),
            "batch_size": self.batch_size,
            "temperature": 0.0,
            "chat_template": self.chat_template or "own",
            "files": _digest([p.read_text(encoding="utf-8") if p.is_file() else None for p in paths]),
            "suite_hashes": {suite.name: suite.hash for suite in self.suites},
            "retention": _digest(self.texts),
            "divergence": measured_from and _digest([*measured_from, DIVERGENCE_PROMPTS]),
        }

    def _asked(self, record: EvaluationRecord) -> EvaluationRecord:
        """Return a record without what it holds beyond this call."""
        return replace(
            record,
            suites={suite.name: record.suites[suite.name] for suite in self.suites},
            divergence=record.divergence if self.reference is not None else None,
        )


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, suite: Suite, batch_size: int
) -> tuple[list[list[dict[str, str]]], list[Generation]]:
    """Return the conversation about each item and its last reply; every model is asked the same."""
    from posttrain_helpers.generation.decoding import generate

    turns = [[item["prompt"], *(item.get("follow_ups") or ())] for item in suite.items]
    transcripts: list[list[dict[str, str]]] = [[] for _ in turns]
    last: dict[int, Generation] = {}
    for turn in range(max(map(len, turns))):
        asked = [index for index, own in enumerate(turns) if turn < len(own)]
        for index in asked:
            said = turns[index][turn]
            transcripts[index] += [{"role": "user", "content": said}] if isinstance(said, str) else said
        prompts = [turns[index][0] if turn == 0 else transcripts[index] for index in asked]
        generations = generate(
            model, tokenizer, prompts, max_new_tokens=suite.max_new_tokens, batch_size=batch_size
        )
        for index, generation in zip(asked, generations, strict=True):
            transcripts[index].append({"role": "assistant", "content": generation.text})
            last[index] = generation
    return transcripts, [last[index] for index in range(len(turns))]


def _scored(suite: Suite, replies: list[Generation], items: Sequence[Item]) -> dict[str, list[Value]]:
    items = [{**item, "stopped": r.stop_reason == "stop"} for item, r in zip(items, replies, strict=True)]
    return apply_measures(dict(suite.scores), {suite.name: replies}, items)[suite.name]


def _last_turn(item: dict[str, Any]) -> str:
    if item.get("follow_ups"):
        return item["follow_ups"][-1]
    return item["prompt"] if isinstance(item["prompt"], str) else item["prompt"][-1]["content"]


def _relations(suite: Suite) -> tuple[str | None, ...] | None:
    found = [item.get("relation") for item in suite.items]
    if all(relation is None for relation in found):
        return None
    return tuple(None if relation is None else str(relation) for relation in found)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
