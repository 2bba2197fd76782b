"""The items and replies that judges are shown, checked and in one form."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain_helpers.comparison.scores import Item
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import is_conversation, plain_messages

Messages = list[dict[str, str]]
Reply = str | Messages


def check_pairs(
    items: Sequence[Item], first_replies: Sequence[Reply], second_replies: Sequence[Reply]
) -> None:
    """Check that every item has a reply from each side.

    Raises:
        CourseError: no items, lists of different length, or something that is not a reply.
    """
    counts = (len(items), len(first_replies), len(second_replies))
    if isinstance(first_replies, str) or isinstance(second_replies, str):
        raise CourseError("the replies must be lists of texts, but one string was found; write [reply].")
    if not counts[0] or len(set(counts)) > 1:
        raise CourseError(
            f"a judge needs two replies for each item, and at least one item; found {counts[0]} items, "
            f"{counts[1]} first replies and {counts[2]} second ones. Pass three lists of one length."
        )
    for item, *replies in zip(items, first_replies, second_replies, strict=True):
        for reply in replies:
            if not isinstance(reply, str) and not is_conversation(reply):
                raise CourseError(
                    f"a reply must be a text or a list of messages, but a {type(reply).__name__} was found "
                    f"for item {item.get('id')!r}; of a Generation pass its text."
                )


def prompt_messages(item: Item) -> Messages:
    """Return the prompt of an item as messages.

    Raises:
        CourseError: a prompt that is neither a text nor a list of messages.
    """
    prompt = item.get("prompt")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not is_conversation(prompt):
        raise CourseError(
            f"the prompt of item {item.get('id')!r} must be a text or a list of messages with role and "
            f"content, but it is {str(prompt)[:60]!r}."
        )
    return prompt


def after_prompt(item: Item, reply: Reply) -> Reply:
    """Return a reply without the prompt that a whole transcript begins with.

    Raises:
        CourseError: messages that do not end with the assistant's.
    """
    if isinstance(reply, str):
        return reply
    prompt, turns = plain_messages(prompt_messages(item)), plain_messages(reply)
    turns = turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns
    if not turns or turns[-1]["role"] != "assistant":
        raise CourseError(
            f"a reply of several turns must end with the assistant's, but the one to item {item.get('id')!r} "
            "does not; pass the messages after the prompt."
        )
    return turns


def as_text(turns: Reply) -> str:
    """Return one message as its text, and several with the role before each."""
    if isinstance(turns, str):
        return turns
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)
