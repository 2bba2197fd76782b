"""Calls of tools, and what tools return, as the words that a chat template writes for them.

A template that knows calls writes them into the assistant's turn, and what a tool returns often into one of
the user's. A conversation whose turns hold these words already renders the same, and is trained on like any
other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.public.converters import normalized_messages
from posttrain_helpers.messages import Row, is_conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACE = "xplacex"


def calls_in_words(messages: object, tokenizer: PreTrainedTokenizerBase) -> object:
    """Return messages in which calls of tools and their results are text.

    Args:
        messages: of one row; their keys and names of roles may be those of other chat sets.
        tokenizer: its chat template writes the words.

    Returns:
        Messages that the template renders to the same text; the messages as they were where they hold no
        calls, or where the template leaves out a function's name or its arguments or refuses them.
    """
    from jinja2 import TemplateError

    found = normalized_messages(messages)
    if not _has_calls(found) or not tokenizer.chat_template:
        return messages
    try:
        written = _written(found, tokenizer)
    except (TemplateError, AttributeError, KeyError, TypeError, ValueError):  # a call of another form
        return messages
    return messages if written is None else written


def _has_calls(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and all(isinstance(message, dict) for message in messages)
        and any(message.get("tool_calls") for message in messages)
    )


def _written(messages: list[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row] | None:
    def render(conversation: list[Row]) -> str:
        return tokenizer.apply_chat_template(conversation, tokenize=False)

    written: list[Row] = []
    for number, message in enumerate(messages):
        calls = message.get("tool_calls")
        if calls or message["role"] == "tool":
            turn = {key: value for key, value in message.items() if key != "tool_calls"}
            turn["role"] = "assistant" if calls else "user"
            before, _, behind = render([*written, {**turn, "content": _PLACE}]).partition(_PLACE)
            whole = render(messages[: number + 1])
            turn["content"] = whole.removeprefix(before).removesuffix(behind)
            if not all(part in turn["content"] for part in _parts(calls or [])):
                return None
            message = turn
        written.append(message)
    same = is_conversation(written) and render(written) == render(messages)
    return written if same else None


def _parts(calls: list[Row]) -> Iterator[str]:
    """Yield what a text with the calls holds: names of functions, names and values of arguments."""
    for call in calls:
        function = call.get("function", call)
        yield function["name"]
        arguments = function.get("arguments")
        yield from _leaves(json.loads(arguments) if isinstance(arguments, str) else arguments)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield json.dumps(value, ensure_ascii=False)[1:-1]
    elif value is not None:
        yield json.dumps(value)
