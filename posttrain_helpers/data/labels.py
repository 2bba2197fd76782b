"""Labelled replies, as KTO learns from: a prompt, a reply to it, and whether the reply is desirable."""

from __future__ import annotations

from collections import Counter

from posttrain_helpers.data.conversations import MESSAGE_FAULTS, check_columns, read_messages, sift
from posttrain_helpers.messages import Row

# Why a row is dropped, and what a set needs to have rows without this fault.
FAULTS = {
    "not conversational": "a prompt must be messages that end with the user's, and a completion one message "
    "of the assistant",
    "empty completion": "a reply must hold text",
    "no label": "a label must be true or false",
    "duplicate": "each labelled reply counts once",
    **MESSAGE_FAULTS,
}


def has_labels(rows: list[Row]) -> bool:
    """Say whether rows hold labelled replies and no conversations; the first row tells."""
    return bool(rows) and {"completion", "label"} <= rows[0].keys() and "messages" not in rows[0]


def usable_labels(rows: list[Row], source: str) -> tuple[list[Row], Counter[str]]:
    """Keep the labelled replies that KTO can learn from.

    Args:
        rows: each with `prompt` and `completion`, lists of messages, and `label`, true or false (1 or 0).

    Returns:
        The rows kept, with nothing but these three, and for each of `FAULTS` the number of rows dropped.

    Raises:
        CourseError: a missing column, or no row left.
    """
    check_columns(rows, ("prompt", "completion", "label"), source, "labels")
    return sift(rows, _usable, "labels", source, FAULTS)


def _usable(row: Row) -> Row | str:
    """Return a row with plain messages, or the fault for which it is dropped."""
    prompt, completion, label = read_messages(row["prompt"]), read_messages(row["completion"]), row["label"]
    for messages in (prompt, completion):
        if isinstance(messages, str):
            return messages
    roles = [prompt[-1]["role"], *(message["role"] for message in completion)]
    if roles != ["user", "assistant"]:
        return "not conversational"
    if not completion[0]["content"].strip():
        return "empty completion"
    if label not in (True, False):  # 1 and 0 are equal to them; None is not
        return "no label"
    return {"prompt": prompt, "completion": completion, "label": bool(label)}
