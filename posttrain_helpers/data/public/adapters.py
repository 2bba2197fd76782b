"""Choosing and applying an adapter: how the columns of public data sets become TRL's rows.

    data: {source: tatsu-lab/alpaca}                                   # found by the Hub id
    data: {source: mine.jsonl, adapter: alpaca}                        # a file with the same columns
    data: {source: mine.csv, columns: {prompt: question, reply: text}}  # any other columns

`catalog.ADAPTERS` holds them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from posttrain_helpers.data.public.catalog import ADAPTERS, Adapter
from posttrain_helpers.data.public.converters import (
    is_transcript,
    split_transcript,
    transcript_pair,
)
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row
from posttrain_helpers.wording import suggestion

_BESIDE_PROMPT = ("system", "context")
# The fields that rows of each kind are made of: alternatives of what is needed and what may be added to it.
FIELDS = {
    "conversations": ((("messages",), ()), (("prompt", "reply"), _BESIDE_PROMPT)),
    "pairs": ((("prompt", "chosen", "rejected"), _BESIDE_PROMPT), (("chosen", "rejected"), ())),
    "labels": ((("prompt", "completion", "label"), _BESIDE_PROMPT),),
    "prompts": ((("prompt",), ("answer", *_BESIDE_PROMPT)),),
}

_BY_HUB_ID = {adapter.hub_id.lower(): adapter for adapter in ADAPTERS.values()}


def licence_of(source: str) -> str | None:
    """Return the licence that the catalogue knows of a set on the Hub, None for another or a file."""
    adapter = _BY_HUB_ID.get(source.lower())
    return adapter.licence if adapter else None


def find_adapter(source: str, data: Mapping[str, object]) -> Adapter | None:
    """Return the adapter of a data section: the named one, its column mapping, or that of the Hub id.

    Args:
        source: a Hub id, in any case, or a file.
        data: the section, its types checked; `adapter`, `columns` and `answer_format` count.

    Returns:
        The adapter, None where the rows should have one of TRL's own forms already.

    Raises:
        CourseError: an unknown adapter or field, fields that make no kind of row, or two of the keys.
    """
    named = [key for key in ("adapter", "answer_format", "columns") if data.get(key) is not None]
    if len(named) > 1:
        raise CourseError(
            f"data.{named[0]} and data.{named[1]} both say how to read the columns; keep one of them."
        )
    if not named:
        return _BY_HUB_ID.get(source.lower())
    if named == ["columns"]:
        return mapping_adapter(data["columns"])
    name = data[named[0]]
    if name not in ADAPTERS:
        raise CourseError(
            f"data.adapter {name!r} does not exist{suggestion(name, ADAPTERS)}The adapters are "
            f"{', '.join(ADAPTERS)}; for other columns set data.columns."
        )
    return ADAPTERS[name]


def mapping_adapter(columns: Mapping[str, str]) -> Adapter:
    """Return the adapter of a column mapping, such as {"prompt": "question", "reply": "text"}.

    Raises:
        CourseError: an unknown field, or fields that make no kind of row.
    """
    known = dict.fromkeys(
        field for forms in FIELDS.values() for needed, more in forms for field in (*needed, *more)
    )
    if unknown := [field for field in columns if field not in known]:
        raise CourseError(
            f"data.columns: the field {unknown[0]!r} does not exist{suggestion(unknown[0], known)}The fields "
            f"are {', '.join(known)}."
        )
    for kind, forms in FIELDS.items():
        for needed, more in forms:
            if set(needed) <= columns.keys() <= {*needed, *more}:
                return Adapter("columns", kind, None, columns)
    wanted = "; ".join(
        f"{' or '.join('+'.join(needed) for needed, _ in forms)} for {kind}" for kind, forms in FIELDS.items()
    )
    raise CourseError(f"data.columns has the fields {', '.join(columns)}, which make no row; set {wanted}.")


# TRL's forms, as fields and their columns.
_TRL_FORMS = (
    {name: name for name in ("prompt", "chosen", "rejected")},
    {name: name for name in ("prompt", "completion", "label")},
    {"prompt": "prompt", "reply": "completion"},
)


def text_adapter(rows: list[Row]) -> Adapter | None:
    """Return the adapter of rows in one of TRL's forms whose replies are texts, None for other rows.

    A text is then one message: a prompt the user's, a reply the assistant's. Pairs and labelled replies that
    are messages already need no adapter, and transcripts of several turns in one text, where most rows have
    them, need another one.
    """
    if not rows or "messages" in rows[0]:
        return None
    fields = next((form for form in _TRL_FORMS if rows[0].keys() >= set(form.values())), None)
    if fields is None:
        return None
    texts = [column for field, column in fields.items() if field != "label"]
    if "reply" not in fields and any(
        not isinstance(row.get(name), str | None) for row in rows for name in texts[1:]
    ):
        return None
    if any(2 * sum(is_transcript(row.get(name)) for row in rows) > len(rows) for name in texts):
        return None
    beside = {"system": "system"} if any(row.get("system") for row in rows) else {}
    return mapping_adapter(fields | beside)


def convert(adapter: Adapter, rows: list[Row], source: str) -> tuple[list[Row], Counter[str]]:
    """Return rows in the form of an adapter's kind, and for each fault the number of rows dropped.

    Args:
        source: what to call the rows in an error.

    Raises:
        CourseError: a row lacks a column.
    """
    kept, dropped = [], Counter()
    mapped = set(adapter.columns.values())
    _check_columns(adapter, rows, source)
    for row in rows:
        fields = {field: row[column] for field, column in adapter.columns.items() if column in row}
        converted = adapter.converter(fields)
        if isinstance(converted, str):
            dropped[converted] += 1
        elif adapter.kind == "prompts":  # reward functions may read the other columns
            kept.append({**{key: row[key] for key in row if key not in mapped}, **converted})
        else:
            kept.append(converted)
    return kept, dropped


def _check_columns(adapter: Adapter, rows: list[Row], source: str) -> None:
    shipped = adapter.name in ADAPTERS
    # What a reader maps is meant, so a column that no row has is a mistake.
    known = {column for row in rows for column in row}
    unknown = [column for column in adapter.columns.values() if column not in known and not shipped]
    for row in rows:
        missing = unknown or [column for column in adapter.needed if column not in row]
        if missing:
            reader = f"the adapter {adapter.name!r}" if shipped else "data.columns"
            raise CourseError(
                f"{source!r} has no column {missing[0]!r} in every row, which {reader} names; found the "
                f"columns {', '.join(map(str, row))}. {advice(row, adapter.kind)}"
            )


# Which adapters can serve a method that needs a kind of rows.
_SERVING = {
    "conversations": ("conversations", "pairs", "labels"),
    "pairs": ("pairs",),
    "labels": ("labels", "pairs"),
    "prompts": ("prompts", "conversations", "pairs", "labels"),
}
_EXAMPLES = {
    "conversations": "{prompt: <column>, reply: <column>}",
    "pairs": "{prompt: <column>, chosen: <column>, rejected: <column>}",
    "labels": "{prompt: <column>, completion: <column>, label: <column>}",
    "prompts": "{prompt: <column>}",
}


def serves(kind: str, needed: str) -> bool:
    """Say whether rows of a kind can be made into those that a method needs."""
    return kind in _SERVING[needed]


def advice(row: Row, needed: str) -> str:
    """Return what to do about a row whose columns are not those of the kind that a method needs."""
    fitting = [
        adapter for adapter in ADAPTERS.values() if serves(adapter.kind, needed) and _fits(adapter, row)
    ]
    found = "Map"
    if fitting:
        best = max(fitting, key=lambda adapter: len(row.keys() & set(adapter.columns.values())))
        found = f"Its columns are those of the adapter {best.name!r}: set data.adapter to it. Else map"
    return f"{found} the columns with data.columns={_EXAMPLES[needed]}."


def _fits(adapter: Adapter, row: Row) -> bool:
    """Say whether a row has an adapter's columns; chosen and rejected alone are told by what they hold."""
    if not row.keys() >= set(adapter.needed):
        return False
    if adapter.kind != "pairs" or "prompt" in adapter.columns:
        return True
    if adapter.converter is transcript_pair:
        return split_transcript(row["chosen"]) is not None
    return not isinstance(row["chosen"], str)
