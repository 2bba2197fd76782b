from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers import data
from posttrain_helpers.data import filter_conversations, load_data
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("output_root")


def chat(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


GOOD = [chat(f"question {number}", f"reply {number}") for number in range(20)]


@pytest.fixture
def recipe_for(tmp_path: Path):
    """Write rows to a file and return the recipe that trains on it."""

    def make(rows: Any, name: str = "rows.jsonl", **settings: Any) -> Recipe:
        path = tmp_path / name
        text = json.dumps(rows) if path.suffix == ".json" else "\n".join(json.dumps(row) for row in rows)
        path.write_text(rows if isinstance(rows, str) else text, encoding="utf-8")
        overrides = {f"data.{key}": value for key, value in settings.items()}
        return load_recipe("sft", "tiny", {"data.source": str(path), **overrides})

    return make


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(n_train: int, seed: int) -> tuple[list[dict], dict[str, list[dict]]]:
        rows = [{**chat(f"q{seed}", f"r{n}"), "id": str(n), "task": "facts"} for n in range(n_train)]
        suites = ("entities", "stories")
        return rows, {name: [{"id": f"{name}/0", "prompt": [], "answer": None}] for name in suites}

    monkeypatch.setitem(data.BUILT_IN, "tinyworld/sft", build)


@pytest.mark.usefixtures("small_world")
def test_built_in_source_takes_size_seed_and_suites(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = {"data.n_train": 7, "data.held_out": ["stories", "entities"], "seed": 5}
    recipe = load_recipe("sft", "tiny", overrides)
    train, held_out = load_data(recipe)
    assert len(train) == 7
    assert train[0]["messages"][0]["content"] == "q5"
    assert [item["id"] for item in held_out] == ["stories/0", "entities/0"]
    assert capsys.readouterr().out == "data tinyworld/sft: 7 training rows, 2 held-out items\n"


@pytest.mark.usefixtures("small_world")
def test_without_held_out_every_suite_is_taken() -> None:
    recipe = load_recipe("sft", "tiny", {"data.n_train": 7})
    del recipe.data["held_out"]
    assert len(load_data(recipe)[1]) == 2
    recipe.data["held_out"] = "stories"
    assert len(load_data(recipe)[1]) == 1


def test_the_real_tiny_world() -> None:
    train, held_out = load_data(load_recipe("sft", "tiny", ["data.n_train=50"]), verbose=False)
    assert len(train) == 50
    assert {"messages", "id", "task"} <= set(train.column_names)
    assert held_out
    assert all(item["prompt"][-1]["role"] == "user" and item["accepted"] for item in held_out)
    again, _ = load_data(load_recipe("sft", "tiny", ["data.n_train=50"]), verbose=False)
    other, _ = load_data(load_recipe("sft", "tiny", ["data.n_train=50", "seed=1"]), verbose=False)
    assert train.to_list() == again.to_list()
    assert train.to_list() != other.to_list()


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"data.held_out": ["entites"]}, "suite 'entites' does not exist; did you mean 'entities'"),
        ({"data.source": "tinyworld/sfft"}, "'tinyworld/sfft' does not exist; did you mean 'tinyworld/sft'"),
        ({"data.n_train": 0}, "data.n_train must be a whole number of at least 1, but it is 0"),
        ({"data.n_train": "many"}, "but it is 'many'"),
        ({"data.n_train": None}, "needs data.n_train"),
        ({"data.source": None}, "no data source"),
    ],
)
def test_built_in_mistakes(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(load_recipe("sft", "tiny", overrides))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_local_file(recipe_for, name: str) -> None:
    train, held_out = load_data(recipe_for(GOOD, name, held_out_samples=4, max_samples=10))
    assert (len(train), len(held_out)) == (10, 4)
    trained = {row["messages"][0]["content"] for row in train}
    assert trained.isdisjoint(item["prompt"][0]["content"] for item in held_out)
    assert all(item["answer"] is None and item["reference"].startswith("reply") for item in held_out)


def test_the_order_follows_the_seed(recipe_for) -> None:
    def questions(seed: int) -> list[str]:
        train, _ = load_data(recipe_for(GOOD, seed=seed), verbose=False)
        return [row["messages"][0]["content"] for row in train]

    assert questions(1) == questions(1)
    assert questions(1) != questions(2)
    assert sorted(questions(1)) == sorted(questions(2))


def test_what_is_dropped_is_counted_and_printed(recipe_for, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [
        chat("empty", "  "),
        chat("empty too", ""),
        GOOD[0],
        {"messages": [{"role": "user", "content": "nobody replies"}]},
        {"messages": "no list"},
        {"messages": [{"role": "human", "content": "hello"}]},
        {"messages": [{"role": "user", "content": ["not", "text"]}]},
        {"messages": []},
    ]
    train, _ = load_data(recipe_for(GOOD + bad))
    assert len(train) == len(GOOD)
    printed = capsys.readouterr().out
    assert "dropped 8: 4 not conversational, 2 empty reply, 1 " in printed
    assert "1 duplicate" in printed
    assert "1 no assistant turn" in printed


def test_the_same_question_with_two_replies_is_no_duplicate() -> None:
    kept, dropped = filter_conversations([chat("q", "a"), chat("q", "b")])
    assert len(kept) == 2
    assert not dropped


def test_no_prompt_of_a_held_out_item_is_trained_on(recipe_for) -> None:
    rows = [chat(f"question {number % 5}", f"reply {number}") for number in range(20)]
    longer = {"messages": [*rows[0]["messages"], *chat("and then?", "this")["messages"]]}
    train, held_out = load_data(recipe_for([*rows, longer], held_out_samples=2))
    prompts = {item["prompt"][0]["content"] for item in held_out}
    assert len(held_out) == 2
    assert all(row["messages"][0]["content"] not in prompts for row in train)


def test_unicode_line_separators_inside_a_text(recipe_for) -> None:
    line = json.dumps(chat("two\u2028lines", "é"), ensure_ascii=False)
    train, _ = load_data(recipe_for(line))
    assert train[0]["messages"][0]["content"] == "two\u2028lines"


def test_extra_columns_and_keys_of_messages_do_not_reach_the_trainer(recipe_for) -> None:
    row = {**chat("q", "a"), "prompt": "q", "score": 3}
    row["messages"][0]["weight"] = None
    train, _ = load_data(recipe_for([row]))
    assert train.column_names == ["messages"]
    assert set(train[0]["messages"][0]) == {"role", "content"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"question": "q", "answer": "a"}], "no column 'messages'.*found the columns question, answer"),
        ([GOOD[0], {"text": "t"}], "no column 'messages' in every row; found the columns text"),
        ([{"messages": "User: hi"}], "not conversational.*'User: hi'"),
        ([chat("q", "")], r"no training row .* is left: 0 held out, 1 dropped \(1 empty reply\)"),
        ([], "the source is empty"),
        ('{"messages": []}\n{"messages": ', "not valid JSONL: .* at line 2"),
        ("[1, 2]\n", "one JSON object per row"),
    ],
    ids=["columns", "one row", "no conversation", "empty replies", "no rows", "cut off", "no objects"],
)
def test_files_that_cannot_be_used(recipe_for, rows: Any, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(recipe_for(rows))


def test_everything_held_out(recipe_for) -> None:
    with pytest.raises(CourseError, match=r"no training row .* 20 held out"):
        load_data(recipe_for(GOOD, held_out_samples=100))


def test_missing_file() -> None:
    with pytest.raises(CourseError, match=r"'no/such\.jsonl' does not exist \(looked in"):
        load_data(load_recipe("sft", "tiny", ["data.source=no/such.jsonl"]))


def test_unreachable_hub_data_set() -> None:
    with pytest.raises(CourseError, match=r"data set 'someone/rows' is not in the cache .*'tiny'"):
        load_data(load_recipe("sft", "tiny", ["data.source=someone/rows"]))


@pytest.fixture
def cached_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    folder = tmp_path / "hub" / "datasets--someone--rows"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (snapshot / "train.jsonl").write_text("\n".join(map(json.dumps, GOOD)), encoding="utf-8")
    yield
    shutil.rmtree(tmp_path / "arrow", ignore_errors=True)


@pytest.mark.usefixtures("cached_data_set")
def test_hub_data_set_from_the_cache() -> None:
    overrides = {"data.source": "someone/rows", "data.held_out_samples": 3}
    train, held_out = load_data(load_recipe("sft", "tiny", overrides))
    assert (len(train), len(held_out)) == (17, 3)


@pytest.mark.usefixtures("cached_data_set")
def test_unknown_split() -> None:
    recipe = load_recipe("sft", "tiny", {"data.source": "someone/rows", "data.split": "tset"})
    with pytest.raises(CourseError, match="could not be read as split 'tset'"):
        load_data(recipe)
