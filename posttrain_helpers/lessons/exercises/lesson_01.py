"""Exercises of lesson 01: what counts in the loss, the loss of a step, a padded batch, one change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    function_exercise,
    is_close,
    members_exercise,
    plain,
    whole_numbers,
)

Batch = dict[str, list[list[int]]]
Rows = list[dict[str, list[int]]]

# --- 01.2: the loss of one optimizer step

STEPS = (
    [[1.0, 1.0], [4.0]],
    [[2.0], [1.0, 1.0, 1.0]],
    [[0.5, 1.5, 1.0, 3.0], [2.0], [1.0]],
    [[], [3.0]],
)


def step_loss(batches: list[list[float]]) -> float:
    """Return the mean loss over all supervised tokens of the batches of one step."""
    losses = [loss for batch in batches for loss in batch]
    return sum(losses) / len(losses)


def _mean_of_means(batches: list[list[float]]) -> float:
    means = [sum(batch) / len(batch) for batch in batches if batch]
    return sum(means) / len(means)


# --- 01.3: a batch with padding

END = 2
ROWS: Rows = [
    {"input_ids": [5, 6, END], "labels": [-100, 6, END]},
    {"input_ids": [5, 6, 7, 8, END], "labels": [-100, -100, 7, 8, END]},
    {"input_ids": [9, END, 8, END], "labels": [9, END, 8, END]},  # two turns, two end tokens
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},  # cut off: no end token
]


def _padded(rows: Rows, pad_id: int, label: int) -> Batch:
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": [row["input_ids"] + [pad_id] * (longest - len(row["input_ids"])) for row in rows],
        "labels": [row["labels"] + [label] * (longest - len(row["labels"])) for row in rows],
    }


def pad_rows(rows: Rows, pad_id: int) -> Batch:
    """Bring rows to one length; padding does not count in the loss, everything else stays as it is."""
    return _padded(rows, pad_id, -100)


def mask_every_pad_id(rows: Rows, pad_id: int) -> Batch:
    """Mask padding by its id: the mistake that the notebook shows."""
    batch = _padded(rows, pad_id, pad_id)
    batch["labels"] = [[-100 if label == pad_id else label for label in row] for row in batch["labels"]]
    return batch


def mask_after_the_last_end(rows: Rows, pad_id: int) -> Batch:
    """Take the first padding token behind the text for its end token, whether it has one or not."""
    if pad_id != END:
        return pad_rows(rows, pad_id)
    batch = _padded(rows, pad_id, pad_id)
    for labels in batch["labels"]:
        end = len(labels)
        while labels[end - 2 : end] == [pad_id, pad_id]:
            end -= 1
        labels[end:] = [-100] * (len(labels) - end)
    return batch


def grade_padding(answer: Any) -> None:
    """Call a function of rows and the id of padding, which may be the end token's."""
    for pad_id in (0, END):
        batch = call(answer, ROWS, pad_id)
        if not isinstance(batch, Mapping) or not {"input_ids", "labels"} <= set(batch):
            raise NotYet('Return a dictionary with "input_ids" and "labels", as the function does now.')
        ids, labels = (_rows(batch[key]) for key in ("input_ids", "labels"))
        right = pad_rows(ROWS, pad_id)
        if ids != right["input_ids"]:
            raise NotYet(f"With pad_id={pad_id} the token ids are no longer the rows, padded at their end.")
        if [len(row) for row in labels] != [len(row) for row in right["labels"]]:
            raise NotYet(f"With pad_id={pad_id} there is not one label for each token id.")
        for row, found, wanted in zip(ROWS, labels, right["labels"], strict=True):
            if found == wanted:
                continue
            size = len(row["labels"])
            if found[size:] != wanted[size:]:
                raise NotYet(
                    f"With pad_id={pad_id} the labels behind a short row are {found[size:]}: padding counts."
                )
            raise NotYet(
                f"With pad_id={pad_id} the labels {row['labels']} became {found[:size]}. Something was lost "
                "that the model had to learn."
            )


def _rows(values: Any) -> list[list[int]]:
    """Return rows of whole numbers, of lists, tuples or tensors; what is no row becomes an empty one."""
    rows = plain(values)
    rows = [plain(row) for row in rows] if isinstance(rows, (list, tuple)) else []
    return [whole_numbers(row, len(row)) if isinstance(row, (list, tuple)) else [] for row in rows]


EXERCISES: tuple[Exercise, ...] = (
    members_exercise(
        "01.1",
        ["reply", "end token"],
        {
            "question": "Who writes the question when the model is used? It need not learn to write that.",
            "header": "The chat template writes the header before the model writes its first token.",
            "reply": "What is the model to learn at all, if the answer itself does not count?",
            "end token": "When the answer is complete, somebody has to say so. Which token says it, and who "
            "writes it?",
        },
        "The model writes the reply and the token that ends it. The question and the header are given to it.",
    ),
    function_exercise(
        "01.2",
        "function",
        step_loss,
        [(batches,) for batches in STEPS],
        (
            (_mean_of_means, "A token in a short batch must not weigh more than one in a long batch."),
            (
                lambda batches: sum(map(sum, batches)),
                "That grows with the number of tokens; a mean does not.",
            ),
        ),
        lambda *_: "Every supervised token of every batch has to count, and all alike.",
        "Until 2024 common trainers took the mean of means, so gradient accumulation changed the result. "
        "Today they divide by the supervised tokens of the whole step.",
        same=is_close,
        before=lambda found, batches: f"For {batches} your function returns {found:.3f}. ",
    ),
    Exercise(
        "01.3",
        "bug",
        grade_padding,
        pad_rows,
        (
            (mask_every_pad_id, "Something was lost"),
            (mask_after_the_last_end, "behind a short row are [2, -100]"),
            (lambda rows, pad_id: _padded(rows, pad_id, pad_id), "padding counts"),
            (lambda rows, pad_id: pad_rows(rows, pad_id)["labels"], "Return a dictionary"),
        ),
        "Padding has to be masked by its place and not by its id: where the end token serves as padding, a "
        "mask by id takes every end token out of the loss, and the model no longer learns to stop.",
    ),
    change_exercise(
        "01.4",
        (
            "args.learning_rate",
            "args.max_steps",
            "args.per_device_train_batch_size",
            "args.lr_scheduler_type",
        ),
        "args.learning_rate=1e-5",
    ),
)
