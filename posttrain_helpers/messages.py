"""Messages: what a conversation is made of, and what a text in one must not hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

import json

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")


def is_conversation(messages: object) -> bool:
    """Say whether this is a non-empty list of messages with a known role and text as content."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and message.get("role") in ROLES
            and isinstance(message.get("content"), str)
            for message in messages
        )
    )


def plain_messages(messages: list[Row]) -> list[Row]:
    """Return messages with their role and content only."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def text_key(messages: list[Row]) -> str:
    """Return a text that is equal for messages with equal roles and words."""
    return json.dumps([[message["role"], message["content"].strip()] for message in messages])


# How templates open and close turns and texts: those of ChatML, Llama, Mistral, Gemma and DeepSeek.
_CONTROL = r"<[|｜][^\s<>|｜]+[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"


def is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8; JSON can escape one half of an emoji, as in "\\ud83d"."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value of lists and mappings, keys included."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the texts that a tokenizer reads as one token each, wherever they stand, and does not print."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def control_tokens(special: Collection[str] = ()) -> re.Pattern[str]:
    """Return a pattern that finds what a template or a tokenizer would take for the edge of a turn or text.

    Args:
        special: tokens of the tokenizer in use, beside those of the usual families.
    """
    return re.compile("|".join([_CONTROL, *map(re.escape, special)]))
