"""What an evaluation leaves on disk: one JSON file for each model, from which every table is made.

`<output>/<profile>/evaluation/<label>.json` holds each prompt, each reply and each score of one model (on the
split "dev": `<output>/<profile>/dev/evaluation/<label>.json`). Boards and reports read these files and no
model, so a table can be made again without generating anything.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from posttrain_helpers.annotations import described, fits, is_number
from posttrain_helpers.errors import CourseError
from posttrain_helpers.manifest import BASE
from posttrain_helpers.profiles import get_profile
from posttrain_helpers.results import results_directory
from posttrain_helpers.storage import read_json, write_json_atomic
from posttrain_helpers.tinyworld.splits import DEFAULT_SPLIT
from posttrain_helpers.wording import closest

KINDS = ("correctness", "preference")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REMEDY = "delete it and evaluate the model again"

Value = float | bool | None


@dataclass(frozen=True)
class SuiteRecord:
    """The replies of one model to one suite, and their scores; all tuples are in the order of `ids`.

    Attributes:
        name: of the suite.
        skill: what the suite asks for, for readers.
        kind: "correctness" or "preference".
        measure: the key of `scores` that stands for the suite in a table.
        ids: of the items, different from each other.
        prompts: the last user turn of each item.
        replies: the reply to it, without special tokens.
        stopped: whether the model ended the reply by itself.
        tokens: number of tokens of each reply, the stop token included.
        scores: for each measure one value per item: yes/no, a number, or None where nothing can be scored.
        transcripts: for suites with several turns the whole conversations, the last reply included, as
            messages with role and content; None for suites of single turns.
        relations: what fact each item asks for, such as "capital": answers about one relation are right or
            wrong together. None for an item that asks for no fact, or for the whole suite.
    """

    name: str
    skill: str
    kind: str
    measure: str
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    replies: tuple[str, ...]
    stopped: tuple[bool, ...]
    tokens: tuple[int, ...]
    scores: dict[str, tuple[Value, ...]]
    transcripts: tuple[tuple[dict[str, str], ...], ...] | None = None
    relations: tuple[str | None, ...] | None = None

    @property
    def headline(self) -> tuple[Value, ...]:
        """The scores of the suite's own measure."""
        return self.scores[self.measure]


@dataclass(frozen=True)
class EvaluationRecord:
    """What one model was measured to be.

    Attributes:
        label: the model's name in tables and on disk.
        source: what was evaluated: "base", a stage, a directory or a Hub id.
        identity: changes when the model's weights change.
        parent: what the model was trained from, None where nothing tells.
        profile: the profile that it was evaluated on.
        settings: how replies were made and what was asked; two records with equal settings can be compared.
        suites: the replies and scores by the name of the suite.
        retention: how well the model still predicts texts of its base's kind: {"losses": nats per text,
            "tokens": predicted tokens per text}; None where it was not measured.
        divergence: how far the model is from its reference: {"reference", "reference_identity", "suite",
            "temperature", "measure", "ids", "kl": nats per prompt, "gold": score of the sampled reply per
            prompt}; all `kl` are 0 for the reference itself; None where it was not measured.
        seconds: wall-clock time of the evaluation, loading included.
        peak_cpu_mb: highest resident memory of the process, None where it is unknown.
        device: where the model ran, "cpu" or "cuda:0".
        versions: library name to version.
        written: when, ISO 8601 in UTC.
    """

    label: str
    source: str
    identity: str
    parent: str | None
    profile: str
    settings: dict[str, Any]
    suites: dict[str, SuiteRecord]
    retention: dict[str, list[float]] | None
    divergence: dict[str, Any] | None
    seconds: float
    peak_cpu_mb: float | None
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    written: str = ""

    @property
    def split(self) -> str:
        """The held-out split that the model was measured on."""
        return self.settings.get("split", DEFAULT_SPLIT)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries and lists, as its file holds it."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_dict(cls, content: Any, where: str = "the record") -> EvaluationRecord:
        """Return the record that plain dictionaries and lists describe.

        Args:
            content: what `to_dict` returned or a file holds.
            where: what to call the content in an error.

        Raises:
            CourseError: the content breaks the contract above.
        """
        _check_record(content, where)
        suites = {name: _suite(entry) for name, entry in content["suites"].items()}
        return cls(**{item.name: content[item.name] for item in fields(cls)} | {"suites": suites})


def evaluation_directory(profile: str | None = None) -> Path:
    """Return the directory of a profile's records, whether or not it exists."""
    return results_directory(profile) / "evaluation"


def record_path(label: str, profile: str | None = None) -> Path:
    """Return the path of a model's record, whether or not it exists.

    Raises:
        CourseError: the label cannot be a file name.
    """
    if not _LABEL.fullmatch(label):
        raise CourseError(
            f"{label!r} cannot label a model; use letters, digits, '.', '_' and '-', and begin with a letter "
            "or a digit."
        )
    return evaluation_directory(profile) / f"{label}.json"


