"""From one form of rows to another, and the system prompt of all rows of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from posttrain_helpers.messages import control_tokens, is_unicode, text_key, texts_in

Row = dict[str, Any]
_PARTS = ("messages", "prompt", "chosen", "rejected", "completion")
HALF_A_CHARACTER, CONTROL_TOKEN = "half a character in a text", "control token in a text"


def with_messages(rows: list[Row]) -> list[Row]:
    """Return rows whose conversations stand in a column `messages`, as TRL has it.

    ShareGPT and its many descendants call the column `conversations`.

    Args:
        rows: as a file or the Hub has them; they come back as they are if any has `messages`, or if one
            lacks a list of `conversations`.
    """
    if any("messages" in row for row in rows) or not all(
        isinstance(row.get("conversations"), list) for row in rows
    ):
        return rows
    return [{"messages": row["conversations"]} | row for row in rows]


def as_form(rows: list[Row], form: str, wanted: str, dropped: Counter[str]) -> list[Row]:
    """Make conversations or prompts of rows of a richer form.

    Args:
        rows: usable ones of the form.
        form: "conversations", "pairs" or "labels".
        wanted: "conversations" keeps desirable replies, "prompts" no reply at all.
        dropped: counts what is lost on the way.
    """
    if wanted == "conversations":
        kept = [row for row in rows if row["label"]]
        if len(kept) < len(rows):
            dropped["undesirable reply"] += len(rows) - len(kept)
        return [{"messages": row["prompt"] + row["completion"]} for row in kept]
    prompts = [{"prompt": _before_reply(row["messages"])} if form == "conversations" else row for row in rows]
    usable = [{"prompt": row["prompt"]} for row in prompts if row["prompt"]]
    if len(usable) < len(rows):
        dropped["empty prompt"] += len(rows) - len(usable)
    return _once(usable, dropped)


def _before_reply(messages: list[Row]) -> list[Row]:
    """Return the messages up to the last of the user's."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    return messages[: users[-1] + 1] if users else []


def set_system_prompt(rows: list[Row], text: str | None, dropped: Counter[str]) -> list[Row]:
    """Give every row the same system turn; rows that differed in their own only become duplicates.

    Args:
        rows: usable ones of any form; what comes first is `messages` or `prompt`.
        text: the system turn; empty takes it away, None leaves the rows as they are.
        dropped: counts the duplicates.
    """
    if text is None:
        return rows
    turn = [{"role": "system", "content": text.strip()}] if text.strip() else []
    changed = []
    for row in rows:
        key = "messages" if "messages" in row else "prompt"
        own = row[key][1:] if row[key][0]["role"] == "system" else row[key]
        changed.append({**row, key: turn + own})
    return _once(changed, dropped)


def with_clean_texts(
    rows: list[Row], dropped: Counter[str], special_tokens: Collection[str] = ()
) -> list[Row]:
    """Keep rows whose texts are valid Unicode and forge no turn.

    Args:
        rows: usable ones of any form.
        dropped: counts the others by what was found.
        special_tokens: of the tokenizer in use, beside those of the usual families.
    """
    control, kept = control_tokens(special_tokens), []
    for row in rows:
        found = next(filter(None, (control.search(message["content"]) for message in _messages(row))), None)
        if not all(map(is_unicode, texts_in(row))):
            dropped[HALF_A_CHARACTER] += 1
        elif found:
            dropped[f"{CONTROL_TOKEN}, {found[0]}"] += 1
        else:
            kept.append(row)
    return kept


def _messages(row: Row) -> list[Row]:
    return [message for part in _PARTS if part in row for message in row[part]]


def _once(rows: list[Row], dropped: Counter[str]) -> list[Row]:
    """Return the rows without repetitions."""
    seen: dict[tuple[str, object], Row] = {}
    for row in rows:
        seen.setdefault((text_key(_messages(row)), row.get("label")), row)
    if len(seen) < len(rows):
        dropped["duplicate"] += len(rows) - len(seen)
    return list(seen.values())
