"""Exercises of lesson 02: a space at the end of a prompt, labels of a format, a packed row, one change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    name_mistake,
    plain,
    whole_numbers,
)
from posttrain_helpers.statistics.paired_tests import paired_binary

Rows = list[dict[str, list[int]]]

# --- 02.1: a space that moves from the reply to the prompt


def grade_space(answer: Any) -> None:
    """Take how many tokens more training sees, how many more are trained, and how many more a prompt has."""
    seen, trained, asked = whole_numbers(answer, 3)
    if seen != 0:
        raise NotYet(
            "Training sees one text. Write prompt and completion one after the other, before and after the "
            "move: which character is new, or gone?"
        )
    if trained != 0:
        raise NotYet(
            "The first word of the reply and the space before it are one token of the whole text. Does the "
            "prompt, tokenized alone, hold this token, so that it could be masked with the prompt?"
        )
    if asked != 1:
        raise NotYet(
            "In use, the prompt stands alone when it is tokenized. No word follows the space that it could "
            "be joined with."
        )


# --- 02.2: the labels of a prompt and its completion

END = 2
# Prompt alone, and prompt and completion as one text. In the third the last token of the prompt (a space, 30)
# is joined with the first word of the reply (31); in the fourth nothing of the prompt is left as it was; in
# the last, two tokens of the prompt are joined, so that an 8 of the reply moves to the place of the prompt's.
CASES = (
    ([5, 6, 7], [5, 6, 7, 8, 9, END]),
    ([5], [5, 5, 6, END]),
    ([5, 6, 30], [5, 6, 31, 8, END]),
    ([5], [6, 7, END]),
    ([5, 6, 30, 8], [5, 6, 31, 8, END]),
)


def completion_labels(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Mask what prompt and whole text have in common at their start; the rest is trained."""
    common = 0
    while common < min(len(prompt_ids), len(all_ids)) and prompt_ids[common] == all_ids[common]:
        common += 1
    return [-100] * common + all_ids[common:]