def write_record(record: EvaluationRecord) -> Path:
    """Check a record and write it, whole or not at all.

    Args:
        record: an older one of the same label and profile is replaced.

    Returns:
        The path of the file.

    Raises:
        CourseError: the record breaks the contract of `EvaluationRecord`.
    """
    path = record_path(record.label, record.profile)
    where = f"the record of {record.label!r}"
    try:
        content = record.to_dict()
    except (TypeError, ValueError) as error:
        raise CourseError(f"{where} cannot be written as JSON ({error}); keep numbers and text.") from error
    _check_record(content, where)
    return write_json_atomic(path, content)


def read_record(path: Path) -> EvaluationRecord:
    """Read and check one record.

    Raises:
        CourseError: the file is no JSON, breaks the contract, or holds the record of another label.
    """
    record = EvaluationRecord.from_dict(read_json(path, _REMEDY), str(path))
    if record.label != path.stem:
        raise CourseError(f"{path} holds the record of {record.label!r}; rename it or {_REMEDY}.")
    return record


def read_records(profile: str | None = None, labels: Sequence[str] | None = None) -> list[EvaluationRecord]:
    """Read and check the records of a profile.

    Args:
        profile: a profile's name; None takes the profile in use.
        labels: which, in this order; None takes all in alphabetical order, "base" first.

    Returns:
        The records; an empty list when `labels` is None and nothing has been evaluated.

    Raises:
        CourseError: no record of that label, a file that is no JSON or breaks the contract, or a record of
            another profile.
    """
    profile = get_profile(profile).name
    found = {path.stem: path for path in sorted(evaluation_directory(profile).glob("*.json"))}
    if labels is None:
        labels = sorted(found, key=lambda label: (label != BASE, label))
    elif isinstance(labels, str):
        raise CourseError(f"labels must be a list, but one text was found; write [{labels!r}].")
    for label in labels:
        if label not in found:
            known = ", ".join(found) or "none"
            raise CourseError(
                f"there is no record of {label!r}; {closest(label, found)}There are records of: {known}. "
                f"Make it by `python -m posttrain_helpers evaluate {label}`."
            )
    records = [read_record(found[label]) for label in labels]
    for record in records:
        if record.profile != profile:
            raise CourseError(
                f"{found[record.label]} holds a record of the profile {record.profile!r}, not of "
                f"{profile!r}; {_REMEDY}."
            )
    return records


def _suite(entry: dict[str, Any]) -> SuiteRecord:
    values = {item.name: entry.get(item.name) for item in fields(SuiteRecord)}
    for key in ("ids", "prompts", "replies", "stopped", "tokens"):
        values[key] = tuple(values[key])
    values["scores"] = {name: tuple(scores) for name, scores in entry["scores"].items()}
    if values["transcripts"] is not None:
        values["transcripts"] = tuple(map(tuple, values["transcripts"]))
    if values["relations"] is not None:
        values["relations"] = tuple(values["relations"])
    return SuiteRecord(**values)


# --- the contract


def _check_record(content: Any, where: str) -> None:
    if not isinstance(content, Mapping):
        raise CourseError(f"{where} is no JSON object but a {type(content).__name__}; {_REMEDY}.")
    _require(content, [item.name for item in fields(EvaluationRecord)], where)
    for key in ("label", "source", "identity", "profile", "device"):
        _check(isinstance(content[key], str) and content[key], where, key, content[key], "must be text")
    for key in ("settings", "suites", "versions"):
        _check(isinstance(content[key], Mapping), where, key, content[key], "must be a JSON object")
    _check(content["parent"] is None or isinstance(content["parent"], str), where, "parent",
           content["parent"], "must be text or null")  # fmt: skip
    _check(_is_number(content["seconds"], low=0), where, "seconds", content["seconds"],
           "must be a number of at least 0")  # fmt: skip
    peak = content["peak_cpu_mb"]
    _check(peak is None or _is_number(peak, low=0), where, "peak_cpu_mb", peak, "must be a number or null")
    _check_types(content, EvaluationRecord, ("suites", "retention", "divergence"), where)
    kinds = {"suite_hashes": dict[str, str | None], "split": str}
    for key, value in content["settings"].items():
        kind = kinds.get(key, str | float | None)
        _check(fits(value, kind), where, key, value, f"must be {described(kind)}")
    if not content["suites"]:
        raise CourseError(f"{where} has no suite; evaluate the model on at least one.")
    for name, suite in content["suites"].items():
        _check_suite(name, suite, f"the suite {name!r} in {where}")
    _check_retention(content["retention"], f"the retention in {where}")
    _check_divergence(content["divergence"], f"the divergence in {where}")


