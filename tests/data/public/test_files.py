from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.public.catalog import ADAPTERS
from posttrain_helpers.data.public.files import local_file, read_rows
from posttrain_helpers.errors import CourseError

ROWS = [{"question": f"question {number}, is it?", "reply": f"{number}\nlines"} for number in range(30)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what `datasets` and the Hub cache below the test's own directory."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    yield
    shutil.rmtree(tmp_path / "arrow", ignore_errors=True)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".parquet", ".csv"):
        dataset = Dataset.from_list(rows)
        (dataset.to_parquet if path.suffix == ".parquet" else dataset.to_csv)(str(path))
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
        path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "csv"])
def test_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    assert read_rows(write(tmp_path / f"rows.{ending}", ROWS), {}, None, 0) == ROWS


def test_a_table_keeps_messages_and_its_changes_are_seen(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert read_rows(write(tmp_path / "rows.parquet", rows), {}, None, 0) == rows
    assert read_rows(write(tmp_path / "rows.parquet", rows * 2), {}, None, 0) == rows * 2


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_broken_tables(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b"" if ending == "csv" else b"no table")
    with pytest.raises(
        CourseError, match=rf"rows\.{ending} could not be read as {ending}: .+; correct the file"
    ):
        read_rows(str(path), {}, None, 0)


@pytest.mark.parametrize(
    "name",
    [
        *("no/such.csv", "no/such.parquet", "no/such.JSONL", "such.csv.gz", "no/such.txt", "such.xlsx"),
        *("/no/such", "./such", "such/../rows", "[work] data/such", "no/such/rows", "~nobody/such.csv"),
        *("no\0such.csv", "x" * 5000 + ".csv"),
    ],
)
def test_missing_files(name: str) -> None:
    with pytest.raises(CourseError, match=r"the data file .* does not exist \(looked in"):
        local_file(name)


@pytest.mark.parametrize("name", ["tatsu-lab/alpaca", "squad", "teknium/OpenHermes-2.5", "someone/v1.0_chat"])
def test_what_may_be_a_hub_id_is_no_missing_file(name: str) -> None:
    assert local_file(name) is None


def test_directories_links_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").mkdir()
    for name in ("data.csv", str(tmp_path / "data.csv")):
        with pytest.raises(CourseError, match=r"is a directory; name one file in data\.source; a file ends"):
            local_file(name)
    write(tmp_path / "data.csv" / "faq.jsonl", ROWS)
    with pytest.raises(CourseError, match=r"'data\.csv' is a directory; .*, such as 'faq\.jsonl'\.$"):
        local_file("data.csv")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "data.csv" / "faq.jsonl")
    assert read_rows("link.jsonl", {}, None, 0) == ROWS
    for name, target in (("broken.jsonl", "gone"), ("loop.jsonl", "loop.jsonl")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(CourseError, match=rf"'{name}' does not exist"):
            local_file(name)
    with pytest.raises(CourseError, match="is an address; download the file"):
        local_file("https://example.org/faq.csv")


@pytest.mark.slow
def test_a_file_needs_no_cache(tmp_path: Path) -> None:
    """In a process of its own, as the libraries look for their caches when they are imported."""
    path = write(tmp_path / "[1] rows.parquet", [{"prompt": f"{n}?", "answer": n} for n in range(3)])
    table = tmp_path / "rows.csv"
    table.write_text("question,answer,label\na?,b,True\nc?,d,False\n", encoding="utf-8")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, so that no directory can be made below it", encoding="utf-8")
    script = f"""
from posttrain_helpers.data.loading import load_data
from posttrain_helpers.recipes import load_recipe
for name, source, columns in (
    ("grpo", {path!r}, None),
    ("sft", {str(table)!r}, {{"prompt": "question", "reply": "answer"}}),
    ("kto", {str(table)!r}, {{"prompt": "question", "completion": "answer", "label": "label"}}),
):
    changes = {{"data.source": source, **({{"data.columns": columns}} if columns else {{}})}}
    print(len(load_data(load_recipe(name, "tiny", changes), verbose=False)[0]))
"""
    home, output = tmp_path / "home", tmp_path / "output"
    home.mkdir()
    variables = {"HF_HOME": str(blocked / "hf"), "HOME": str(home), "POSTTRAIN_OUTPUT": str(output)}
    variables |= {"XDG_CACHE_HOME": str(blocked / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["3", "2", "2"], done.stderr
    assert not list(home.iterdir())


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"split": "test"}, "data.split choose a part"),
        ({"subset": "main", "revision": "v1"}, "data.subset and data.revision choose"),
    ],
)
def test_a_file_has_no_parts(tmp_path: Path, ending: str, data: dict, words: str) -> None:
    path = write(tmp_path / f"rows.{ending}", ROWS)
    with pytest.raises(CourseError, match=words):
        read_rows(path, data, None, 0)
    assert read_rows(path, dict.fromkeys(data), None, 0) == ROWS


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_rows_of_a_large_file_are_drawn_by_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    path = write(tmp_path / f"rows.{ending}", ROWS)
    drawn = read_rows(path, {}, None, 1, most=10)
    assert capsys.readouterr().out.startswith("data: 10 of 30 rows are drawn")
    assert len(drawn) == 10
    assert all(row in ROWS for row in drawn)
    assert drawn == read_rows(path, {}, None, 1, most=10)
    assert drawn != read_rows(path, {}, None, 2, most=10)
    capsys.readouterr()
    assert read_rows(path, {}, None, 1, most=30) == ROWS
    assert not capsys.readouterr().out


