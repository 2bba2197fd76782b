"""What is wrong with a request for a reply: the library's server answers it with whatever comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posttrain_helpers.data.public.converters import joined_parts
from posttrain_helpers.messages import ROLES, is_conversation, is_unicode, plain_messages, texts_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Settings of OpenAI's protocol: the least and the most, and whether only a whole number will do.
_RANGES = {
    "temperature": (0, math.inf, False),
    "top_p": (0, 1, False),
    "max_tokens": (1, math.inf, True),
    "max_completion_tokens": (1, math.inf, True),
}


def request_fault(
    asked: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, positions: int | None
) -> str | None:
    """Return a sentence about a request that the model cannot answer as it is meant, None for any other.

    Args:
        asked: the request, as OpenAI's protocol has it.
        tokenizer: of the model that answers.
        positions: how many tokens the model can hold, None where its config does not say.
    """
    from jinja2 import TemplateError

    messages = asked.get("messages")
    if not messages:
        return "messages is missing or empty"
    # The library's server puts blanks between parts, and hands all else to the template as it is.
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        messages = [{**message, "content": joined_parts(message.get("content"), " ")} for message in messages]
    if not is_conversation(messages):
        return f"messages must be a list of {{'role': {'|'.join(ROLES)}, 'content': text}}"
    if not all(map(is_unicode, texts_in(messages))):
        return "messages hold half a character, such as one half of an emoji"
    most = 0
    for name, (least, largest, whole) in _RANGES.items():
        value = asked.get(name)
        if value is None:
            continue
        number = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= largest:
            kind = "a whole number" if whole else "a number"
            upper = "" if largest == math.inf else f" and at most {largest}"
            return f"{name} must be {kind} of at least {least}{upper}, but it is {value!r}"
        most = max(most, value if whole else 0)
    try:
        tokens = tokenizer.apply_chat_template(
            plain_messages(messages), add_generation_prompt=True, return_dict=True
        )["input_ids"]
    except TemplateError as error:
        return f"the model's chat template refuses these messages: {' '.join(str(error).split())}"
    if positions is not None and len(tokens) + max(1, most) > positions:
        return (
            f"the messages have {len(tokens)} tokens and {max(1, most)} new ones are asked for, but the "
            f"model has {positions} positions in all; shorten the messages or lower max_tokens"
        )
    return None
