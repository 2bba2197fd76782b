"""The ChatML template, with generation markers around each reply of the assistant."""

from __future__ import annotations

from pathlib import Path

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# What Qwen, SmolLM2 and the model of the tiny world were trained with between documents.
END_OF_DOCUMENT = "<|endoftext|>"


def chat_template() -> str:
    """Return the ChatML template, with generation markers around each assistant reply and its end token."""
    return (Path(__file__).parent / "chatml.jinja").read_text(encoding="utf-8").rstrip("\n")
