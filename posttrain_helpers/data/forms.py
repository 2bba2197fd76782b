"""The four forms of rows: the messages of each, the way from one to another, and a system prompt for all.

`dropped` counts what is lost on the way, by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable

from posttrain_helpers.messages import Row, control_tokens, is_unicode, text_key, texts_in

# Where the messages of a row stand; a row of prompts may have further columns of any name.
PARTS = {
    "conversations": ("messages",),
    "pairs": ("prompt", "chosen", "rejected"),
    "labels": ("prompt", "completion"),
    "prompts": ("prompt",),
}
_BESIDE_PAIRS = ("chosen", "rejected", "score_chosen", "score_rejected")
HALF_A_CHARACTER, CONTROL_TOKEN = "half a character in a text", "control token in a text"


def turns(row: Row, form: str) -> list[Row]:
    """Return the messages of a usable row, the reply last: of a pair the better one, of a prompt none yet."""
    if form == "prompts":
        return [*row["prompt"], {"role": "assistant", "content": ""}]
    return [message for part in PARTS[form][:2] for message in row[part]]


def identity(row: Row, form: str) -> Hashable:
    """Return what is equal for usable rows that say the same."""
    return text_key(_messages(row, form)), form == "labels" and row["label"]


def held_out_item(row: Row, form: str, identifier: str) -> Row:
    """Return a usable row as a held-out item.

    Its reply is the reference, unless it is undesirable. Pairs keep both replies and their ratings, prompts
    all their columns.
    """
    if form == "prompts":
        return {**row, "id": identifier, "task": row.get("task") or "prompt", "answer": row.get("answer")}
    *prompt, reply = turns(row, form)
    return {
        "id": identifier,
        "task": "preference" if form == "pairs" else "conversation",
        "prompt": prompt,
        "answer": None,
        "reference": reply["content"] if row.get("label", True) else None,
        **{key: row[key] for key in _BESIDE_PAIRS if key in row},
    }


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
    """
    if wanted == "conversations":
        kept = [row for row in rows if row["label"]]
        dropped["undesirable reply"] += len(rows) - len(kept)
        return [{"messages": row["prompt"] + row["completion"]} for row in kept]
    prompts = [_before_reply(row["messages"]) if form == "conversations" else row["prompt"] for row in rows]
    usable = [{"prompt": prompt} for prompt in prompts if prompt]
    dropped["empty prompt"] += len(rows) - len(usable)
    return _once(usable, wanted, dropped)


def _before_reply(messages: list[Row]) -> list[Row]:
    """Return the messages up to the last of the user's."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    return messages[: users[-1] + 1] if users else []


def set_system_prompt(rows: list[Row], form: str, text: str | None, dropped: Counter[str]) -> list[Row]:
    """Give every row the same system turn; rows that differed in their own only become duplicates.

    Args:
        rows: usable ones.
        text: the system turn; empty takes it away, None leaves the rows as they are.
    """
    if text is None:
        return rows
    turn = [{"role": "system", "content": text.strip()}] if text.strip() else []
    key, changed = PARTS[form][0], []
    for row in rows:
        own = row[key][1:] if row[key][0]["role"] == "system" else row[key]
        changed.append({**row, key: turn + own})
    return _once(changed, form, dropped)


def with_clean_texts(
    rows: list[Row], form: str, dropped: Counter[str], special_tokens: Collection[str] = ()
) -> list[Row]:
    """Keep rows whose texts are valid Unicode and forge no turn.

    Args:
        rows: usable ones.
        special_tokens: of the tokenizer in use, beside those of the usual families.
    """
    control, kept = control_tokens(special_tokens), []
    for row in rows:
        texts = [message["content"] for message in _messages(row, form)]
        found = next(filter(None, map(control.search, texts)), None)
        if not all(map(is_unicode, texts_in(row))):
            dropped[HALF_A_CHARACTER] += 1
        elif found:
            dropped[f"{CONTROL_TOKEN}, {found[0]}"] += 1
        else:
            kept.append(row)
    return kept


def _messages(row: Row, form: str) -> list[Row]:
    return [message for part in PARTS[form] for message in row[part]]


def _once(rows: list[Row], form: str, dropped: Counter[str]) -> list[Row]:
    """Return the rows without repetitions."""
    seen: dict[Hashable, Row] = {}
    for row in rows:
        seen.setdefault(identity(row, form), row)
    dropped["duplicate"] += len(rows) - len(seen)
    return list(seen.values())
