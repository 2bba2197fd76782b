"""Rows of one file on this machine, read without any cache and with every cell as the file has it.

What the file holds goes before what its name says: a byte-order mark names the encoding, the first bytes the
compression, the header the delimiter, and a list of objects is told from one object per line, and from one
object of columns.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row, is_unicode
from posttrain_helpers.wording import counted

# The name's ending -> how such a file is read.
_KINDS = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"},
}
_COMPRESSED = {
    ".gz": (b"\x1f\x8b", gzip.decompress),
    ".bz2": (b"BZh", bz2.decompress),
    ".xz": (b"\xfd7zXZ\x00", lzma.decompress),
}
READABLE = f"{', '.join(_KINDS)} (a text file also with {', '.join(_COMPRESSED)} behind that)"
# UTF-32's mark begins with that of UTF-16, so it goes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|"}
_UNNAMED = "column {}"


def file_kind(name: str) -> str | None:
    """Return how a file of this name is read: "json", "csv", "tsv" or "parquet", None for no known ending."""
    path = PurePath(name)
    compressed = path.suffix.lower() in _COMPRESSED
    kind = _KINDS.get((path.with_suffix("") if compressed else path).suffix.lower())
    return None if compressed and kind == "parquet" else kind  # it is compressed within


def read_file(path: Path, choose: Callable[[int], list[int]] | None = None) -> list[Row]:
    """Return the rows of a file.

    Args:
        path: a file with one of the `READABLE` endings, in any case.
        choose: is given the number of rows and returns the sorted numbers of those to take; None takes all.

    Returns:
        One mapping for each row. Cells of .csv and .tsv files are texts, an empty one the empty text.

    Raises:
        CourseError: another ending, or a file that cannot be opened, decoded or parsed.
    """
    kind = file_kind(path.name)
    if kind is None:
        raise CourseError(
            f"{path} has an ending that no reader is known for; rename or convert it to one of {READABLE}."
        )
    if kind == "parquet":
        return _parquet_rows(path, choose)
    text = _decoded(_content(path), path)
    rows = _json_rows(text, path) if kind == "json" else _table_rows(text, path, kind)
    return rows if choose is None else [rows[number] for number in choose(len(rows))]


def _content(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if they are compressed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or give another file."
        ) from error
    for mark, decompress in _COMPRESSED.values():
        if content.startswith(mark):
            try:
                return decompress(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise CourseError(
                    f"{path} is compressed, but damaged or cut off ({error}); download or write it again."
                ) from error
    return content


def _decoded(content: bytes, path: Path) -> str:
    """Return bytes as text: UTF-8, or what a byte-order mark says."""
    mark, encoding = next((pair for pair in _MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    content = content.removeprefix(mark)
    try:
        text, failure = content.decode(encoding), None
    except UnicodeDecodeError as error:
        text, failure = content.decode(encoding, errors="replace"), error
    if "\0" in text:  # first, as it says more about the encoding than a byte that does not fit
        raise CourseError(
            f"{path} holds a zero byte in line {_line(text[: text.index(chr(0))])}, so it is no text in "
            "UTF-8: it is damaged, or has another encoding, such as UTF-16 without a byte-order mark; save "
            "it as UTF-8."
        ) from failure
    if failure:
        line = _line(content[: failure.start].decode(encoding, errors="replace"))
        remedy = (
            "it is damaged or cut off; write it again, best as UTF-8"
            if mark
            else "save the file as UTF-8: in an editor with 'Save with encoding', in Excel as 'CSV UTF-8', "
            "or with `iconv -f latin1 -t utf-8`"
        )
        raise CourseError(
            f"{path} is not valid {encoding.upper()}: the byte 0x{content[failure.start]:02x} in line {line} "
            f"(byte {len(mark) + failure.start + 1} of the file) is no part of a character; {remedy}."
        ) from failure
    return text


def _line(before: str) -> int:
    """Return the number of the line that a text ends in."""
    return before.count("\n") + 1


def _json_rows(text: str, path: Path) -> list[Row]:
    try:
        values = _json_values(text)
        if len(values) == 1 and _is_table(values[0]):
            names = list(values[0])
            return [dict(zip(names, cells, strict=True)) for cells in zip(*values[0].values(), strict=True)]
        for number, row in enumerate(values, start=1):
            if not isinstance(row, dict):
                raise CourseError(
                    f"{path} must hold one JSON object per row, but row {number} is {str(row)[:60]!r}; write "
                    "a list of objects, or one per line."
                )
            for key in row:
                if not is_unicode(key):
                    raise CourseError(
                        f"{path}: the key {key!r} in row {number} holds half a character; correct it."
                    )
    except json.JSONDecodeError as error:
        raise CourseError(
            f"{path} is not valid {'JSON' if _is_list(text) else 'JSONL'}: {error.msg} at "
            f"line {error.lineno}, column {error.colno}; correct that line."
        ) from error
    except RecursionError as error:
        raise CourseError(
            f"{path} nests brackets too deeply to be rows of data; look for a line of many brackets and "
            "correct it."
        ) from error
    return values


def _json_values(text: str) -> list[Any]:
    """Return the elements of a list or the values of the lines; one value may stand over several lines."""
    try:
        values = list(_json_lines(text))
    except json.JSONDecodeError as error_by_lines:
        try:
            values = [_json_value(text, 1)]
        except json.JSONDecodeError as error_of_whole:
            raise error_of_whole if _is_list(text) else error_by_lines from None
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _is_table(value: Any) -> bool:
    """Say whether this is one object of equally long columns, as pandas and `datasets` write a table.

    A single row may hold lists too: of messages, or one list.
    """
    if not isinstance(value, dict) or len(value) < 2 or not all(isinstance(c, list) for c in value.values()):
        return False
    lengths, cells = {len(column) for column in value.values()}, [cell for c in value.values() for cell in c]
    return len(lengths) == 1 and bool(cells) and not any(isinstance(cell, list | dict) for cell in cells)


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("[")


def _json_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json_value(line, number)


def _json_value(text: str, line: int) -> Any:
    """Return the value of a text that begins in a line of its file, for which errors have to count."""
    try:
        return json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as error:
        error.lineno += line - 1
        raise
    except ValueError as error:  # Python refuses numbers of thousands of digits
        failure = json.JSONDecodeError(str(error).partition(";")[0], text, 0)
        failure.lineno = line
        raise failure from error


def _constant(name: str) -> float | None:
    """Read what is no JSON but what Python writes: NaN is for what is missing, and infinities are numbers."""
    return None if name == "NaN" else float(name)


def _table_rows(text: str, path: Path, kind: str) -> list[Row]:
    limit = csv.field_size_limit(len(text) + 1)  # its own limit is far below a long conversation's length
    try:
        records = _records(text, path, _delimiter(text, kind))
        _, header = next(records, (0, []))
        if not header:
            raise _not_a_table(path, kind, "it is empty")
        names = [name.strip() or _UNNAMED.format(place) for place, name in enumerate(header, start=1)]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise _not_a_table(path, kind, f"its header has the column {twice[0]!r} twice")
        rows = []
        for line, cells in records:
            if len(cells) != len(names):
                raise _not_a_table(
                    path,
                    kind,
                    f"the row in line {line} has {counted(len(cells), 'cell')}, but the header has "
                    f"{counted(len(names), 'column')}, and a text that holds the delimiter or a line break "
                    "needs quotes",
                )
            rows.append(dict(zip(names, cells, strict=True)))
        return rows
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str, kind: str) -> str:
    """Return the sign that gives the header most columns; Excel writes semicolons in much of Europe."""

    def columns(sign: str) -> int:
        return len(next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=sign), []))

    return max(_DELIMITERS[kind], key=columns)


def _records(text: str, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row begins and its cells; empty lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _not_a_table(
            path,
            "csv",
            f"the quotes of the row that begins in line {line} do not match ({error}), and a quote inside a "
            "quoted text is written twice",
        ) from error


def _parquet_rows(path: Path, choose: Callable[[int], list[int]] | None) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            count = file.metadata.num_rows
            chosen = range(count) if choose is None else choose(count)
            rows, start = [], 0
            for batch in file.iter_batches():
                end = start + batch.num_rows
                taken = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
                rows += batch.take(pyarrow.array([number - start for number in taken], "int64")).to_pylist()
                start = end
            return rows
    except (OSError, pyarrow.ArrowException) as error:
        raise _not_a_table(path, "parquet", str(error).partition("\n")[0].rstrip(".")) from error


def _not_a_table(path: Path, kind: str, reason: str) -> CourseError:
    return CourseError(
        f"{path} could not be read as {kind}: {reason}; correct the file, or write it as .jsonl."
    )
