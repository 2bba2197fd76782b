"""`prepare`: what is written trains as it is, no question is in two splits, and the card says all that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from public_schemas import real_rows

from posttrain_helpers import cli
from posttrain_helpers.data.lengths import token_lengths
from posttrain_helpers.data.loading import load_data
from posttrain_helpers.data.preferences import for_method
from posttrain_helpers.models.loading import load_tokenizer
from posttrain_helpers.models.manifest import BASE
from posttrain_helpers.recipes import load_recipe

pytestmark = pytest.mark.usefixtures("output_root")
SPLITS = ("train", "dev", "test")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def chat(number: int, words: int = 3) -> dict[str, Any]:
    # Every question is asked three times, once of them with a second turn.
    more = [user("And then?"), reply("Nothing.")] if number % 3 == 0 else []
    return {"messages": [user(f"question {number // 3}"), reply(f"reply {number}" + " and" * words), *more]}


def pair(number: int) -> dict[str, Any]:
    prompt, chosen, rejected = [user(f"question {number}")], [reply("good")], [reply("bad")]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


CHATS = [chat(number) for number in range(60)]
SUMS = [{"q": f"{n} + 1?", "a": str(n + 1)} for n in range(20)]
PAIRS = [pair(number) for number in range(40)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def first_question(row: dict[str, Any]) -> str:
    turns = row.get("messages") or row["prompt"]
    return next(turn["content"] for turn in turns if turn["role"] == "user")


def run(*words: object) -> int:
    return cli.main(["prepare", *map(str, words)])


def read(directory: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [json.loads(line) for line in (directory / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in SPLITS
    }


def trained_on(directory: Path, method: str) -> list[dict[str, Any]]:
    """Return what the loaders read back without more settings, and check that they drop nothing."""
    source = {"data.source": str(directory / "train.jsonl")}
    recipe = replace(load_recipe("sft", "tiny", source), method=method)
    rows = load_data(recipe, verbose=False)[0].to_list()
    assert len(rows) == len(read(directory)["train"])
    return rows


def test_no_question_is_in_two_splits_and_the_seed_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "own.jsonl", [*CHATS, CHATS[0]])
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(source, tmp_path / name, "--seed", seed) == 0
    assert "prepared: " in capsys.readouterr().out
    splits = read(tmp_path / "a")
    assert [len(splits[name]) for name in SPLITS] == [48, 6, 6]
    questions = [set(map(first_question, splits[name])) for name in SPLITS]
    assert sum(map(len, questions)) == len(set.union(*questions)) == 20
    files = ("README.md", "statistics.json", *(f"{name}.jsonl" for name in SPLITS))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(files)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert read(tmp_path / "c")["test"] != splits["test"]
    facts = json.loads((tmp_path / "a" / "statistics.json").read_text("utf-8"))
    assert (facts["rows read"], facts["usable rows"], facts["dropped"]) == (61, 60, {"duplicate": 1})
    assert sum(each["rows"] for each in facts["lengths"].values()) == 60


@pytest.mark.parametrize(
    ("method", "rows", "option", "columns"),
    [
        ("sft", CHATS, "", {"messages"}),
        ("sft", PAIRS, "", {"messages"}),
        ("dpo", PAIRS, "", {"prompt", "chosen", "rejected"}),
        ("kto", PAIRS, "", {"prompt", "completion", "label"}),
        ("grpo", CHATS, "data.adapter=ultrachat", {"prompt"}),
        ("grpo", SUMS, "data.columns={prompt: q, answer: a}", {"prompt", "answer"}),
    ],
)
def test_every_method_trains_on_what_is_written(
    method: str, rows: list[dict[str, Any]], option: str, columns: set[str], tmp_path: Path
) -> None:
    source, options = write(tmp_path / "own.jsonl", rows), [option] if option else []
    assert run(source, tmp_path / "out", *options, "--method", method, "--system-prompt", "Be brief.") == 0
    found = trained_on(tmp_path / "out", method)
    assert set(found[0]) == columns
    turns = found[0].get("messages") or found[0]["prompt"]
    assert turns[0] == {"role": "system", "content": "Be brief."}


def test_the_command_line_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write(tmp_path / "own.jsonl", CHATS), tmp_path / "out") == 0
    line = f"train sft data.source={tmp_path / 'out' / 'train.jsonl'} args.max_steps=1 --name own"
    assert cli.main(line.split()) == 0
    assert "48 training rows" in capsys.readouterr().out


def test_limits_drop_rows_and_the_card_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import DatasetCard

    rows = [{"instruction": f"question {n}", "input": "", "output": "yes " * (n + 1)} for n in range(100)]
    monkeypatch.setattr("posttrain_helpers.data.loading.read_rows", lambda *_: rows)
    options = ("--max-length", 60, "--max-samples", 20, "--test-share", 0.2)
    assert run("yahma/alpaca-cleaned", tmp_path / "out", *options) == 0
    assert [len(part) for part in read(tmp_path / "out").values()] == [12, 4, 4]
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert [each["split"] for each in card.data.configs[0]["data_files"]] == ["train", "validation", "test"]
    assert "| source | yahma/alpaca-cleaned |\n| licence | CC BY 4.0 |" in card.text
    assert "longer than 60 tokens" in card.text
    assert "max_length 60 cuts 0.0% of the rows" in card.text
    assert card.text.strip().splitlines()[-1] == "```"
    assert "cut where max_length is the upper end" in capsys.readouterr().out


def test_the_longer_reply_of_a_pair_counts_and_a_row_of_the_limit_stays(tmp_path: Path) -> None:
    lengths = token_lengths(PAIRS, load_tokenizer(BASE))
    long = [{**pair(number), "rejected": [reply("bad" + " and" * 20)]} for number in range(40, 60)]
    options = ("--method", "dpo", "--max-length", max(map(max, lengths)))
    assert run(write(tmp_path / "own.jsonl", [*PAIRS, *long]), tmp_path / "out", *options) == 0
    facts = json.loads((tmp_path / "out" / "statistics.json").read_text("utf-8"))
    assert (facts["usable rows"], list(facts["dropped"].values())) == (40, [20])


def test_a_setting_of_the_data_says_what_its_option_says(tmp_path: Path) -> None:
    source = write(tmp_path / "own.jsonl", CHATS)
    assert run(source, tmp_path / "a", "--max-samples", 20, "--system-prompt", "Be brief.") == 0
    assert run(source, tmp_path / "b", "data.max_samples=20", "data.system_prompt=Be brief.") == 0
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert sum(map(len, read(tmp_path / "b").values())) == 20


def test_a_system_prompt_is_one_cell_of_the_card(tmp_path: Path) -> None:
    source = write(tmp_path / "own.jsonl", CHATS)
    for name, text in (("lines", "Be brief.\nBe kind."), ("none", "")):
        assert run(source, tmp_path / name, "--system-prompt", text) == 0
    assert "| system_prompt | Be brief.<br>Be kind. |" in (tmp_path / "lines/README.md").read_text("utf-8")
    card = (tmp_path / "none" / "README.md").read_text("utf-8")
    assert "| system_prompt |  |" in card
    assert "# own.jsonl, prepared for sft" in card


def test_pairs_with_one_chosen_reply_are_one_conversation(tmp_path: Path) -> None:
    source = write(tmp_path / "own.jsonl", [*PAIRS, {**PAIRS[0], "rejected": [reply("worse")]}])
    assert run(source, tmp_path / "out") == 0
    facts = json.loads((tmp_path / "out" / "statistics.json").read_text("utf-8"))
    assert (facts["rows read"], facts["usable rows"], facts["dropped"]) == (41, 40, {"duplicate": 1})


def test_the_seed_orders_the_labelled_replies(tmp_path: Path) -> None:
    source = write(tmp_path / "own.jsonl", PAIRS)
    for method in ("dpo", "kto"):
        assert run(source, tmp_path / method, "--method", method, "--seed", 3) == 0
    pairs = read(tmp_path / "dpo")["train"]
    assert read(tmp_path / "kto")["train"] == for_method(pairs, "labels", 3).to_list()


def test_mistakes_are_sentences_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("own.jsonl"), CHATS)
    write(Path("few.jsonl"), CHATS[:3])
    write(Path("silent.jsonl"), [{"messages": [user("a")]}])
    Path("half.jsonl").write_text('{"messages": [', encoding="utf-8")
    Path("taken").mkdir()
    Path("taken/file").touch()
    for line, sentence in {
        "own.jsonl taken": "taken is there already and nothing is written over it",
        "none.jsonl out": "the data file 'none.jsonl' does not exist",
        "half.jsonl out": "half.jsonl",
        "silent.jsonl out": "1 no assistant turn",
        "few.jsonl out": "3 usable rows with 1 different question, too few for the split 'dev'",
        "own.jsonl out --method dpo": "has no column 'chosen'",
        "own.jsonl out --method dpoo": "did you mean 'dpo'?",
        "own.jsonl out --max-length 1": "no row of 'own.jsonl' is left, 60 longer than 1 tokens",
        "own.jsonl out --max-samples 0": "prepare: data.max_samples must be at least 1",
        "own.jsonl out --seed 99999999999": "data.seed must be at most",
        "own.jsonl out --test-share 0.5": "must be at least 0 and below 0.5",
        "own.jsonl out args.max_steps=1": "prepare takes settings of the data only",
        "own.jsonl out data.column=1": "did you mean 'columns'?",
        "own.jsonl out data.seed=5": "prepare: data.seed has no meaning here; set --seed",
        "own.jsonl out data.source=few.jsonl": "prepare: data.source has no meaning here; name the file",
        "own.jsonl out data.held_out_samples=10": "prepare: data.held_out_samples has no meaning here; dev",
        "own.jsonl out data.dev=3": "prepare: data.dev has no meaning here; dev and test are shares",
        "own.jsonl out data.length_groups=4": "prepare: data.length_groups has no meaning here; set it in",
        "own.jsonl out --model ./none": "none",
        "tinyworld/sft out": "is made anew by every recipe",
    }.items():
        assert run(*line.split()) == cli.EXIT_MISTAKE, line
        assert sentence in capsys.readouterr().err
    assert not [*tmp_path.glob(".out*"), *tmp_path.glob("out")]
    assert run("few.jsonl", "out", "--test-share", "0") == 0
    assert sorted(path.name for path in Path("out").glob("*.jsonl")) == ["train.jsonl"]


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("ultrachat_200k_schema/train_sft.jsonl", "sft", ()),
        ("ultrafeedback_binarized/trl-lib_train.jsonl", "dpo", ()),
        ("kto_mix_14k/train.jsonl", "kto", ()),
        ("gsm8k/test.jsonl", "grpo", ("data.adapter=gsm8k",)),
    ],
)
def test_real_rows(name: str, method: str, options: tuple[str, ...], tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", real_rows(name))
    assert run(source, tmp_path / "out", *options, "--method", method) == 0
    splits = read(tmp_path / "out")
    asked = [set(map(first_question, part)) for part in splits.values()]
    assert sum(map(len, asked)) == len(set.union(*asked))
    assert all(splits.values())
    assert trained_on(tmp_path / "out", method)
