"""Dialogues: the model answers, is asked again, and answers with its own first reply in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.comparison.scores import Item
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
) -> tuple[list[list[dict[str, str]]], list[Generation]]:
    """Let a model reply greedily to each prompt and then to each follow-up, its own replies in view.

    A follow-up is asked whatever the reply before it was, so every model hears the same questions.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        items: N items with "prompt" (messages). "follow_ups" lists the user turns that come after the first
            reply; an item without any is answered once, and its prompt may be a text.
        max_new_tokens: the most tokens of each reply.
        batch_size: conversations in a batch.

    Returns:
        N transcripts, messages that end with the last reply, and N generations of that last reply.

    Raises:
        CourseError: as `generate`.
    """
    transcripts = [
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        for prompt in (item["prompt"] for item in items)
    ]
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
