"""Conversations as training rows: what counts as one, and what is dropped because it teaches no reply.

    rows, dropped = usable_conversations(rows, "banghua/DL-SFT-Dataset")

`rows` are as they were read, and `source` is what errors call them, here and for the other forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping

from posttrain_helpers.data.forms import identity
from posttrain_helpers.data.public.adapters import advice
from posttrain_helpers.data.public.converters import normalized_messages
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import ROLES, Row, is_conversation, plain_messages

UNKNOWN_ROLE, TOOL_CALL, WEIGHTED = "unknown role", "tool call", "reply with a weight"
# Why messages are dropped in every form of rows, and what a set needs to have messages without this fault.
MESSAGE_FAULTS = {
    UNKNOWN_ROLE: f"roles are {', '.join(ROLES)}, or usual names for them such as human, gpt, bot and model",
    TOOL_CALL: "calls of tools and what tools return are trained on in conversations only, where the model's "
    "chat template renders them",
    WEIGHTED: "every reply of a row is trained on alike; leave out the rows or the weights",
}
_TOOL_KEYS = ("tool_calls", "function_call")
_TOOL_ROLES = frozenset(
    {"tool", "function", "observation", "ipython"}
    | {f"{kind}_{part}" for kind in ("tool", "function") for part in ("call", "calls", "response", "result")}
)
_WEIGHT_KEYS = ("weight", "train", "training", "loss")
_MOST_REASONS = 12


def read_messages(value: object) -> list[Row] | str:
    """Return messages with a known role and content only, or the fault for which they are of no use.

    Args:
        value: a list of messages; the keys and names of roles may be those of other chat sets.
    """
    messages = normalized_messages(value)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "not conversational"
    roles = [message["role"] for message in messages]
    names = [role for role in roles if isinstance(role, str) and role.strip()]
    if any(name.strip().casefold() in _TOOL_ROLES for name in names) or any(
        message.get(key) for message in messages for key in _TOOL_KEYS
    ):
        return TOOL_CALL
    if unknown := next((name for name in names if name not in ROLES), None):
        return f"{UNKNOWN_ROLE} {unknown[:40]!r}"
    if not is_conversation(messages):
        return "not conversational"
    replies = [message for message in messages if message["role"] == "assistant"]
    if any(reply.get(key) not in (None, 1) for reply in replies for key in _WEIGHT_KEYS):
        return WEIGHTED
    return plain_messages(messages)


def listed_counts(dropped: Counter[str]) -> str:
    """Return the reasons and their counts, the most frequent first and the rarest of very many together."""
    shown = dropped.most_common(_MOST_REASONS)
    rest = dropped.total() - sum(count for _, count in shown)
    return ", ".join(
        f"{count:,} {reason}" for reason, count in [*shown, ("for other reasons", rest)] if count
    )


def check_columns(rows: list[Row], columns: Iterable[str], source: str, kind: str, needed: str = "") -> None:
    """Raise a CourseError that says what to do, where a row lacks one of the columns of its kind.

    Args:
        needed: a sentence that says more about the columns.
    """
    for row in rows:
        if missing := [column for column in columns if column not in row]:
            raise CourseError(
                f"{source!r} has no column {missing[0]!r} in every row; found the columns "
                f"{', '.join(map(str, row))}. {needed}{advice(row, kind)}"
            )


def sift(
    rows: Iterable[Row],
    usable: Callable[[Row], Row | str],
    form: str,
    source: str,
    faults: Mapping[str, str] | None = None,
) -> tuple[list[Row], Counter[str]]:
    """Keep what can be learned from, each row once, and count the rest by its fault.

    Args:
        usable: returns a row in the form that it is kept in, or the fault for which it is dropped.
        faults: how a fault begins -> what a set needs to have rows without it; with these it is an error that
            every row is dropped.

    Returns:
        The rows kept, and for each fault and for "duplicate" the number of rows dropped.
    """
    kept: list[Row] = []
    seen: set[Hashable] = set()
    dropped: Counter[str] = Counter()
    for row in rows:
        found = usable(row)
        if isinstance(found, str):
            dropped[found] += 1
        elif (key := identity(found, form)) in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(key)
            kept.append(found)
    if faults and dropped and not kept:
        needed = dict.fromkeys(
            text for reason in dropped for fault, text in faults.items() if reason.startswith(fault)
        )
        raise CourseError(f"no row of {source!r} is left, {listed_counts(dropped)}: {'; '.join(needed)}.")
    return kept, dropped


def usable_conversations(rows: list[Row], source: str) -> tuple[list[Row], Counter[str]]:
    """Keep the conversations that can teach a reply.

    Args:
        rows: each with `messages`, a list of {"role", "content"}.

    Returns:
        The rows kept, with nothing but their messages, and for each reason the number of rows dropped.

    Raises:
        CourseError: a row without the column `messages`, or no row with messages in it.
    """
    needed = "Each row needs messages=[{'role': ..., 'content': ...}, ...]. "
    check_columns(rows, ("messages",), source, "conversations", needed)
    kept, dropped = sift(rows, _usable, "conversations", source)
    if rows and dropped["not conversational"] == len(rows):
        raise CourseError(
            f"the rows of {source!r} are not conversational: 'messages' must be a list of "
            f"{{'role': {'|'.join(ROLES)}, 'content': text}}, but the first row holds "
            f"{str(rows[0]['messages'])[:80]!r}."
        )
    return kept, dropped


def _usable(row: Row) -> Row | str:
    """Return a row with plain messages, or the fault for which it is dropped."""
    messages = read_messages(row["messages"])
    if isinstance(messages, str):
        return messages
    if not any(message["role"] == "assistant" for message in messages):
        return "no assistant turn"
    if any(m["role"] == "assistant" and not m["content"].strip() for m in messages):
        return "empty reply"
    return {"messages": messages}
