"""Rows of a local file or of a data set on the Hugging Face Hub."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.public.readers import READABLE, file_kind, read_file
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row

if TYPE_CHECKING:
    from datasets import Dataset

    from posttrain_helpers.data.public.catalog import Adapter

_OF_THE_HUB = ("split", "subset", "revision")
# Names of data sets have dots as well ("OpenHermes-2.5"), but not these endings.
_OTHER_FILES = (".txt", ".md", ".xlsx", ".xls", ".ods", ".docx", ".pdf", ".html", ".xml", ".yaml", ".yml")
_OTHER_FILES += (".arrow", ".feather", ".pkl", ".db", ".sqlite", ".zip", ".7z", ".tar", ".zst", ".gz")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def read_rows(
    source: str, data: Mapping[str, Any], adapter: Adapter | None, seed: int, most: int | None = None
) -> list[Row]:
    """Return the rows of a source.

    Args:
        data: the data section; `split`, `subset` and `revision` are for a Hub id alone.
        adapter: gives split and subset where the section does not.
        seed: draws rows where there are more than `most`.
        most: rows to look at, None for all; millions of rows do not fit into memory.

    Raises:
        CourseError: no such file or data set, not readable, no such split, or a part of a file is asked for.
    """

    def choose(count: int) -> list[int]:
        if most is None or count <= most:
            return list(range(count))
        print(f"data: {most:,} of {count:,} rows are drawn to choose from")
        return sorted(random.Random(seed).sample(range(count), most))

    path = local_file(source)
    if path is None:
        dataset = _read_hub(source, data, adapter)
        return dataset.select(choose(len(dataset))).to_list()
    if given := [f"data.{key}" for key in _OF_THE_HUB if data.get(key)]:
        raise CourseError(
            f"{' and '.join(given)} choose a part of a data set on the Hub, but {source!r} is a file; "
            "remove the key, or write what you want of the file into one of its own."
        )
    return read_file(path, choose)


def local_file(source: str, key: str = "data.source") -> Path | None:
    """Return the file that a source names, None where it is a Hub id.

    Args:
        key: where the recipe names it.

    Raises:
        CourseError: it names a directory or an address, or looks like a file, but there is none.
    """
    if "://" in source:
        raise CourseError(f"{source!r} is an address; download the file and name it in {key}.")
    places = (Path(os.path.expanduser(source)), repository_root() / source)
    # Unlike those of Path, these functions take a name of any length and with any character.
    if file := next(filter(os.path.isfile, places), None):
        return file
    for path in places:
        if os.path.isdir(path):
            raise CourseError(f"{source!r} is a directory; name one file in {key}{_files_in(path)}.")
    if is_file_name(source):
        raise CourseError(
            f"the data file {source!r} does not exist (looked in {Path.cwd()} and {repository_root()}); "
            f"correct {key}."
        )
    return None


def is_file_name(name: str) -> bool:
    """Say whether a name is that of a file: by its ending, or because no Hub id looks like it."""
    known = file_kind(name) is not None or name.lower().endswith(_OTHER_FILES)
    return known or name.startswith(".") or not _HUB_ID.fullmatch(name)


def _files_in(directory: Path) -> str:
    names = sorted(path.name for path in directory.glob("*") if file_kind(path.name))
    return f", such as {names[0]!r}" if names else f"; a file ends in {READABLE}"


def _read_hub(source: str, data: Mapping[str, Any], adapter: Adapter | None) -> Dataset:
    from datasets import get_dataset_config_names, load_dataset
    from datasets.exceptions import DatasetsError

    from posttrain_helpers.models.hub import hub_snapshot

    split = data.get("split") or (adapter.split if adapter else "train")
    its_own = adapter is not None and (adapter.hub_id or "").lower() == source.lower()
    subset = data.get("subset") or (adapter.subset if its_own else None)
    # No configuration has a slash in its name, so this is a folder; the others may be very large.
    folder = subset if subset and "/" in subset else None
    directory = hub_snapshot(source, repo_type="dataset", revision=data.get("revision"), folder=folder)
    try:
        # A folder and no configuration of that name, as in Anthropic/hh-rlhf.
        inner = subset and (directory / subset).is_dir()
        if inner and subset not in get_dataset_config_names(str(directory)):
            return load_dataset(str(directory / subset), split=split)
        return load_dataset(str(directory), subset, split=split)
    except (ValueError, RuntimeError, FileNotFoundError, DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise CourseError(
            f"the data set {source!r} could not be read as split "
            f"{split!r}{' of subset ' + repr(subset) if subset else ''}: {reason}; correct data.split and "
            "data.subset, or download one of its files and name it in data.source."
        ) from error
