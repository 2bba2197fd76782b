"""What an evaluation leaves on disk: one JSON file for each model, from which every table is made.

`<output>/<profile>/evaluation/<label>.json` holds each prompt, each reply and each score of one model (on the
split "dev": `<output>/<profile>/dev/evaluation/<label>.json`). Boards and reports read these files and no
model, so a table can be made again without generating anything. A later evaluation of the same weights under
the same settings takes over what the file holds, and keeps in it what was not asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, model_validator
from typing_extensions import TypedDict

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.environment.schemas import plain, read_checked, write_checked
from posttrain_helpers.environment.splits import DEFAULT_SPLIT, results_directory
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.manifest import BASE

if TYPE_CHECKING:
    from posttrain_helpers.evaluation.suites.suite import Suite

Kind = Literal["correctness", "preference"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Replies made under different values of these cannot stand in one record.
COMMON_SETTINGS = ("split", "batch_size", "temperature", "chat_template", "files")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REMEDY = "delete it and evaluate the model again"

Value = bool | float | None
Name = Annotated[str, Field(min_length=1)]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


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
        transcripts: for suites with several turns the whole conversations, the last reply included; None for
            suites of single turns.
        relations: what fact each item asks for, such as "capital": answers about one relation are right or
            wrong together. None for an item that asks for no fact, or for the whole suite.
    """

    name: str
    skill: str
    kind: Kind
    measure: str
    ids: Annotated[tuple[str, ...], Field(min_length=1)]
    prompts: tuple[str, ...]
    replies: tuple[str, ...]
    stopped: tuple[bool, ...]
    tokens: tuple[int, ...]
    scores: dict[str, tuple[Value, ...]]
    transcripts: tuple[tuple[Message, ...], ...] | None = None
    relations: tuple[str | None, ...] | None = None

    @property
    def headline(self) -> tuple[Value, ...]:
        """The scores of the suite's own measure."""
        return self.scores[self.measure]

    @model_validator(mode="after")
    def _check_columns(self) -> SuiteRecord:
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("the ids of its items must all differ")
        columns = {item.name: getattr(self, item.name) for item in fields(self)}
        _check_lengths({**columns, **self.scores})
        if self.measure not in self.scores:
            raise ValueError(f"its measure {self.measure!r} is none of its scores {', '.join(self.scores)}")
        return self


