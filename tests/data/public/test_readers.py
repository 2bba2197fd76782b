"""Files as people really have them: what is read, and the one sentence for what cannot be."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.public.readers import file_kind, read_file
from posttrain_helpers.errors import CourseError

ROWS = [{"question": "What colour?", "answer": "Yellow, é 🍋"}, {"question": "Where?", "answer": "0042"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
TABLE = 'question,answer\nWhat colour?,"Yellow, é 🍋"\nWhere?,0042\n'


def rows_of(directory: Path, name: str, content: str | bytes) -> list[dict[str, Any]]:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("faq.json", json.dumps(ROWS, indent=2)),
        ("faq.json", LINES),
        ("faq.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}, indent=1)),
        ("faq.jsonl", json.dumps(ROWS)),
        ("faq.jsonl", "\n" + json.dumps(ROWS, indent=2)),
        ("faq.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("faq.NDJSON", LINES),
        ("[work] data/{faq}.csv", TABLE),
        ("FAQ.CSV", TABLE.replace("\n", "\r\n")),
        ("old mac.csv", TABLE.replace("\n", "\r")),
        ("excel.csv", "\ufeff" + TABLE.replace(",", ";").replace("Yellow;", "Yellow,")),
        ("faq.csv", "\n" + TABLE.replace("\n", "\n\n")),
        ("faq.csv", TABLE.replace("question,answer", " question , answer")),
        ("faq.csv", 'question\tanswer\nWhat colour?\t"Yellow, é 🍋"\nWhere?\t0042'),
        ("faq.tsv", "question\tanswer\nWhat colour?\tYellow, é 🍋\nWhere?\t0042\n"),
        ("faq.tsv", TABLE),
    ],
)
def test_what_a_file_holds_decides(tmp_path: Path, name: str, content: str) -> None:
    assert rows_of(tmp_path, name, content) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("name", "text"), [("faq.jsonl", LINES), ("faq.csv", TABLE)])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    assert rows_of(tmp_path, name, text.encode(encoding)) == ROWS
    big_endian = {"utf-16": b"\xfe\xff", "utf-32": b"\0\0\xfe\xff"}
    if encoding in big_endian:
        assert rows_of(tmp_path, name, big_endian[encoding] + text.encode(f"{encoding}-be")) == ROWS


@pytest.mark.parametrize(("ending", "module"), [("gz", gzip), ("bz2", bz2), ("XZ", lzma)])
@pytest.mark.parametrize(("name", "text"), [("faq.jsonl", LINES), ("faq.csv", TABLE), ("faq.json", LINES)])
def test_compressed_files(tmp_path: Path, name: str, text: str, ending: str, module: Any) -> None:
    packed = module.compress(text.encode())
    assert rows_of(tmp_path, f"{name}.{ending}", packed) == ROWS
    assert rows_of(tmp_path, name, packed) == ROWS  # unpacked by a browser, it would not begin like this
    assert rows_of(tmp_path, f"{name}.{ending}", text) == ROWS
    with pytest.raises(CourseError, match=r"is compressed, but damaged or cut off \(.+\); download"):
        rows_of(tmp_path, f"{name}.{ending}", packed[:-10])


@pytest.mark.parametrize(
    "cell",
    [
        *("0042", "8", "", "NA", "None", "nan", "null", "1e5", "12345678901234567890123", "0.10", "True"),
        *(" x ", "two\nlines", "two\r\nlines", 'a "quoted" word', "x" * 200_000),
    ],
)
def test_a_cell_is_the_text_of_the_file(tmp_path: Path, cell: str) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    content = f"question,answer\nq,{quoted}\nr,7\n"
    assert rows_of(tmp_path, "faq.csv", content) == [
        {"question": "q", "answer": cell},
        {"question": "r", "answer": "7"},
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "b"}]},
        {"answers": ["a", "b"], "question": "c"},
        {"answers": ["a", "b"]},
        {"answers": [], "questions": []},
        {"answers": ["a", "b"], "questions": ["c"]},
    ],
)
def test_one_row_of_lists_is_no_table(tmp_path: Path, row: dict[str, Any]) -> None:
    assert rows_of(tmp_path, "one.jsonl", json.dumps(row)) == [row]


def test_columns_without_a_name_are_kept(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "faq.csv", ",question,\n0,q,x\n") == [
        {"column 1": "0", "question": "q", "column 3": "x"}
    ]


def test_files_without_rows(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "question,answer\n"),
        ("a.jsonl", ""),
        ("a.json", " \n"),
        ("b.json", "[]"),
    ):
        assert rows_of(tmp_path, name, content) == []


def test_large_numbers_and_nan_of_json(tmp_path: Path) -> None:
    large = 123456789012345678901234567890
    text = f'{{"n": {large}, "m": NaN, "w": -Infinity}}'
    assert rows_of(tmp_path, "a.jsonl", text) == [{"n": large, "m": None, "w": -float("inf")}]


TABLE_ERROR = r"could not be read as csv: {}.*; correct the file, or write it as \.jsonl\.$"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "", TABLE_ERROR.format("it is empty")),
        ("a.csv", "a,b,a\n1,2,3", TABLE_ERROR.format("its header has the column 'a' twice")),
        (
            "a.csv",
            "a,b\n1,2\n1,2,3\n",
            TABLE_ERROR.format("the row in line 3 has 3 cells, but the header has 2"),
        ),
        ("a.csv", "a,b\n1,2\n\n1\n", TABLE_ERROR.format("the row in line 4 has 1 cell, but")),
        ("a.csv", 'a,b\n1,2\n1,"x\n2,y\n', TABLE_ERROR.format("the quotes of the row that begins in line 3")),
        (
            "a.csv",
            'a,b\n1,"say \\"hi\\""\n',
            TABLE_ERROR.format("the quotes of the row that begins in line 2"),
        ),
        ("a.csv", "a,b\n1,\0\n", "holds a zero byte in line 2"),
        ("a.jsonl", '{"a": 1}\n\0\0\0', "holds a zero byte in line 2"),
        ("a.jsonl", LINES.encode("utf-16-le"), "zero byte in line 1.*UTF-16 without a byte-order mark"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": "\xe9"}',
            r"not valid UTF-8: the byte 0xe9 in line 2 \(byte 17 of .*iconv",
        ),
        ("a.csv", b"a,b\r\n1,\xe9\r\n", r"not valid UTF-8: the byte 0xe9 in line 2 \(byte 8 of the file\)"),
        (
            "a.csv",
            TABLE.encode("utf-16")[:-1],
            "not valid UTF-16-LE: .* in line 3 .*; it is damaged or cut off",
        ),
        ("a.jsonl", '{"a": 1}\n\n{"a": ', "not valid JSONL: Expecting value at line 3, column 7; correct"),
        ("a.json", '[{"a": 1},\n{"a": 2}', "not valid JSON: Expecting ',' delimiter at line 2, column 9"),
        ("a.jsonl", f'{{"a": 1}}\n{{"a": {"1" * 5000}}}', "not valid JSONL: Exceeds the limit .* at line 2"),
        ("a.jsonl", "[" * 100_000, "nests brackets too deeply"),
        ("a.json", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nests brackets too deeply"),
        ("a.jsonl", '{"a": 1}\nnull', "must hold one JSON object per row, but row 2 is 'None'"),
        ("a.json", "[1, 2]", "must hold one JSON object per row, but row 1 is '1'"),
        ("a.jsonl", '{"\\ud83d": 1}', r"the key '\\ud83d' in row 1 holds half a character"),
        ("a.parquet", "no table", "could not be read as parquet: .+; correct the file"),
        (
            "a.xlsx",
            "PK",
            "has an ending that no reader is known for; rename or convert it to one of .json, .jsonl",
        ),
        ("a.parquet.gz", "", "has an ending that no reader is known for"),
    ],
)
def test_what_cannot_be_read_ends_in_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(CourseError, match=sentence) as raised:
        rows_of(tmp_path, name, content)
    text = str(raised.value)
    assert str(tmp_path / name) in text
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_file_that_must_not_be_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, who may open everything.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    with pytest.raises(CourseError, match=f"{name} (cannot|could not) be read.*Permission denied"):
        read_file(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_chosen_rows_of_a_table(tmp_path: Path, name: str) -> None:
    import pandas

    table = pandas.DataFrame({"n": [str(number) for number in range(70_000)]})
    path = tmp_path / name
    table.to_parquet(path, row_group_size=1000) if path.suffix == ".parquet" else table.to_csv(
        path, index=False
    )
    chosen = [0, 5, 65_535, 65_536, 69_999]

    def choose(count: int) -> list[int]:
        assert count == 70_000
        return chosen

    assert [row["n"] for row in read_file(path, choose)] == [str(number) for number in chosen]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("a.Jsonl", "json"), ("a.b.csv.GZ", "csv"), ("x/a.tsv", "tsv"), ("a.parquet", "parquet")),
        *((name, None) for name in ("gz", "a.gz", "a.jsonlx", "OpenHermes-2.5", "")),
    ],
)
def test_the_ending_names_the_kind(name: str, kind: str | None) -> None:
    assert file_kind(name) == kind
