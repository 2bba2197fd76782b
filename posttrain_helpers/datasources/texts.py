"""What a text must not hold: half a character, or a token that a chat template writes itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
