"""Few-shot prompts: a question behind a few answered ones, the baseline that every later lesson must beat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from posttrain_helpers.errors import CourseError


def few_shot_item(item: dict[str, Any], examples: Sequence[Sequence[dict[str, str]]]) -> dict[str, Any]:
    """Put answered conversations in front of a held-out item's question.

    Args:
        item: a held-out item whose `prompt` is a list of messages.
        examples: conversations, each a list of messages that ends with an assistant turn.

    Returns:
        A copy of the item with the longer prompt; what counts as right stays the same.
    """
    turns = [message for conversation in examples for message in conversation]
    return {**item, "prompt": [*turns, *item["prompt"]]}


def few_shot_items(
    items: Sequence[dict[str, Any]], train_rows: Sequence[dict[str, Any]], shots: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Give every held-out item its own random examples from the training rows.

    Args:
        items: held-out items.
        train_rows: rows with `messages`, and `task` where the items have one: examples are of the item's
        task.
        shots: examples per item.
        seed: chooses the examples.

    Returns:
        One item per item, in the same order.

    Raises:
        CourseError: more examples than there are.
    """
    rng = random.Random(seed)
    by_task: dict[str, list[Any]] = {}
    for row in train_rows:
        by_task.setdefault(row.get("task", ""), []).append(row["messages"])
    everything = [messages for rows in by_task.values() for messages in rows]
    given = []
    for item in items:
        examples = by_task.get(item.get("task", ""), everything)
        if not 0 <= shots <= len(examples):
            raise CourseError(
                f"{shots} examples are asked for, but there are {len(examples)} for an item such as "
                f"{item['prompt']!r}; ask for fewer, or pass more training rows."
            )
        given.append(few_shot_item(item, rng.sample(examples, shots)))
    return given