def _check_suite(name: str, suite: Any, where: str) -> None:
    if not isinstance(suite, Mapping):
        raise CourseError(f"{where} is no JSON object but a {type(suite).__name__}; {_REMEDY}.")
    _require(suite, [item.name for item in fields(SuiteRecord) if item.default is MISSING], where)
    _check(suite["name"] == name, where, "name", suite["name"], "must be the name of the suite")
    _check(suite["kind"] in KINDS, where, "kind", suite["kind"], f"must be {' or '.join(KINDS)}")
    types = {"ids": str, "prompts": str, "replies": str, "stopped": bool, "tokens": int}
    for key, kind in types.items():
        _check(isinstance(suite[key], list), where, key, suite[key], "must be a list")
        wrong = [value for value in suite[key] if type(value) is not kind]
        _check(not wrong, where, key, wrong[:1], f"must hold values of the type {kind.__name__} only")
    if not suite["ids"]:
        raise CourseError(f"{where} has no item; {_REMEDY}.")
    _check(len(set(suite["ids"])) == len(suite["ids"]), where, "ids", suite["ids"][:3], "must all differ")
    _check(isinstance(suite["scores"], Mapping), where, "scores", suite["scores"], "must be a JSON object")
    _check_types(suite, SuiteRecord, ("scores",), where)
    for turn in itertools.chain.from_iterable(suite.get("transcripts") or ()):
        _check(turn.keys() >= {"role", "content"}, where, "transcripts", turn, "must hold roles and contents")
    _check(suite["measure"] in suite["scores"], where, "measure", suite["measure"],
           f"must be one of the scores {', '.join(suite['scores'])}")  # fmt: skip
    columns = {key: suite[key] for key in types} | dict(suite["scores"])
    columns |= {key: suite[key] for key in ("transcripts", "relations") if suite.get(key) is not None}
    for key, values in columns.items():
        _check(isinstance(values, list), where, key, values, "must be a list")
        _check(len(values) == len(suite["ids"]), where, key, f"{len(values)} values",
               f"must have one value for each of the {len(suite['ids'])} items")  # fmt: skip
    for measure, values in suite["scores"].items():
        wrong = [
            value for value in values if not (value is None or isinstance(value, bool) or _is_number(value))
        ]
        _check(not wrong, where, measure, wrong[:1], "must hold finite numbers, yes/no values or null")


def _check_types(content: Mapping[str, Any], record: type, apart: Sequence[str], where: str) -> None:
    """Check the fields that are there against the annotations of a record's class, but for some."""
    for key, kind in get_type_hints(record).items():
        if key in content and key not in apart:
            _check(fits(content[key], kind), where, key, content[key], f"must be {described(kind)}")


def _check_retention(retention: Any, where: str) -> None:
    if retention is None:
        return
    _check(isinstance(retention, Mapping), where, "retention", retention, "must be a JSON object or null")
    _require(retention, ["losses", "tokens"], where)
    _check_columns(retention, ("losses", "tokens"), where, {"losses": 0, "tokens": 1})


def _check_divergence(divergence: Any, where: str) -> None:
    if divergence is None:
        return
    _check(isinstance(divergence, Mapping), where, "divergence", divergence, "must be a JSON object or null")
    texts = ("reference", "reference_identity", "suite", "measure")
    _require(divergence, [*texts, "temperature", "ids", "kl", "gold"], where)
    for key in texts:
        _check(isinstance(divergence[key], str), where, key, divergence[key], "must be text")
    _check(_is_number(divergence["temperature"], low=0), where, "temperature", divergence["temperature"],
           "must be a number of at least 0")  # fmt: skip
    _check_columns(divergence, ("ids", "kl", "gold"), where, {"kl": -1e-6, "gold": -math.inf})
    _check(fits(divergence["ids"], list[str]), where, "ids", divergence["ids"][:3], "must be a list of texts")


def _check_columns(
    content: Mapping[str, Any], names: Sequence[str], where: str, lowest: dict[str, float]
) -> None:
    for name in names:
        values = content[name]
        _check(
            isinstance(values, list) and bool(values),
            where,
            name,
            values,
            "must be a list that holds something",
        )
        _check(len(values) == len(content[names[0]]), where, name, f"{len(values)} values",
               f"must have as many values as {names[0]!r} ({len(content[names[0]])})")  # fmt: skip
        if name in lowest:
            wrong = [value for value in values if not _is_number(value, low=lowest[name])]
            floor = f" of at least {max(lowest[name], 0):g}" if lowest[name] > -math.inf else ""
            _check(not wrong, where, name, wrong[:1], f"must hold finite numbers{floor}")


def _require(content: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in content]
    if missing:
        raise CourseError(f"{where} lacks {', '.join(map(repr, missing))}; {_REMEDY}.")


def _check(holds: object, where: str, key: str, found: Any, rule: str) -> None:
    if not holds:
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:80] + " …"
        raise CourseError(f"{key!r} in {where} is {shown}; it {rule}; {_REMEDY}.")


def _is_number(value: Any, low: float = -math.inf) -> bool:
    return is_number(value) and value >= low
