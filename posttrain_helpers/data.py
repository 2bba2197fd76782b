"""From a recipe's data section to a training set for TRL and held-out items for the comparison.

Sources: "tinyworld/sft" (built in), a local .json or .jsonl file, and data sets of the Hugging Face Hub; the
latter two need a `messages` column. What is dropped from them, and why, is counted and printed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.storage import repository_root
from posttrain_helpers.suggestions import closest

if TYPE_CHECKING:
    from datasets import Dataset

    from posttrain_helpers.recipes import Recipe

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")
_BUILT_IN_KEYS = frozenset({"source", "n_train", "held_out", "seed"})
_PUBLIC_KEYS = frozenset({"source", "max_samples", "held_out_samples", "seed", "split", "subset", "revision"})


def is_built_in(source: object) -> bool:
    """Say whether a source is made by the tiny world itself."""
    return isinstance(source, str) and source.startswith("tinyworld/")


def data_keys(source: object) -> frozenset[str]:
    """Return the keys that a recipe's data section may have for a source."""
    return _BUILT_IN_KEYS if is_built_in(source) else _PUBLIC_KEYS


def load_data(recipe: Recipe, verbose: bool = True) -> tuple[Dataset, list[Row]]:
    """Load what a recipe trains on and what it is measured on.

    Args:
        recipe: its `data` section names the source and the sizes.
        verbose: print one line that counts what was loaded and what was dropped.

    Returns:
        The training set (a `messages` column, in an order that the seed fixes) and the held-out items: dicts
        with `id`, `task`, `prompt` (messages) and `answer`, and `accepted` replies where exact ones exist.

    Raises:
        CourseError: unknown source or suite, unreadable file, missing column, rows that are not
            conversational, nothing left after filtering.
    """
    from datasets import Dataset

    source, data = recipe.data.get("source"), recipe.data
    if not isinstance(source, str) or not source:
        raise CourseError(
            f"recipe {recipe.name!r} has no data source; set data.source to 'tinyworld/sft', a .jsonl file "
            "or a Hub id."
        )
    seed = data.get("seed", recipe.seed)
    if is_built_in(source):
        rows, held_out = _built_in(source, data, seed)
        dropped: Counter[str] = Counter()
    else:
        rows, held_out, dropped = _public(source, data, seed)
    if not rows:
        raise CourseError(
            f"no training row of {source!r} is left: {len(held_out)} held out, {dropped.total()} dropped "
            f"({_counts(dropped) or 'the source is empty'}); correct the data or the recipe's data section."
        )
    if verbose:
        reasons = f"; dropped {dropped.total():,}: {_counts(dropped)}" if dropped else ""
        print(f"data {source}: {len(rows):,} training rows, {len(held_out):,} held-out items{reasons}")
    return Dataset.from_list(rows), held_out


