"""Dialogues: the model answers, is asked again, and answers with its own first reply in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.comparison.scores import Item
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import Messages, prompt_messages
from posttrain_helpers.generation.decoding import Generation, generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_dialogues(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
) -> tuple[list[Messages], list[Generation]]:
    """Let a model reply greedily to each prompt and then to each follow-up, its own replies in view.

    A follow-up is asked whatever the reply before it was, so every model hears the same questions.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        items: N items with "prompt" (messages). "follow_ups" lists the user turns that come after the first
            reply; an item without any is answered once.
        max_new_tokens: the most tokens of each reply.
        batch_size: conversations in a batch.

    Returns:
        N transcripts, messages that end with the last reply, and N generations of that last reply.

    Raises:
        CourseError: no items, follow-ups that are no list of texts, follow-ups to a prompt that is a text, or
            as `generate`.
    """
    items = list(items)
    for item in items:
        check_follow_ups(item)
    transcripts = [list(prompt_messages(item)) for item in items]
    rounds = 1 + max((len(item.get("follow_ups") or ()) for item in items), default=0)
    last: dict[int, Generation] = {}
    for turn in range(rounds):
        asked = [index for index, item in enumerate(items) if turn <= len(item.get("follow_ups") or ())]
        if turn:
            for index in asked:
                transcripts[index].append({"role": "user", "content": items[index]["follow_ups"][turn - 1]})
        prompts = [items[index]["prompt"] if turn == 0 else transcripts[index] for index in asked]
        generations = generate(
            model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
        )
        for index, generation in zip(asked, generations, strict=True):
            transcripts[index].append({"role": "assistant", "content": generation.text})
            last[index] = generation
    return transcripts, [last[index] for index in range(len(items))]


def check_follow_ups(item: Item) -> None:
    """Raise a CourseError unless the follow-ups of an item, if any, are texts after messages."""
    follow_ups = item.get("follow_ups")
    if follow_ups is None:
        return
    texts = isinstance(follow_ups, (list, tuple)) and all(
        isinstance(text, str) and text.strip() for text in follow_ups
    )
    if not texts:
        raise CourseError(
            f"the follow_ups of item {item.get('id')!r} are {follow_ups!r}; they must be a list of texts, "
            "the user's next turns."
        )
    if follow_ups and isinstance(item["prompt"], str):
        raise CourseError(
            f"item {item.get('id')!r} has follow_ups, but its prompt is a text that is continued; write the "
            'prompt as messages: [{"role": "user", "content": "..."}].'
        )
