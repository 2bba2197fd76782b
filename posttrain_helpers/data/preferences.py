"""Preference data: pairs of a better and a worse reply to one prompt, in the form that a method learns from.

    rows, dropped = explicit_pairs(rows, "trl-lib/ultrafeedback_binarized")
    train = for_method(rows, "pairs", seed=0)

Public sets write a pair in several ways: the prompt in a column of its own, at the beginning of both replies,
or in both places. Here every pair becomes {"prompt": messages, "chosen": [reply], "rejected": [reply]}.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from posttrain_helpers.data.conversations import MESSAGE_FAULTS, check_columns, read_messages, sift
from posttrain_helpers.data.public.adapters import advice
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import ROLES, Row

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = ("chosen", "rejected")
SCORES = ("score_chosen", "score_rejected")
# Why a pair is dropped, and what a set needs to have pairs without this fault.
FAULTS = {
    "not conversational": f"replies must be lists of {{'role': {'|'.join(ROLES)}, 'content': text}} that end "
    "with an assistant's turn after a user's",
    "no shared prompt": "chosen and rejected must differ in their last turn only",
    "empty completion": "both replies must hold text",
    "identical": "the two replies must differ",
    "tie": "score_chosen and score_rejected must differ",
    "duplicate": "each pair counts once",
    **MESSAGE_FAULTS,
}


def is_preference(rows: list[Row]) -> bool:
    """Say whether rows hold pairs and no conversations; the first row tells."""
    return bool(rows) and set(SIDES) <= rows[0].keys() and "messages" not in rows[0]


def explicit_pairs(rows: list[Row], source: str) -> tuple[list[Row], Counter[str]]:
    """Bring preference rows of any known form into the explicit one and drop what cannot teach a preference.

    Args:
        rows: each with `chosen` and `rejected`, lists of messages, and optionally `prompt` and the scores
            `score_chosen` and `score_rejected`. Where the replies hold the prompt themselves, their shared
            first turns are the prompt, and of the column `prompt` only a system turn that they lack counts.
        source: what to call the rows in an error.

    Returns:
        Rows {"prompt": messages, "chosen": [message], "rejected": [message]}, with the scores where there are
        any, and for each of `FAULTS` the number of rows dropped.

    Raises:
        CourseError: a missing column, text where messages are expected, or no pair left.
    """
    _check_columns(rows, source)
    return sift(rows, _explicit, "pairs", source, FAULTS)


def for_method(rows: list[Row], data_kind: str, seed: int) -> Dataset:
    """Return the training set that a method makes of explicit rows.

    Args:
        rows: as `explicit_pairs` returns them.
        data_kind: `data` of the method. "pairs" keeps prompt, chosen and rejected; "labels" gives each reply
            a row of its own with the label True or False, so twice as many rows; "conversations" keeps the
            chosen reply only, which makes supervised fine-tuning the control of preference learning.
        seed: of the order of "labels".
    """
    from datasets import Dataset

    if data_kind == "conversations":
        return Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
    pairs = Dataset.from_list([{key: row[key] for key in ("prompt", *SIDES)} for row in rows])
    if data_kind == "pairs":
        return pairs
    from trl import unpair_preference_dataset

    # TRL writes all chosen replies of 1,000 pairs before their rejected ones, and KTO reads in order.
    return unpair_preference_dataset(pairs).shuffle(seed=seed)


def _explicit(row: Row) -> Row | str:
    """Return the explicit form of a row, or the fault for which it is dropped."""
    from trl.data_utils import extract_prompt

    conversations = {side: _conversation(row, side) for side in SIDES}
    if fault := next((value for value in conversations.values() if isinstance(value, str)), None):
        return fault
    pair = extract_prompt(conversations)
    if not pair["prompt"] or any(len(pair[side]) != 1 for side in SIDES):
        return "no shared prompt"
    turns = [pair["prompt"][-1]["role"], *(pair[side][0]["role"] for side in SIDES)]
    if turns != ["user", "assistant", "assistant"]:
        return "not conversational"
    chosen, rejected = (pair[side][0]["content"].strip() for side in SIDES)
    if not chosen or not rejected:
        return "empty completion"
    if chosen == rejected:
        return "identical"
    scores = {name: row[name] for name in SCORES if row.get(name) is not None}
    if len(scores) == len(SCORES) and len(set(scores.values())) == 1:
        return "tie"
    return {**pair, **scores}


def _conversation(row: Row, side: str) -> list[Row] | str:
    """Return prompt and reply of one side, or the fault for which they are no use."""
    prompt, reply = row.get("prompt"), read_messages(row[side])
    # A prompt as text is the one of UltraFeedback's H4 form, whose replies hold it again as a message.
    if isinstance(reply, str) or not isinstance(prompt, list) or not prompt:
        return reply
    prompt = read_messages(prompt)
    if isinstance(prompt, str):
        return prompt
    if reply[: len(prompt)] == prompt:
        return reply
    roles = [message["role"] for message in reply]
    if prompt[-1]["role"] == "user" and roles[0] != "assistant" and roles[-1] == "assistant":
        # A question goes on with an answer, so this side repeats the prompt, perhaps with other blanks.
        system = prompt[0]["role"] == "system" and roles[0] != "system"
        return prompt[:1] + reply if system else reply
    return prompt + reply


def _check_columns(rows: list[Row], source: str) -> None:
    needed = "Pairs need chosen and rejected, and prompt where these two do not begin with it. "
    check_columns(rows, SIDES, source, "pairs", needed)
    if not rows:
        return
    for side in SIDES:
        if all(isinstance(row[side], str) for row in rows):
            raise CourseError(
                f"the column {side!r} of {source!r} holds text where messages are expected, such as "
                f"{rows[0][side][:60]!r}; write each reply as [{{'role': 'assistant', 'content': text}}] and "
                "its prompt as [{'role': 'user', 'content': text}]. Transcripts of several turns in one "
                f"text, as in Anthropic/hh-rlhf, must be split into turns first. {advice(rows[0], 'pairs')}"
            )
    replies = (read_messages(row["chosen"]) for row in rows)
    if any(isinstance(reply, str) or reply[0]["role"] != "assistant" for reply in replies):
        return
    if all(row.get("prompt") is None for row in rows):
        raise CourseError(
            f"{source!r} has no column 'prompt' and its replies do not begin with one; found the columns "
            f"{', '.join(map(str, rows[0]))}. Add prompt=[{{'role': 'user', 'content': text}}]."
        )
    if all(isinstance(row["prompt"], str) for row in rows):
        raise CourseError(
            f"the column 'prompt' of {source!r} holds text where messages are expected, such as "
            f"{rows[0]['prompt'][:60]!r}; write [{{'role': 'user', 'content': text}}], or set "
            "data.columns={prompt: prompt, chosen: chosen, rejected: rejected}."
        )


def in_length_groups(dataset: Dataset, size: int) -> Dataset:
    """Sort each `size` neighbouring rows by length, so that batches within a group pad less.

    With `size` rows to an optimizer step and `train_sampling_strategy="sequential"` every step keeps its
    rows, and only their place among the step's batches changes.

    Args:
        dataset: rows of messages, in random order.
        size: rows in a group; the last one may be smaller.
    """
    lengths = [len(str(row)) for row in dataset]
    order = [
        index
        for start in range(0, len(lengths), size)
        for index in sorted(range(start, min(start + size, len(lengths))), key=lengths.__getitem__)
    ]
    return dataset.select(order)
