"""Rows of a local file (.json, .jsonl, .parquet, .csv) or of a data set on the Hugging Face Hub."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.storage import repository_root

if TYPE_CHECKING:
    from datasets import Dataset

    from posttrain_helpers.datasources.catalog import Adapter

Row = dict[str, Any]
_JSON = (".json", ".jsonl")
_TABLES = (".parquet", ".csv")
_OF_THE_HUB = ("split", "subset", "revision")


def read_rows(
    source: str, data: Mapping[str, Any], adapter: Adapter | None, seed: int, most: int | None = None
) -> list[Row]:
    """Return the rows of a source.

    Args:
        source: a file or a Hub id.
        data: the data section; `split`, `subset` and `revision` are for a Hub id alone.
        adapter: gives split and subset where the section does not.
        seed: draws rows where there are more than `most`.
        most: rows to look at, None for all; millions of rows do not fit into memory. Only JSON is read whole.

    Raises:
        CourseError: no such file or data set, not readable, no such split, or a part of a file is asked for.
    """
    path = local_file(source)
    if path is None:
        return _drawn(_read_hub(source, data, adapter), seed, most)
    if given := [f"data.{key}" for key in _OF_THE_HUB if data.get(key)]:
        raise CourseError(
            f"{' and '.join(given)} choose a part of a data set on the Hub, but {source!r} is a file; "
            "remove the key, or write what you want of the file into one of its own."
        )
    return read_json_rows(path) if path.suffix in _JSON else _drawn(_read_table(path), seed, most)


def local_file(source: str) -> Path | None:
    """Return the file that a source names, None where it is a Hub id.

    Raises:
        CourseError: it ends like a file, but there is none.
    """
    if Path(source).suffix not in (*_JSON, *_TABLES):
        return None
    for path in (Path(source).expanduser(), repository_root() / source):
        if path.is_file():
            return path
    raise CourseError(
        f"the data file {source!r} does not exist (looked in {Path.cwd()} and {repository_root()}); correct "
        "data.source."
    )


def read_json_rows(path: Path) -> list[Row]:
    """Return the objects of a .json file (one list) or a .jsonl file (one object per line).

    Raises:
        CourseError: it is not valid JSON, or holds something else than objects.
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text) if path.suffix == ".json" else _json_lines(text)
    except json.JSONDecodeError as error:
        raise CourseError(
            f"{path} is not valid {path.suffix[1:].upper()}: {error.msg} at line {error.lineno}, column "
            f"{error.colno}; correct that line."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CourseError(
            f"{path} must hold one JSON object per row; write a list of objects, or one per line."
        )
    return rows


def _json_lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                # The decoder counts lines within this one line; readers need the line of the file.
                error.lineno = number
                raise
    return rows


def _read_table(path: Path) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = path.suffix[1:]
    try:
        return load_dataset(kind, data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError) as error:
        # `datasets` wraps the reader's own sentence, which says what is wrong.
        reason = error.__cause__ or error
        raise CourseError(
            f"{path} could not be read as {kind}: {reason}; correct the file, or write it as .jsonl."
        ) from error


def _read_hub(source: str, data: Mapping[str, Any], adapter: Adapter | None) -> Dataset:
    from datasets import load_dataset

    from posttrain_helpers.hub import hub_snapshot

    split = data.get("split") or (adapter.split if adapter else "train")
    subset = data.get("subset") or (adapter.subset if adapter else None)
    # No configuration has a slash in its name, so this is a folder; the others may be very large.
    folder = subset if subset and "/" in subset else None
    directory = hub_snapshot(source, repo_type="dataset", revision=data.get("revision"), folder=folder)
    place = (str(directory), subset)
    if subset and _is_folder(directory, subset):
        place = (str(directory / subset), None)
    try:
        return load_dataset(*place, split=split)
    except ValueError as error:
        raise CourseError(
            f"the data set {source!r} could not be read as split "
            f"{split!r}{' of subset ' + repr(subset) if subset else ''}: {error}"
        ) from error


def _is_folder(directory: Path, subset: str) -> bool:
    """Say whether a subset is a folder and no configuration of that name, as in Anthropic/hh-rlhf."""
    from datasets import get_dataset_config_names

    if not (directory / subset).is_dir():
        return False
    return subset not in get_dataset_config_names(str(directory))


def _drawn(dataset: Dataset, seed: int, most: int | None) -> list[Row]:
    if most is None or len(dataset) <= most:
        return dataset.to_list()
    print(f"data: {most:,} of {len(dataset):,} rows are drawn to choose from (data.max_samples is set)")
    return dataset.select(sorted(random.Random(seed).sample(range(len(dataset)), most))).to_list()
