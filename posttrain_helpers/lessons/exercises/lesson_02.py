"""Exercises of lesson 02: a space at the end of a prompt, labels of a format, a packed row, one change."""

from __future__ import annotations

from collections.abc import Mapping
from operator import eq
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    parts_exercise,
    plain,
    whole_numbers,
)

Rows = list[dict[str, list[int]]]

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


def _labels_by_place(prompt_ids: list[int], all_ids: list[int]) -> list[int]:
    pairs = zip(prompt_ids, all_ids, strict=False)
    start = [-100 if alone == token else token for alone, token in pairs]
    return start + all_ids[len(prompt_ids) :]


def _labels_of_text(answer: Any, expected: list[int]) -> list[int]:
    found = plain(answer)
    if not isinstance(found, (list, tuple)) or len(found) != len(expected):
        raise NotYet(f"There must be one label for each of the {len(expected)} tokens of the whole text.")
    return whole_numbers(found, len(expected))


# --- 02.3: rows in one packed row

PACKED_ROWS: Rows = [
    {"input_ids": [5, 6, 7, END], "labels": [-100, -100, 7, END]},
    {"input_ids": [8, END], "labels": [-100, END]},
    {"input_ids": [9, 5, END], "labels": [9, 5, END]},  # without a prompt: every token is trained
]


def _packed(rows: Rows, positions: list[int]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in (-100, *row["labels"][1:])],
        "position_ids": positions,
    }


def pack(rows: Rows) -> dict[str, list[int]]:
    """Join rows; positions begin again with each, and no row predicts the first token of the next."""
    return _packed(rows, [place for row in rows for place in range(len(row["input_ids"]))])


def pack_in_one_line(rows: Rows) -> dict[str, list[int]]:
    """Let positions go on over the rows: the mistake that the notebook shows."""
    return _packed(rows, list(range(sum(len(row["input_ids"]) for row in rows))))


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


EXERCISES: tuple[Exercise, ...] = (
    parts_exercise(
        "02.1",
        [0, 0, 1],
        (0, 1),
        {
            0: "Training sees one text. Write prompt and completion one after the other, before and after "
            "the move: which character is new, or gone?",
            1: "The first word of the reply and the space before it are one token of the whole text. Does "
            "the prompt, tokenized alone, hold this token, so that it could be masked with the prompt?",
            2: "In use, the prompt stands alone when it is tokenized. No word follows the space that it "
            "could be joined with.",
        },
        "Nothing changes in training, and in use the prompt ends with a token that training never showed in "
        "this place. So a space belongs to the beginning of the reply.",
        # How many tokens more training sees, how many more are trained, and how many more a prompt has.
        read=lambda answer: whole_numbers(answer, 3),
    ),
    function_exercise(
        "02.2",
        "function",
        completion_labels,
        CASES,
        (
            (
                lambda prompt, whole: list(whole),
                "nothing is masked: the model would learn to write questions, too.",
            ),
            (
                lambda prompt, whole: [*completion_labels(prompt, whole)[:-1], -100],
                "the end token does not count, so the model never learns to stop.",
            ),
            (
                _labels_by_place,
                "behind the first difference a place in the prompt is no longer the same place in the text.",
            ),
            (
                lambda prompt, whole: [-100 if token in prompt else token for token in whole],
                "a token of the reply is masked because the same token stands in the prompt, too.",
            ),
            (
                lambda prompt, whole: [-100] * len(prompt) + whole[len(prompt) :],
                "the prompt's last token and the reply's first one became one token, and it is masked.",
            ),
        ),
        lambda *_: "-100 belongs to what both have in common at their start, and nowhere else.",
        "TRL does the same, and warns where the prompt is no prefix of the whole text.",
        read=_labels_of_text,
        same=eq,
        before=lambda found, prompt, whole: (
            f"For the prompt {prompt} and the text {whole} your labels are {found}: "
        ),
    ),
    Exercise(
        "02.3",
        "bug",
        grade_packing,
        pack,
        (
            (pack_in_one_line, "how is the model to see"),
            (
                lambda rows: _packed(rows, [place + 1 for place in pack(rows)["position_ids"]]),
                "Which position has the first token",
            ),
            (
                lambda rows: {**pack(rows), "labels": [label for row in rows for label in row["labels"]]},
                "Look at the first token of each row",
            ),
            (
                lambda rows: {**pack(rows), "attention_mask": [1] * len(pack(rows)["input_ids"])},
                "attention mask",
            ),
            (lambda rows: pack(rows)["position_ids"], "Return a dictionary"),
        ),
        "A position of 0 is the only mark of a new conversation in a packed row. If positions go on, every "
        "conversation reads those before it, and the loss does not complain. And the first token of a "
        "conversation must not be predicted from the last one of the conversation before: TRL's collator "
        "sets its label to -100.",
    ),
    change_exercise(
        "02.4",
        ("args.learning_rate", "args.max_steps", "args.per_device_train_batch_size", "data.formats"),
        "args.learning_rate=1e-3",
        why="One change, the same questions, an interval, and a verdict that follows from it. One run is one "
        "seed.",
    ),
)
