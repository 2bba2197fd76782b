"""A reader's own suite: a file of questions, each with what its reply is scored by."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain_helpers.comparison.scores import Item, Score
from posttrain_helpers.data.conversations import read_messages
from posttrain_helpers.environment.schemas import checked
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.suites.instructions import Text, check_constraints, obeys
from posttrain_helpers.evaluation.suites.suite import Suite
from posttrain_helpers.messages import is_unicode, texts_in
from posttrain_helpers.metrics import lenient_match, strict_match

_OWN_MEASURES: dict[str, tuple[str, Score]] = {
    "answer": ("correct", lenient_match),
    "accepted": ("exact", strict_match),
    "constraints": ("obeyed", obeys),
}
_TYPES = {
    "answer": str | float | bool | None,
    "accepted": list[Text] | None,
    "follow_ups": list[Text] | None,
}


def own_suite(path: Path, max_new_tokens: int) -> Suite:
    """Return the suite that a file of rows describes, see `loading.load_suites`.

    Args:
        path: a file that `readers.read_file` reads; its name is that of the suite.
        max_new_tokens: the most tokens of a reply.

    Returns:
        The suite. Each key of the rows gives it a measure, and the most frequent key the one that counts.

    Raises:
        CourseError: no such file, not readable, no rows, or a row without a prompt, with nothing to score,
            with follow-ups that are no texts or with half a character.
    """
    from posttrain_helpers.data.public.readers import read_file

    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        fault = "is a directory" if os.path.isdir(path) else f"does not exist (looked in {Path.cwd()})"
        raise CourseError(f"the suite file {str(path)!r} {fault}; name a file of questions.")
    rows = read_file(path)
    if not rows:
        raise CourseError(f"{path} has no rows; a suite needs at least one.")
    name = re.sub(r"[^\w-]+", "_", path.stem)
    items = [_own_item(row, f"{name}/{number}", f"row {number} of {path}") for number, row in enumerate(rows)]
    found = {key: sum(_has(item, key) for item in items) for key in _OWN_MEASURES}
    scores = dict(_OWN_MEASURES[key] for key, count in found.items() if count)
    measure = _OWN_MEASURES[max(found, key=found.__getitem__)][0]
    return Suite(name, f"the questions of {path.name}", tuple(items), measure, scores, max_new_tokens)


def _own_item(row: dict[str, Any], identifier: str, where: str) -> Item:
    if half := next((text for text in texts_in(row) if not is_unicode(text)), None):
        raise CourseError(f"{where} holds half a character (an emoji that was cut) in {half!r}; correct it.")
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    prompt = read_messages(prompt)
    if isinstance(prompt, str) or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        fault = f" ({prompt})" if isinstance(prompt, str) else ""
        raise CourseError(
            f"the prompt in {where} is {row.get('prompt')!r}{fault}; it must be a text, or messages with "
            f"role and content that end with the user's (found the keys {', '.join(row)})."
        )
    if not any(_has(row, key) for key in _OWN_MEASURES):
        raise CourseError(
            f"{where} has nothing to score its reply by; give it an 'answer', 'accepted' replies or "
            f"'constraints' (found the keys {', '.join(row)})."
        )
    named = row.get("id") not in (None, "")
    item = {**row, "id": str(row["id"]) if named else identifier, "prompt": prompt}
    item["task"] = row.get("task") or "own"
    item |= {key: None for key in _OWN_MEASURES if key in row and not _has(row, key)}
    for key, kind in _TYPES.items():
        checked(kind, item.get(key), where, key)
    check_constraints(item, where)
    return item


def _has(item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key)
    return value not in (None, []) and not (isinstance(value, str) and not value.strip())
