from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.datasources.catalog import ADAPTERS
from posttrain_helpers.datasources.files import local_file, read_json_rows, read_rows
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


@pytest.mark.parametrize("name", ["no/such.csv", "no/such.parquet", "no/such.jsonl"])
def test_missing_files(name: str) -> None:
    with pytest.raises(CourseError, match=r"does not exist \(looked in"):
        local_file(name)
    assert local_file("tatsu-lab/alpaca") is None


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


def test_json_errors(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(CourseError, match="must hold one JSON object per row"):
        read_json_rows(tmp_path / "rows.json")


def test_rows_of_a_large_table_are_drawn_by_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
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
    [hub_id] = adapter.hub_ids
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