def _check_lengths(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check that all lists have a value for each entry of the first."""
    lists = {key: values for key, values in columns.items() if isinstance(values, list | tuple)}
    first, n = next((key, len(values)) for key, values in lists.items())
    for key, values in lists.items():
        if len(values) != n:
            raise ValueError(f"{key!r} has {len(values)} values, but {first!r} has {n}")
    return columns


class Retention(TypedDict):
    """How well a model still predicts texts of its base's kind.

    Attributes:
        losses: nats per text.
        tokens: predicted tokens per text.
    """

    losses: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    tokens: list[PositiveInt]


class Divergence(TypedDict):
    """How far a model is from its reference, on the replies that it sampled to the prompts of a suite.

    Attributes:
        reference, reference_identity: label and identity of the reference.
        suite: its name.
        temperature: of the sampling.
        measure: what `gold` scores.
        ids: of the prompts.
        kl: nats per prompt; all are 0 for the reference itself.
        gold: score of the sampled reply per prompt.
    """

    reference: str
    reference_identity: str
    suite: str
    temperature: NonNegativeFloat
    measure: str
    ids: Annotated[list[str], Field(min_length=1)]
    kl: list[Annotated[float, Field(ge=-1e-6)]]  # files of earlier versions hold rounding below 0
    gold: list[float]


class Settings(TypedDict, total=False):
    """How replies were made and what was asked; two records with equal settings can be compared.

    Attributes:
        split: the held-out split; files of earlier versions lack it.
        batch_size, temperature, chat_template: of the generation.
        files: hash of the tokenizer's and the generation's files.
        suite_hashes: hash of the items by the name of the suite.
        retention, divergence: hash of what the two were measured on.
    """

    split: str
    batch_size: int
    temperature: float
    chat_template: str | None
    files: str
    suite_hashes: dict[str, str | None]
    retention: str | None
    divergence: str | None


@dataclass(frozen=True)
class EvaluationRecord:
    """What one model was measured to be.

    Attributes:
        label: the model's name in tables and on disk.
        source: what was evaluated: "base", a stage, a directory or a Hub id.
        identity: changes when the model's weights change.
        parent: what the model was trained from, None where nothing tells.
        profile: the profile that it was evaluated on.
        settings: how replies were made and what was asked.
        suites: the replies and scores by the name of the suite.
        retention: what it remembers of its base, None where that was not measured.
        divergence: how far it is from its reference, None where that was not measured.
        seconds: wall-clock time of the evaluation, loading included.
        peak_cpu_mb: highest resident memory of the process, None where it is unknown.
        device: where the model ran, "cpu" or "cuda:0".
        versions: library name to version.
        written: when, ISO 8601 in UTC.
    """

    label: Name
    source: Name
    identity: Name
    parent: str | None
    profile: Name
    settings: Settings
    suites: Annotated[dict[str, SuiteRecord], Field(min_length=1)]
    retention: Annotated[Retention, AfterValidator(_check_lengths)] | None
    divergence: Annotated[Divergence, AfterValidator(_check_lengths)] | None
    seconds: NonNegativeFloat
    peak_cpu_mb: NonNegativeFloat | None
    device: Name
    versions: dict[str, str] = field(default_factory=dict)
    written: str = ""

    @property
    def split(self) -> str:
        """The held-out split that the model was measured on."""
        return self.settings.get("split", DEFAULT_SPLIT)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries and lists, as its file holds it."""
        return plain(asdict(self), f"the record of {self.label!r}")

    def has(self, suite: Suite) -> bool:
        """Say whether the record holds the replies to exactly this suite."""
        return suite.name in self.suites and self.settings["suite_hashes"].get(suite.name) == suite.hash


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
    return results_directory(profile) / "evaluation" / f"{label}.json"


def write_record(record: EvaluationRecord) -> Path:
    """Check a record and write it, whole or not at all.

    Args:
        record: an older one of the same label and profile is replaced.

    Returns:
        The path of the file.

    Raises:
        CourseError: the record breaks the contract of `EvaluationRecord`.
    """
    return write_checked(record_path(record.label, record.profile), record, f"the record of {record.label!r}")


def read_record(path: Path) -> EvaluationRecord:
    """Read and check one record.

    Raises:
        CourseError: the file is no JSON, breaks the contract, or holds the record of another label.
    """
    record = read_checked(EvaluationRecord, path, _REMEDY)
    if record.label != path.stem:
        raise CourseError(f"{path} holds the record of {record.label!r}; rename it or {_REMEDY}.")
    return record


def read_records(profile: str | None = None) -> list[EvaluationRecord]:
    """Read and check the records of a profile.

    Args:
        profile: a profile's name; None takes the profile in use.

    Returns:
        The records in alphabetical order, that of "base" first; an empty list when nothing was evaluated.

    Raises:
        CourseError: a file that is no JSON or breaks the contract, or a record of another profile.
    """
    profile = get_profile(profile).name
    paths = (results_directory(profile) / "evaluation").glob("*.json")
    records = []
    for path in sorted(paths, key=lambda path: (path.stem != BASE, path.stem)):
        record = read_record(path)
        if record.profile != profile:
            raise CourseError(
                f"{path} holds a record of the profile {record.profile!r}, not of {profile!r}; {_REMEDY}."
            )
        records.append(record)
    return records


def record_on_disk(
    label: str, identity: str, settings: Mapping[str, Any], profile: str, device: str
) -> EvaluationRecord | None:
    """Return the record of the same weights under the same settings, None where there is none.

    Another version of a library does not count as another setting, although it may change replies as well.

    Args:
        label: of the model.
        identity: of its weights.
        settings: those of the evaluation at hand.
        profile: the profile's name.
        device: "cpu" or "cuda"; replies that were made on the other one are not those of this one.

    Raises:
        CourseError: the file is damaged.
    """
    path = record_path(label, profile)
    if not path.is_file():
        return None
    old = read_record(path)
    whole = set(settings) <= set(old.settings)
    same = whole and all(old.settings[key] == settings[key] for key in COMMON_SETTINGS)
    same = same and old.device.split(":")[0] == device
    return old if same and old.identity == identity else None


def with_older(
    record: EvaluationRecord, old: EvaluationRecord | None, whole: Mapping[str, Suite]
) -> EvaluationRecord:
    """Return what to write: the new record, and of the old one what a look at a few items must not destroy.

    Args:
        record: what was measured now.
        old: what `record_on_disk` returned.
        whole: the suites asked for, before `limit` cut them, by name.

    Returns:
        The new record with the suites that only the old one has, and with the old version of a suite, and of
        a divergence on it, that was measured on the same items and on more behind them.
    """
    if old is None:
        return record
    hashes = dict(record.settings["suite_hashes"])
    suites = dict(record.suites)
    for name, suite in old.suites.items():
        if name not in suites or _continues(old, record, whole.get(name)):
            suites[name], hashes[name] = suite, old.settings["suite_hashes"].get(name)
    settings, divergence = {**record.settings, "suite_hashes": hashes}, record.divergence
    measured, before = record.divergence, old.divergence
    keys = ("reference_identity", "suite")
    longer = (
        measured
        and before
        and all(measured[key] == before[key] for key in keys)
        and len(before["ids"]) > len(measured["ids"])
        and _continues(old, record, whole.get(measured["suite"]))
    )
    if settings["divergence"] is None or longer:
        settings["divergence"], divergence = old.settings["divergence"], old.divergence
    return replace(record, settings=settings, suites=suites, divergence=divergence)


def _continues(old: EvaluationRecord, record: EvaluationRecord, whole: Suite | None) -> bool:
    """Say whether the old record holds more of the same suite; equal ids alone do not make equal items."""
    if whole is None or whole.name not in old.suites:
        return False
    n = len(old.suites[whole.name].ids)
    longer = replace(whole, items=whole.items[:n])
    return n > len(record.suites[whole.name].ids) and old.has(longer)