def positive_count(data: dict[str, Any], key: str, default: int | None = None) -> int | None:
    """Return a count from a data section, checked to be a whole number above zero."""
    value = data.get(key, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise CourseError(f"data.{key} must be a whole number of at least 1, but it is {value!r}.")
    return value


def filter_conversations(rows: list[Row]) -> tuple[list[Row], Counter[str]]:
    """Keep the conversations that can teach a reply.

    Args:
        rows: each with `messages`, a list of {"role", "content"}.

    Returns:
        The rows kept, and for each reason the number of rows dropped.
    """
    kept: list[Row] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for row in rows:
        messages = row["messages"]
        if not is_conversation(messages):
            dropped["not conversational"] += 1
        elif not any(message["role"] == "assistant" for message in messages):
            dropped["no assistant turn"] += 1
        elif any(m["role"] == "assistant" and not m["content"].strip() for m in messages):
            dropped["empty reply"] += 1
        elif (key := _text_key(messages)) in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(key)
            kept.append({**row, "messages": _plain_messages(messages)})
    return kept, dropped


def is_conversation(messages: object) -> bool:
    """Say whether this is a non-empty list of messages with a known role and text as content."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and message.get("role") in ROLES
            and isinstance(message.get("content"), str)
            for message in messages
        )
    )


def _built_in(source: str, data: dict[str, Any], seed: int) -> tuple[list[Row], list[Row]]:
    if source not in BUILT_IN:
        raise CourseError(
            f"the built-in source {source!r} does not exist; {closest(source, BUILT_IN)}Built in: "
            f"{', '.join(BUILT_IN)}."
        )
    n_train = positive_count(data, "n_train")
    if n_train is None:
        raise CourseError(f"the source {source!r} needs data.n_train, the number of training rows.")
    rows, suites = BUILT_IN[source](n_train, seed)
    names = data.get("held_out", list(suites))
    for name in [names] if isinstance(names, str) else names:
        if name not in suites:
            raise CourseError(
                f"data.held_out: the suite {name!r} does not exist; {closest(name, suites)}The suites of "
                f"{source} are {', '.join(suites)}."
            )
    return rows, [item for name in ([names] if isinstance(names, str) else names) for item in suites[name]]


def _tinyworld_sft(n_train: int, seed: int) -> tuple[list[Row], dict[str, list[Row]]]:
    from posttrain_helpers.tinyworld.tasks import build_sft_data

    return build_sft_data(n_train=n_train, seed=seed)


BUILT_IN: dict[str, Callable[[int, int], tuple[list[Row], dict[str, list[Row]]]]] = {
    "tinyworld/sft": _tinyworld_sft,
}


def _public(source: str, data: dict[str, Any], seed: int) -> tuple[list[Row], list[Row], Counter[str]]:
    path = _local_file(source)
    rows = _read_json(path) if path else _read_hub(source, data)
    if rows and not all("messages" in row for row in rows):
        first = next(row for row in rows if "messages" not in row)
        raise CourseError(
            f"{source!r} has no column 'messages' in every row; found the columns "
            f"{', '.join(map(str, first))}. Rename or convert them: each row needs messages=[{{'role': ..., "
            "'content': ...}, ...]."
        )
    kept, dropped = filter_conversations(rows)
    if rows and dropped["not conversational"] == len(rows):
        raise CourseError(
            f"the rows of {source!r} are not conversational: 'messages' must be a list of "
            f"{{'role': {'|'.join(ROLES)}, 'content': text}}, but the first row holds "
            f"{str(rows[0]['messages'])[:80]!r}."
        )
    random.Random(seed).shuffle(kept)
    held_out, kept = _split(kept, positive_count(data, "held_out_samples"), source, dropped)
    limit = positive_count(data, "max_samples")
    return [{"messages": row["messages"]} for row in kept[:limit]], held_out, dropped


def _split(
    rows: list[Row], count: int | None, source: str, dropped: Counter[str]
) -> tuple[list[Row], list[Row]]:
    """Take `count` items with prompts of their own; whatever else has one of these prompts is dropped."""
    if count is None:
        return [], rows
    held_out: dict[str, Row] = {}
    for row in rows:
        if len(held_out) == count:
            break
        if row["messages"][-1]["role"] == "assistant" and len(row["messages"]) > 1:
            held_out.setdefault(_text_key(row["messages"][:-1]), row)
    chosen = {id(row) for row in held_out.values()}
    kept = []
    for row in rows:
        if id(row) in chosen:
            continue
        if any(_text_key(row["messages"][:end]) in held_out for end in range(1, len(row["messages"]) + 1)):
            dropped["prompt of a held-out item"] += 1
        else:
            kept.append(row)
    items = [
        {
            "id": f"{Path(source).stem}/{number}",
            "task": "conversation",
            "prompt": row["messages"][:-1],
            "answer": None,
            "reference": row["messages"][-1]["content"],
        }
        for number, row in enumerate(held_out.values())
    ]
    return items, kept


def _local_file(source: str) -> Path | None:
    if Path(source).suffix not in (".json", ".jsonl"):
        return None
    for path in (Path(source).expanduser(), repository_root() / source):
        if path.is_file():
            return path
    raise CourseError(
        f"the data file {source!r} does not exist (looked in {Path.cwd()} and {repository_root()}); correct "
        "data.source."
    )


def _read_json(path: Path) -> list[Row]:
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


def _read_hub(source: str, data: dict[str, Any]) -> list[Row]:
    from datasets import load_dataset

    from posttrain_helpers.hub import hub_snapshot

    directory = hub_snapshot(source, repo_type="dataset", revision=data.get("revision"))
    split = data.get("split", "train")
    try:
        return load_dataset(str(directory), data.get("subset"), split=split).to_list()
    except ValueError as error:
        raise CourseError(
            f"the data set {source!r} could not be read as split "
            f"{split!r}{' of subset ' + repr(data['subset']) if data.get('subset') else ''}: {error}"
        ) from error


def _plain_messages(messages: list[Row]) -> list[Row]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _text_key(messages: list[Row]) -> str:
    return json.dumps([[message["role"], message["content"].strip()] for message in messages])


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
