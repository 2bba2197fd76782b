"""Each public data set from its Hub id to the rows that a trainer gets, on hand-written and on real rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from public_schemas import SCHEMAS, as_loaded, real_rows, reply, user

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.data.public.catalog import ADAPTERS
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("output_root")
METHODS = {"conversations": "sft", "pairs": "dpo", "labels": "kto", "prompts": "grpo"}
BRIEF = {"role": "system", "content": "Be brief."}


@pytest.fixture
def on_the_hub(monkeypatch: pytest.MonkeyPatch):
    """Make the Hub hold rows under an id; the list gets what it was asked for."""
    asked: list[tuple[str, str | None, str]] = []

    def hold(hub_id: str, rows: list[dict[str, Any]]) -> list[tuple[str, str | None, str]]:
        import datasets

        from posttrain_helpers.models import hub

        def snapshot(source: str, repo_type: str, revision: str | None, folder: str | None) -> Path:
            assert (source, repo_type) == (hub_id, "dataset")
            assert folder in (None, "data/rl")
            return Path(source)

        def load_dataset(path: str, name: str | None, split: str) -> datasets.Dataset:
            asked.append((path, name, split))
            return datasets.Dataset.from_list(rows)

        monkeypatch.setattr(hub, "hub_snapshot", snapshot)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return hold


def recipe(source: str, method: str, **settings: Any) -> Recipe:
    overrides = {"data.source": source, **{f"data.{key}": value for key, value in settings.items()}}
    return replace(load_recipe("sft", "tiny", overrides), method=method)


def file_recipe(tmp_path: Path, rows: list[dict[str, Any]], method: str, **settings: Any) -> Recipe:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return recipe(str(path), method, **settings)


def in_order(rows: Any) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hub_id_is_enough(name: str, on_the_hub, capsys: pytest.CaptureFixture[str]) -> None:
    rows, kept, dropped = SCHEMAS[name]
    adapter = ADAPTERS[name]
    hub_id = adapter.hub_id
    asked = on_the_hub(hub_id, rows)
    train, held_out = load_data(recipe(hub_id, METHODS[adapter.kind]))
    assert in_order(train) == in_order(as_loaded(kept))
    assert not held_out
    assert asked == [(hub_id, adapter.subset, adapter.split)]
    printed = capsys.readouterr().out
    assert printed.startswith(f"data {hub_id}: {len(kept)} training rows, 0 held-out items")
    assert ("dropped" in printed) == bool(dropped)
    for reason, count in dropped.items():
        assert f"{count} {reason}" in printed


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_with_the_same_columns(name: str, tmp_path: Path) -> None:
    rows, kept, _ = SCHEMAS[name]
    method = METHODS[ADAPTERS[name].kind]
    train, _ = load_data(file_recipe(tmp_path, rows, method, adapter=name), verbose=False)
    assert in_order(train) == in_order(as_loaded(kept))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_set_has_prompts_for_methods_that_sample(name: str, tmp_path: Path) -> None:
    rows, kept, _ = SCHEMAS[name]
    train, _ = load_data(file_recipe(tmp_path, rows, "rloo", adapter=name), verbose=False)
    assert "prompt" in train.column_names
    assert all(row["prompt"][-1]["role"] == "user" for row in train)
    assert 0 < len(train) <= len(kept)


@pytest.mark.parametrize("name", SCHEMAS)
def test_one_system_prompt_for_every_row(name: str, tmp_path: Path) -> None:
    rows, kept, _ = SCHEMAS[name]
    method = METHODS[ADAPTERS[name].kind]
    settings = {"adapter": name, "system_prompt": "Be brief."}
    train, _ = load_data(file_recipe(tmp_path, rows, method, **settings), verbose=False)
    for row in train:
        messages = row.get("messages") or row["prompt"]
        assert messages[0] == BRIEF
        assert all(message["role"] != "system" for message in messages[1:])
    assert len(train) == len(kept)


def test_held_out_items_have_the_system_prompt_too(tmp_path: Path) -> None:
    rows = SCHEMAS["orca_dpo"][0]
    settings = {"adapter": "orca_dpo", "system_prompt": "Be brief.", "held_out_samples": 1}
    train, [item] = load_data(file_recipe(tmp_path, rows, "dpo", **settings), verbose=False)
    assert item["prompt"][0] == train[0]["prompt"][0] == BRIEF


@pytest.mark.parametrize(
    ("name", "method", "sentence"),
    [
        ("alpaca", "dpo", "are read as conversations, but this recipe's method learns from pairs; choose"),
        ("kto_mix_14k", "dpo", "are read as labels, but this recipe's method learns from pairs"),
        (
            "gsm8k",
            "sft",
            "are read as prompts, but this recipe's method learns from conversations.*data.columns",
        ),
        ("dolly", "kto", "are read as conversations, but this recipe's method learns from labels"),
    ],
)
def test_sets_that_a_method_cannot_learn_from(name: str, method: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(file_recipe(tmp_path, SCHEMAS[name][0], method, adapter=name))


def test_pairs_and_labels_teach_conversations_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, labels = SCHEMAS["orca_dpo"][0], SCHEMAS["kto_mix_14k"][0]
    train, _ = load_data(file_recipe(tmp_path, pairs, "sft", adapter="orca_dpo"))
    assert train.column_names == ["prompt", "completion"]
    train, _ = load_data(file_recipe(tmp_path, labels, "sft", adapter="kto_mix_14k"))
    assert train.to_list() == [{"messages": [user("Tea?"), reply("With milk.")]}]
    assert "1 undesirable reply" in capsys.readouterr().out
    assert load_data(file_recipe(tmp_path, labels, "sft"), verbose=False)[0].column_names == ["messages"]


LABELS = [
    {"prompt": [user(f"question {n}")], "completion": [reply(f"reply {n}")], "label": n < 40}
    for n in range(80)
]


def test_labelled_rows_are_mixed_by_the_seed(tmp_path: Path) -> None:
    def labels(seed: int) -> list[tuple[str, bool]]:
        train, _ = load_data(file_recipe(tmp_path, LABELS, "kto", seed=seed), verbose=False)
        assert set(train.column_names) == {"prompt", "completion", "label"}
        return [(row["completion"][0]["content"], row["label"]) for row in train]

    rows = labels(0)
    assert sorted(rows) == sorted((row["completion"][0]["content"], row["label"]) for row in LABELS)
    # In the file the first half is desirable and the second is not; mixed, windows hold both.
    assert all({label for _, label in rows[at : at + 16]} == {True, False} for at in range(0, 80, 16))
    assert rows == labels(0) != labels(1)


def test_kto_trains_on_labelled_rows(random_model_dir: Path, tmp_path: Path) -> None:
    from posttrain_helpers import load_model_and_tokenizer, make_trainer, train

    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, LABELS)), encoding="utf-8")
    overrides = {
        "data.source": str(path),
        "model": str(random_model_dir),
        "args.max_steps": 1,
        "args.per_device_train_batch_size": 4,
    }
    kto = load_recipe("kto", "tiny", overrides)
    model, tokenizer = load_model_and_tokenizer(str(random_model_dir), use_gpu=False, verbose=False)
    rows, _ = load_data(kto, verbose=False)
    trainer = make_trainer(kto, model, tokenizer, rows, verbose=False)
    assert train(trainer)["train_loss"] > 0


def test_no_prompt_of_a_held_out_label_is_trained_on(tmp_path: Path) -> None:
    rows = [{**row, "prompt": [user(f"question {n % 10}")]} for n, row in enumerate(LABELS)]
    train, held_out = load_data(file_recipe(tmp_path, rows, "kto", held_out_samples=3), verbose=False)
    prompts = {item["prompt"][0]["content"] for item in held_out}
    assert len(prompts) == 3
    assert all(row["prompt"][0]["content"] not in prompts for row in train)
    assert len(train) == 56


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_with_columns_of_any_name(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    rows = [{"frage": f"{n} + 1?", "antwort": n + 1, "satz": "Eine Summe."} for n in range(12)]
    path = tmp_path / f"summen.{ending}"
    table = datasets.Dataset.from_list(rows)
    (table.to_csv if ending == "csv" else table.to_parquet)(str(path))
    columns = {"prompt": "frage", "reply": "antwort", "system": "satz"}
    train, held_out = load_data(
        recipe(str(path), "sft", columns=columns, max_samples=5, held_out_samples=2), verbose=False
    )
    assert (len(train), len(held_out)) == (5, 2)
    for row in train:
        system, question, answer = (message["content"] for message in row["messages"])
        assert system == "Eine Summe."
        assert int(answer) == int(question.split()[0]) + 1


def test_a_mapping_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"q": "Why?", "a": "So."}', encoding="utf-8")
    overrides = [f"data.source={path}", "data.columns={prompt: q, reply: a}", "data.system_prompt=Be brief."]
    train, _ = load_data(load_recipe("sft", "tiny", overrides), verbose=False)
    assert train[0]["messages"] == [BRIEF, user("Why?"), reply("So.")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adapter": "dollly"}, "data.adapter 'dollly' does not exist; did you mean 'dolly'"),
        ({"columns": {"prompt": "q", "reply": "b"}}, "no column 'b' in every row, which data.columns names"),
        (
            {"columns": {"prompt": "q"}},
            "read as prompts, but this recipe's method learns from conversations; ",
        ),
        (
            {},
            r"no column 'messages' .* found the columns q, a\..* Map the columns with data.columns={prompt",
        ),
        (
            {"system_prompt": 3, "columns": {"prompt": "q", "reply": "a"}},
            "data.system_prompt must be text, but it is 3",
        ),
        ({"max_samples": 0}, "data.max_samples must be at least 1, but it is 0"),
        ({"system": "Be brief."}, "the key data.system does not exist; did you mean 'system_prompt'"),
    ],
)
def test_mistakes_in_the_data_section(settings: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(file_recipe(tmp_path, [{"q": "Why?", "a": "So."}], "sft", **settings))


def test_few_rows_of_a_very_large_set_are_looked_at(
    on_the_hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from posttrain_helpers.data import loading as data

    monkeypatch.setattr(data, "_SPARE_ROWS", 10)
    rows = [{"qid": n, "question": f"{n}?", "response_j": "good", "response_k": "bad"} for n in range(200)]
    on_the_hub("lvwerra/stack-exchange-paired", rows)
    settings = {"max_samples": 5, "held_out_samples": 2}
    train, held_out = load_data(recipe("lvwerra/stack-exchange-paired", "dpo", **settings))
    assert (len(train), len(held_out)) == (5, 2)
    assert "80 of 200 rows are drawn to choose from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dolly", "dolly_15k/train.jsonl"),
        ("ultrachat", "ultrachat_200k_schema/train_sft.jsonl"),
        ("dl_sft", "banghua_dl_schema/dl_sft_standin.jsonl"),
        ("ultrafeedback", "ultrafeedback_binarized/trl-lib_train.jsonl"),
        ("ultrafeedback_h4", "ultrafeedback_binarized/h4_test_prefs.jsonl"),
        ("hh_rlhf", "hh_rlhf/test.jsonl"),
        ("orca_dpo", "orca_dpo_pairs/train.jsonl"),
        ("dl_dpo", "banghua_dl_schema/dl_dpo_standin.jsonl"),
        ("kto_mix_14k", "kto_mix_14k/train.jsonl"),
        ("gsm8k", "gsm8k/train.jsonl"),
    ],
)
def test_real_rows(name: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = real_rows(file)
    method = METHODS[ADAPTERS[name].kind]
    train, _ = load_data(file_recipe(tmp_path, rows, method, adapter=name))
    printed = capsys.readouterr().out
    assert len(train) >= 0.75 * len(rows)
    dropped = int(printed.split("dropped ")[1].split(":")[0]) if "dropped" in printed else 0
    assert len(train) + dropped == len(rows)
    assert "not conversational" not in printed
    assert "broken" not in printed
    original = json.dumps(rows, ensure_ascii=False)
    for row in train.select(range(10)).to_list():
        for message in row.get("messages") or row["prompt"] + row.get("chosen", []):
            for line in message["content"].replace(r" Put the final number in \boxed{}.", "").split("\n"):
                assert json.dumps(line.strip(), ensure_ascii=False)[1:-1] in original