def labels_by_length(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Mask as many tokens as the prompt has alone: wrong where a token belongs to both."""
    return [-100] * len(prompt_ids) + all_ids[len(prompt_ids) :]


def labels_of_everything(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Train the prompt, too."""
    return list(all_ids)


def labels_without_end(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Mask the end token."""
    return [*completion_labels(prompt_ids, all_ids)[:-1], -100]


def labels_by_value(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Mask every token that occurs in the prompt, wherever it stands."""
    return [-100 if token in prompt_ids else token for token in all_ids]


def labels_by_place(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Go on behind the first difference, where places no longer stand for the same characters."""
    pairs = zip(prompt_ids, all_ids, strict=False)
    start = [-100 if alone == token else token for alone, token in pairs]
    return start + all_ids[len(prompt_ids) :]


def labels_cut(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    """Return the trained tokens only."""
    return all_ids[len(prompt_ids) :]


LABEL_HINTS: tuple[tuple[Callable[..., list[int]], str], ...] = (
    (labels_of_everything, "nothing is masked: the model would learn to write questions, too"),
    (labels_without_end, "the end token does not count, so the model never learns to stop"),
    (
        labels_by_place,
        "behind the first difference a place in the prompt is no longer the same place in the text",
    ),
    (labels_by_value, "a token of the reply is masked because the same token stands in the prompt, too"),
    (
        labels_by_length,
        "the prompt's last token and the reply's first one became one token, and it is masked",
    ),
)


def grade_labels(answer: Any) -> None:
    """Call a function of the prompt's ids and the ids of prompt and completion as one text."""
    for prompt, whole in CASES:
        expected = completion_labels(prompt, whole)
        found = plain(call(answer, prompt, whole))
        if not isinstance(found, (list, tuple)) or len(found) != len(whole):
            raise NotYet(f"There must be one label for each of the {len(whole)} tokens of the whole text.")
        labels = whole_numbers(found, len(whole))
        if labels == expected:
            continue
        shown = f"For the prompt {prompt} and the text {whole} your labels are {labels}: "
        hints = [(mistake, shown + hint + ".") for mistake, hint in LABEL_HINTS]
        name_mistake(hints, labels, prompt, whole, same=lambda a, b: a == b)
        raise NotYet(f"{shown}-100 belongs to what both have in common at their start, and nowhere else.")


# --- 02.3: rows in one packed row

PACKED_ROWS: Rows = [
    {"input_ids": [5, 6, 7, END], "labels": [-100, -100, 7, END]},
    {"input_ids": [8, END], "labels": [-100, END]},
    {"input_ids": [9, 5, END], "labels": [9, 5, END]},  # without a prompt: every token is trained
]


def _packed(rows: Rows, positions: list[int], boundary: int | None = -100) -> dict[str, list[int]]:
    labels: list[int] = []
    for row in rows:
        first = row["labels"][0] if boundary is None else boundary
        labels += [first, *row["labels"][1:]]
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": labels,
        "position_ids": positions,
    }


def pack(rows: Rows) -> dict[str, list[int]]:
    """Join rows; positions begin again with each, and no row predicts the first token of the next."""
    return _packed(rows, [place for row in rows for place in range(len(row["input_ids"]))])


def pack_in_one_line(rows: Rows) -> dict[str, list[int]]:
    """Let positions go on over the rows: the mistake that the notebook shows."""
    return _packed(rows, list(range(sum(len(row["input_ids"]) for row in rows))))


def pack_from_one(rows: Rows) -> dict[str, list[int]]:
    """Count positions from 1."""
    return _packed(rows, [place + 1 for row in rows for place in range(len(row["input_ids"]))])


def pack_across(rows: Rows) -> dict[str, list[int]]:
    """Let the end of a row predict the first token of the next one."""
    return _packed(rows, pack(rows)["position_ids"], boundary=None)


def pack_with_mask(rows: Rows) -> dict[str, list[int]]:
    """Add the mask that hides from the model where a row begins."""
    packed = pack(rows)
    return {**packed, "attention_mask": [1] * len(packed["input_ids"])}


def packed_positions(rows: Rows) -> list[int]:
    """Return no packed row."""
    return pack(rows)["position_ids"]


def grade_packing(answer: Any) -> None:
    """Call a function of rows, and compare the three columns of the packed row that it returns."""
    for rows in (PACKED_ROWS, PACKED_ROWS[::-1], PACKED_ROWS[:1]):
        found, right = call(answer, rows), pack(rows)
        if not isinstance(found, Mapping) or not set(right) <= set(found):
            raise NotYet(f"Return a dictionary with {', '.join(map(repr, right))}, as the function does now.")
        row = {key: _whole_numbers(found[key], key, len(right["input_ids"])) for key in right}
        if row["input_ids"] != right["input_ids"]:
            raise NotYet("The token ids are no longer those of the rows, one row after the other.")
        if row["position_ids"] != right["position_ids"]:
            if row["position_ids"] == pack_in_one_line(rows)["position_ids"]:
                raise NotYet(
                    f"Rows of {[len(row['input_ids']) for row in rows]} tokens get the positions "
                    f"{row['position_ids']}: how is the model to see where a row begins?"
                )
            raise NotYet(
                f"The positions are {row['position_ids']}. Which position has the first token of a row?"
            )
        # Nothing predicts the first token of the whole row, so its label never counts.
        if row["labels"][1:] != right["labels"][1:]:
            raise NotYet(
                f"The labels are {row['labels']}. Look at the first token of each row: which token would "
                "predict it, and does that token belong to the same conversation?"
            )
        if "attention_mask" in found:
            raise NotYet(
                "The three columns are right, but an attention mask comes with them. What does one do to the "
                "detection of the rows? See the measurement above."
            )


def _whole_numbers(values: Any, key: str, count: int) -> list[int]:
    found = plain(values)
    if not isinstance(found, (list, tuple)) or len(found) != count:
        raise NotYet(f"{key!r} must hold one number for each of the {count} tokens.")
    return whole_numbers(found, count)


# --- 02.4: one changed setting

SETTINGS = ("args.learning_rate", "args.max_steps", "args.per_device_train_batch_size", "data.formats")
_UNCLEAR = paired_binary([True] * 40 + [False] * 42, [True] * 38 + [False] * 4 + [True] * 2 + [False] * 38)

EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "02.1",
        "predict",
        grade_space,
        [0, 0, 1],
        (
            ([1, 0, 1], "Write prompt and completion"),
            ([0, -1, 1], "are one token of the whole text"),
            ([0, 0, 0], "stands alone"),
            ([0, 1], "3 numbers are expected"),
        ),
        "Nothing changes in training, and in use the prompt ends with a token that training never showed in "
        "this place. So a space belongs to the beginning of the reply.",
    ),
    Exercise(
        "02.2",
        "function",
        grade_labels,
        completion_labels,
        (
            (labels_of_everything, "nothing is masked"),
            (labels_without_end, "never learns to stop"),
            (labels_by_value, "stands in the prompt, too"),
            (labels_by_length, "became one token"),
            (labels_by_place, "behind the first difference"),
            (labels_cut, "one label for each"),
        ),
        "TRL does the same, and warns where the prompt is no prefix of the whole text.",
    ),
    Exercise(
        "02.3",
        "bug",
        grade_packing,
        pack,
        (
            (pack_in_one_line, "how is the model to see"),
            (pack_from_one, "Which position has the first token"),
            (pack_across, "Look at the first token of each row"),
            (pack_with_mask, "attention mask"),
            (packed_positions, "Return a dictionary"),
        ),
        "A position of 0 is the only mark of a new conversation in a packed row. If positions go on, every "
        "conversation reads those before it, and the loss does not complain. And the first token of a "
        "conversation must not be predicted from the last one of the conversation before: TRL's collator "
        "sets its label to -100.",
    ),
    change_exercise(
        "02.4",
        SETTINGS,
        "args.learning_rate=1e-3",
        _UNCLEAR,
        "One change, the same questions, an interval, and a verdict that follows from it. One run is one "
        "seed.",
    ),
)
