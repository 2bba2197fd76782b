"""Prompts without replies, for methods that sample their own replies and learn from a reward.

A row needs a `prompt`, a text or messages. Whatever else it has reaches the reward functions by name: a
verifier reads `answer`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.conversations import MESSAGE_FAULTS, check_columns, read_messages, sift
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row

if TYPE_CHECKING:
    from datasets import Dataset

# TRL passes these to reward functions itself; a column of that name would be passed twice or be lost.
_TAKEN = (
    "prompts",
    "completion",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
)
# TRL puts the values of these into the prompt, for models that see.
_PICTURES = ("image", "images")
# Why a prompt is dropped, and what a set needs to have prompts without this fault.
FAULTS = {
    "not conversational": "a prompt must be text or a list of {'role', 'content'}",
    "empty prompt": "a prompt must hold text",
    "prompt that does not end with a user's turn": "the reply to a prompt must not be in it",
    "no answer": "each row needs an answer where the set has the column",
    "duplicate": "each prompt counts once",
    **MESSAGE_FAULTS,
}


def usable_prompts(rows: list[Row], source: str) -> tuple[list[Row], Counter[str]]:
    """Bring prompts into the form of messages and drop what no reply can be sampled for.

    Args:
        rows: each with `prompt`, a text or messages.

    Returns:
        The rows with `prompt` as messages and every other column as it was, and for each of `FAULTS` the
        number of rows dropped.

    Raises:
        CourseError: no column `prompt`, a column whose name TRL needs, or no row left.
    """
    check_columns(rows, ("prompt",), source, "prompts")
    for row in rows:
        _check_names(row, source)
    return sift(rows, _usable, "prompts", source, FAULTS)


def prompt_dataset(rows: list[Row], method: str, source: str) -> Dataset:
    """Return rows with prompts as a training set; what only some rows have is None in the others.

    Args:
        rows: each with `prompt`, a list of messages.
        method: which learns from them.

    Raises:
        CourseError: the rows have no prompt, as conversations do not.
    """
    from datasets import Dataset

    if "prompt" not in rows[0]:
        raise CourseError(
            f"the method {method!r} samples replies to prompts, but the source {source!r} holds "
            "conversations; set data.source to one with a column 'prompt'."
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    # Dataset.from_list looks for columns in the first row only.
    return Dataset.from_dict({name: _column(name, [row.get(name) for row in rows], source) for name in names})


def _column(name: str, values: list[Any], source: str) -> list[Any]:
    """Return values of one kind: texts, where they mix kinds or hold numbers that a table cannot."""
    import pyarrow

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError) as error:
        if any(isinstance(value, list | dict) for value in values):
            raise CourseError(
                f"the column {name!r} of {source!r} holds values of different kinds, or with different "
                "fields; write them alike in every row, or as texts."
            ) from error
        return [None if value is None else str(value) for value in values]
    return values


def _check_names(row: Row, source: str) -> None:
    if taken := [name for name in row if name in _TAKEN]:
        raise CourseError(
            f"{source!r} has a column {taken[0]!r}, a name under which TRL passes something else to reward "
            "functions; rename the column."
        )
    if pictures := [name for name in _PICTURES if row.get(name) is not None]:
        raise CourseError(
            f"{source!r} has a column {pictures[0]!r}, whose values TRL takes for pictures to show to the "
            "model, but the models of the course read text only; rename the column or leave it out."
        )


def _usable(row: Row) -> Row | str:
    """Return a row with its prompt as messages, or the fault for which it is dropped."""
    prompt = row["prompt"]
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        return "empty prompt"
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    prompt = read_messages(prompt)
    if isinstance(prompt, str):
        return prompt
    if prompt[-1]["role"] != "user":
        return "prompt that does not end with a user's turn"
    if not prompt[-1]["content"].strip():
        return "empty prompt"
    if "answer" in row and (row["answer"] is None or not str(row["answer"]).strip()):
        return "no answer"
    return {**row, "prompt": prompt}
