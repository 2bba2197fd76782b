"""Instruction formats: what stands before a question, and between the question and its reply.

A chat template does the same from messages, for one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import suggestion

# Before the question, between question and reply, and what the reply begins with. A prompt never ends with a
# space: tokenizers join a space with the word behind it.
FORMATS = {
    "alpaca": ("### Instruction:\n", "\n\n### Response:\n", ""),  # without its introductory sentence
    "plain": ("", "\n", ""),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", ""),
    "llama": ("[INST] ", " [/INST]", " "),
    "qa": ("Question: ", "\nAnswer:", " "),
    "vicuna": ("USER: ", " ASSISTANT:", " "),
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", ""),
}


def render(name: str, question: str, reply: str = "") -> tuple[str, str]:
    """Return the prompt and the completion of a conversation in one format, without the end token."""
    before, between, lead = FORMATS[name]
    return before + question + between, lead + reply


def in_formats(rows: Sequence[Mapping[str, Any]], formats: Sequence[str]) -> list[dict[str, str]]:
    """Return conversations of one turn as `prompt` and `completion`, each in one of the formats, in turn.

    Args:
        rows: each with `messages`, a question and its reply.
        formats: names out of `FORMATS`.

    Raises:
        CourseError: there is no such format.
    """
    for name in formats:
        if name not in FORMATS:
            raise CourseError(
                f"data.formats: the format {name!r} does not exist{suggestion(name, FORMATS)}The formats are "
                f"{', '.join(FORMATS)}."
            )
    rendered = []
    for number, row in enumerate(rows):
        question, reply = (message["content"] for message in row["messages"])
        prompt, completion = render(formats[number % len(formats)], question, reply)
        rendered.append({"prompt": prompt, "completion": completion})
    return rendered