def cached(tmp_path: Path, hub_id: str, files: dict[str, list[dict[str, Any]]]) -> None:
    """Put a data set into the Hub cache."""
    folder = tmp_path / "hub" / f"datasets--{hub_id.replace('/', '--')}"
    for name, rows in files.items():
        write(folder / "snapshots" / ("0" * 40) / name, rows)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")


@pytest.mark.parametrize("name", ["ultrachat", "ultrafeedback_h4", "dolly"])
def test_the_adapter_names_the_split(tmp_path: Path, name: str) -> None:
    adapter = ADAPTERS[name]
    hub_id = adapter.hub_id
    others = {"ultrachat": "test_sft", "ultrafeedback_h4": "test_prefs", "dolly": "test"}
    files = {f"data/{adapter.split}-0.parquet": ROWS, f"data/{others[name]}-0.parquet": ROWS[:3]}
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: data/{split}-*\n" for split in (adapter.split, others[name])
    )
    cached(tmp_path, hub_id, files)
    [snapshot] = (tmp_path / "hub").glob("*/snapshots/*")
    (snapshot / "README.md").write_text(f"{card}---\n", encoding="utf-8")
    assert read_rows(hub_id, {}, adapter, 0) == ROWS
    assert read_rows(hub_id, {"split": others[name]}, adapter, 0) == ROWS[:3]
    with pytest.raises(CourseError, match=f"'{hub_id}' could not be read as split 'tset'"):
        read_rows(hub_id, {"split": "tset"}, adapter, 0)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("README.md", "Nothing here.", "doesn't contain any data files; correct data.split"),
        ("0" * 40 + ".py", "import datasets", "scripts are no longer supported"),
        ("train.jsonl", '{"a": 1}\n{"a":\n', "JSON parse error"),
    ],
)
def test_a_set_that_cannot_be_read(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    cached(tmp_path, "some/set", {"README.md": []})  # of no rows and no metadata
    [snapshot] = (tmp_path / "hub").glob("*/snapshots/*")
    (snapshot / name).write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=f"'some/set' could not be read as split 'train': .*{sentence}"):
        read_rows("some/set", {}, None, 0)


def test_other_columns_in_one_file_are_one_sentence(tmp_path: Path) -> None:
    cached(tmp_path, "some/set", {"train-1.jsonl": [{"a": 1}], "train-2.jsonl": [{"b": {"c": 1}}]})
    with pytest.raises(CourseError, match=r"column names don't match; correct") as caught:
        read_rows("some/set", {}, None, 0)
    assert "\n" not in str(caught.value)


def test_a_subset_may_be_a_folder(tmp_path: Path) -> None:
    cached(
        tmp_path,
        "Anthropic/hh-rlhf",
        {
            "helpful-base/train.jsonl": ROWS[:4],
            "harmless-base/train.jsonl": ROWS[4:9],
            "harmless-base/test.jsonl": ROWS[9:],
            "red-team-attempts/red_team_attempts.jsonl": [{"min_harmlessness_score": 0.5}],
        },
    )
    adapter = ADAPTERS["hh_rlhf"]
    whole = read_rows("Anthropic/hh-rlhf", {}, adapter, 0)
    assert sorted(row["reply"] for row in whole) == sorted(row["reply"] for row in ROWS[:9])
    assert read_rows("Anthropic/hh-rlhf", {"subset": "helpful-base"}, adapter, 0) == ROWS[:4]
    assert read_rows("Anthropic/hh-rlhf", {"subset": "harmless-base"}, adapter, 0) == ROWS[4:9]
    with pytest.raises(CourseError, match="of subset 'helpless-base'"):
        read_rows("Anthropic/hh-rlhf", {"subset": "helpless-base"}, adapter, 0)


def test_a_configuration_goes_before_a_folder_of_its_name(tmp_path: Path) -> None:
    files = {"data/main-0.parquet": ROWS, "data/other-0.parquet": ROWS[:2], "main/train-0.parquet": ROWS[:5]}
    cached(tmp_path, "openai/gsm8k", files)
    [snapshot] = (tmp_path / "hub").glob("*/snapshots/*")
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: data/{name}-*\n"
        for name in ("main", "other")
    )
    (snapshot / "README.md").write_text(f"{card}---\n", encoding="utf-8")
    adapter = ADAPTERS["gsm8k"]
    assert read_rows("openai/gsm8k", {}, adapter, 0) == ROWS
    assert read_rows("openai/gsm8k", {"subset": "other"}, adapter, 0) == ROWS[:2]
