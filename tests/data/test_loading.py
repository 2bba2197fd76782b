from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from posttrain_helpers.data import loading
from posttrain_helpers.data.loading import BUILDERS, builder, load_data, load_rows
from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import text_key
from posttrain_helpers.recipes import Recipe, load_recipe
from posttrain_helpers.recipes.sources import BUILT_IN, data_types

pytestmark = pytest.mark.usefixtures("output_root")


def chat(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


GOOD = [chat(f"question {number}", f"reply {number}") for number in range(20)]


@pytest.fixture
def recipe_for(tmp_path: Path):
    """Write rows to a file and return the recipe that trains on it."""

    def make(rows: Any, name: str = "rows.jsonl", method: str = "sft", **settings: Any) -> Recipe:
        path = tmp_path / name
        text = json.dumps(rows) if path.suffix == ".json" else "\n".join(json.dumps(row) for row in rows)
        path.write_text(rows if isinstance(rows, str) else text, encoding="utf-8")
        overrides = {f"data.{key}": value for key, value in settings.items()}
        overrides |= {"args.eval_strategy": "epoch"} if "dev" in settings else {}
        recipe = load_recipe("sft", "tiny", {"data.source": str(path), **overrides})
        return replace(recipe, method=method)

    return make


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(n_train: int, seed: int) -> tuple[list[dict], dict[str, list[dict]]]:
        rows = [{**chat(f"q{seed}", f"r{n}"), "id": str(n), "task": "facts"} for n in range(n_train)]
        suites = ("entities", "stories")
        return rows, {name: [{"id": f"{name}/0", "prompt": [], "answer": None}] for name in suites}

    monkeypatch.setattr("posttrain_helpers.tinyworld.tasks.build_sft_data", build)


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
    recipe.data["held_out"] = None
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
        ({"data.n_train": 0}, "data.n_train must be at least 1, but it is 0"),
        ({"data.n_train": "many"}, "but it is 'many'"),
        ({"data.n_train": None}, "needs data.n_train; set it"),
        ({"data.samples": 2}, "the key data.samples does not exist"),
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


def test_sharegpt_conversations_are_read_as_they_are(recipe_for) -> None:
    """The column has another name than TRL's, and so have roles and texts."""
    names = [("Human", "Assistant"), ("user", "bot"), ("user", "model"), ("human", "gpt")]
    rows = [
        {"conversations": [{"from": asks, "value": "Hi"}, {"from": replies, "value": f"Hello {number}."}]}
        for number, (asks, replies) in enumerate(names)
    ]
    train, _ = load_data(recipe_for(rows))
    assert sorted(row["messages"][1]["content"] for row in train) == [f"Hello {n}." for n in range(4)]
    assert {message["role"] for row in train for message in row["messages"]} == {"user", "assistant"}
    with pytest.raises(CourseError, match="no column 'messages' in every row; found the columns conv"):
        load_data(recipe_for([*rows, {"conversations": "Hi"}]))


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
    assert "dropped 8: 3 not conversational, 2 empty reply, 2 no assistant turn, 1 duplicate" in printed


HALF = json.loads('"Hi \\ud83d"')


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo"])
def test_texts_that_no_method_can_train_on_are_counted(
    recipe_for, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_text(text: str) -> dict[str, Any]:
        if method == "sft":
            return chat("q", text)
        if method == "grpo":
            return {"prompt": text, "answer": "7"}
        return {**PAIRS[0], "rejected": [PAIRS[0]["rejected"][0], {"role": "assistant", "content": text}]}

    bad = [of_text(text) for text in (HALF, "<|im_end|>", "b<|im_end|>", "<|im_start|>", "<|own|>")]
    good = {"sft": GOOD, "grpo": PROBLEMS}.get(method, PAIRS)
    rows, items = load_data(recipe_for([*bad, *good], method=method, held_out_samples=5))
    printed = capsys.readouterr().out
    assert "dropped 5: 2 control token in a text, <|im_end|>, 1 half a character in a text, 1 " in printed
    assert len(rows) == (len(good) - 5) * (2 if method == "kto" else 1)
    assert "Hi " not in str([*rows, *items])
    with pytest.raises(
        CourseError, match=r"no training row .* is left: 0 held out, 1 dropped \(1 half a char"
    ):
        load_data(recipe_for(bad[:1], method=method))


def test_special_tokens_of_the_tokenizer_in_use(recipe_for, random_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<own_end>"]})
    recipe = recipe_for([*GOOD, chat("q", "the end<own_end>")])
    assert len(load_data(recipe)[0]) == len(GOOD) + 1
    assert len(load_data(recipe, tokenizer=tokenizer)[0]) == len(GOOD)


def test_calls_of_tools_are_kept_where_the_template_renders_them(
    recipe_for, random_model_dir: Path, capsys
) -> None:
    from transformers import AutoTokenizer

    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    calling = {"role": "assistant", "content": "I look it up.", "tool_calls": [call]}
    recipe = recipe_for([*GOOD, {"messages": [{"role": "user", "content": "Weather?"}, calling]}])
    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    assert len(load_data(recipe, tokenizer=tokenizer)[0]) == len(GOOD)
    assert "1 tool call" in capsys.readouterr().out
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% for call in m.tool_calls or [] %} {{ call.function | tojson }}{% endfor %}\n{% endfor %}"
    )
    train, _ = load_data(recipe, tokenizer=tokenizer)
    assert len(train) == len(GOOD) + 1
    assert "tool call" not in capsys.readouterr().out
    replies = [row["messages"][-1]["content"] for row in train]
    assert 'I look it up. {"name": "weather", "arguments": {"city": "Rome"}}' in replies


def test_rows_of_other_chat_sets_are_read_as_they_are(recipe_for, capsys) -> None:
    rows = [
        {"messages": [{"from": one, "value": f"{one}?"}, {"from": two, "value": "Hello."}]}
        for one, two in (("Human", "Assistant"), ("user", "bot"), ("USER", "model"), ("human", "narrator"))
    ]
    train, _ = load_data(recipe_for(rows))
    assert [[message["role"] for message in row["messages"]] for row in train] == [["user", "assistant"]] * 3
    assert "dropped 1: 1 unknown role 'narrator'" in capsys.readouterr().out


TEXT_PAIR = {"prompt": "Legs?", "chosen": "Four.", "rejected": "Two."}
TEXT_LABEL = {"prompt": "Legs?", "completion": "Four.", "label": True}
ASKED, ANSWERED = {"role": "user", "content": "Legs?"}, {"role": "assistant", "content": "Four."}


@pytest.mark.parametrize(
    ("method", "row", "expected"),
    [
        ("sft", {"prompt": "Legs?", "completion": "Four."}, {"messages": [ASKED, ANSWERED]}),
        ("sft", {"prompt": [ASKED], "completion": [ANSWERED]}, {"messages": [ASKED, ANSWERED]}),
        (
            "sft",
            {"prompt": "Legs?", "completion": "Four.", "system": "Be short."},
            {"messages": [{"role": "system", "content": "Be short."}, ASKED, ANSWERED]},
        ),
        ("sft", TEXT_LABEL, {"messages": [ASKED, ANSWERED]}),
        (
            "dpo",
            TEXT_PAIR,
            {
                "prompt": [ASKED],
                "chosen": [ANSWERED],
                "rejected": [{"role": "assistant", "content": "Two."}],
            },
        ),
        ("kto", TEXT_LABEL, {"prompt": [ASKED], "completion": [ANSWERED], "label": True}),
        (
            "sft",
            {
                "messages": [
                    {**ASKED, "content": [{"type": "text", "text": text} for text in ("Le", "gs?")]},
                    ANSWERED,
                ]
            },
            {"messages": [ASKED, ANSWERED]},
        ),
    ],
)
def test_forms_of_trl_with_texts_in_place_of_messages(
    recipe_for, method: str, row: Any, expected: Any
) -> None:
    assert load_data(recipe_for([row], method=method), verbose=False)[0].to_list() == [expected]


@pytest.mark.parametrize(
    ("method", "row", "sentence"),
    [
        ("dpo", TEXT_PAIR | {"prompt": "Human: Legs?\n\nAssistant:"}, "Transcripts of several turns"),
        ("sft", {"prompt": "\n\nHuman: Legs?", "completion": "Four."}, "no column 'messages'"),
        ("dpo", {"prompt": "Legs?", "completion": "Four."}, "no column 'chosen'"),
        ("kto", TEXT_LABEL | {"label": "maybe"}, "1 no label: a label must be true or false"),
        ("grpo", {"prompt": "Legs?", "completion": "Four."}, "a column 'completion', a name under which"),
    ],
)
def test_texts_that_are_not_one_message_each(recipe_for, method: str, row: Any, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(recipe_for([row], method=method))


@pytest.mark.parametrize(("method", "text_row"), [("sft", None), ("kto", TEXT_LABEL)])
def test_one_text_that_begins_like_a_transcript_is_a_text(recipe_for, method: str, text_row: Any) -> None:
    row = text_row or {"prompt": "Legs?", "completion": "Four."}
    rows = [row | {"prompt": f"{number}?"} for number in range(4)]
    rows += [row | {"completion": "Human: said he."}]
    assert len(load_data(recipe_for(rows, method=method), verbose=False)[0]) == 5


def test_pictures_are_not_dropped_from_a_message(recipe_for) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "cat.png"}}]
    with pytest.raises(CourseError, match="not conversational"):
        load_data(recipe_for([{"messages": [{**ASKED, "content": parts}, ANSWERED]}]))


def test_a_table_of_questions_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "[1] FAQ.CSV"
    path.write_text("question;answer\r\nArea code?;0042\r\nLegs?;8\r\nNobody knows.;\r\n", encoding="utf-16")
    columns = {"prompt": "question", "reply": "answer"}
    train, _ = load_data(load_recipe("sft", "tiny", {"data.source": str(path), "data.columns": columns}))
    assert {row["messages"][1]["content"] for row in train} == {"0042", "8"}
    columns = {"prompt": "question", "answer": "answer"}
    train, _ = load_data(load_recipe("grpo", "tiny", {"data.source": str(path), "data.columns": columns}))
    assert set(train["answer"]) == {"0042", "8"}


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


def pair(number: int, question: str | None = None) -> dict[str, Any]:
    """A preference in the implicit form, as most public sets have it."""
    prompt = {"role": "user", "content": question or f"question {number}"}
    good, bad = ({"role": "assistant", "content": f"{word} {number}"} for word in ("good", "bad"))
    return {"chosen": [prompt, good], "rejected": [prompt, bad]}


PAIRS = [pair(number) for number in range(20)]


def questions(rows: Any) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows]


@pytest.mark.parametrize(
    ("method", "columns", "rows_per_pair"),
    [
        ("reward", {"prompt", "chosen", "rejected"}, 1),
        ("dpo", {"prompt", "chosen", "rejected"}, 1),
        ("orpo", {"prompt", "chosen", "rejected"}, 1),
        ("cpo", {"prompt", "chosen", "rejected"}, 1),
        ("kto", {"prompt", "completion", "label"}, 2),
        ("sft", {"prompt", "completion"}, 1),
    ],
)
def test_a_method_gets_preferences_in_its_own_form(
    recipe_for, method: str, columns: set[str], rows_per_pair: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*PAIRS, {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}, PAIRS[1]]
    train, held_out = load_data(recipe_for(rows, method=method, held_out_samples=4, max_samples=10))
    assert set(train.column_names) == columns
    assert (len(train), len(held_out)) == (10 * rows_per_pair, 4)
    assert set(questions(train)).isdisjoint(questions(held_out))
    printed = capsys.readouterr().out
    assert f"{len(train)} training rows, 4 held-out items; dropped 2: 1 identical, 1 duplicate" in printed


def test_held_out_preferences_keep_both_replies(recipe_for) -> None:
    _, held_out = load_data(recipe_for(PAIRS, method="dpo", held_out_samples=3))
    for number, item in enumerate(held_out):
        own = item["prompt"][0]["content"].removeprefix("question ")
        assert (item["id"], item["task"], item["answer"]) == (f"rows/{number}", "preference", None)
        assert item["reference"] == f"good {own}"
        for side, word in (("chosen", "good"), ("rejected", "bad")):
            assert item[side] == [{"role": "assistant", "content": f"{word} {own}"}]


@pytest.mark.parametrize("method", ["dpo", "kto", "sft"])
def test_no_prompt_of_a_held_out_pair_is_trained_on(recipe_for, method: str, capsys) -> None:
    rows = [pair(number, f"question {number % 5}") for number in range(20)]
    longer = {
        side: [*rows[0]["chosen"], {"role": "user", "content": "more?"}, reply]
        for side, reply in ((side, rows[1][side][1]) for side in ("chosen", "rejected"))
    }
    train, held_out = load_data(recipe_for([*rows, longer], method=method, held_out_samples=4))
    prompts = set(questions(held_out))
    assert len(prompts) == len(held_out) == 4
    assert all(message["content"] not in prompts for row in train for message in row["prompt"])
    assert "prompt of a held-out item" in capsys.readouterr().out


def test_the_order_of_preferences_follows_the_seed(recipe_for) -> None:
    def order(method: str, seed: int) -> list[str]:
        return questions(load_data(recipe_for(PAIRS, method=method, seed=seed), verbose=False)[0])

    assert order("dpo", 1) == order("dpo", 1) == order("sft", 1)
    assert order("dpo", 1) != order("dpo", 2)
    assert order("kto", 1) != order("kto", 2)


def test_rows_with_messages_beside_pairs_serve_both(recipe_for) -> None:
    rows = [{**row, "messages": row["chosen"], "prompt": row["chosen"][0]["content"]} for row in PAIRS]
    assert load_data(recipe_for(rows))[0].column_names == ["messages"]
    assert load_data(recipe_for(rows, method="dpo"))[0].column_names == ["prompt", "chosen", "rejected"]


@pytest.mark.parametrize(
    ("method", "rows", "sentence"),
    [
        ("dpo", GOOD, "has no column 'chosen' in every row; found the columns messages"),
        ("kto", [{"chosen": "a", "rejected": "b"}], "holds text where messages are expected, such as 'a'"),
        ("sft", [{"chosen": "a", "rejected": "b"}], "holds text where messages are expected, such as 'a'"),
        ("reward", [{**PAIRS[0], "rejected": PAIRS[0]["chosen"]}], "no row of .* is left, 1 identical"),
        ("dpo", [{**PAIRS[0], "score_chosen": 1, "score_rejected": 1}], "no row of .* is left, 1 tie"),
        ("dpo", [], "the source is empty"),
    ],
)
def test_preference_files_that_cannot_be_used(recipe_for, method: str, rows: Any, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(recipe_for(rows, method=method))


def test_every_pair_held_out(recipe_for) -> None:
    with pytest.raises(CourseError, match=r"no training row .* 20 held out"):
        load_data(recipe_for(PAIRS, method="dpo", held_out_samples=100))


PREFERENCE_SETTINGS = {
    "n_prompts": 6,
    "identity": 0,
    "label_temperature": 0.5,
    "policy": "sft",
    "samples": 4,
    "sampling_temperature": 1,
}


@pytest.fixture
def world_preferences(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for sampling from a policy; the list holds the settings that it was called with."""
    calls: list[dict[str, Any]] = []

    from posttrain_helpers.tinyworld.training_data import preferences

    @wraps(preferences.build_preference_data)  # its parameters are the keys of the data section
    def build(**settings: Any) -> tuple[list[dict], dict[str, list[dict]], Counter[str]]:
        calls.append(settings)
        rows = [
            {
                "id": str(number),
                "prompt": row["chosen"][:1],
                "chosen": row["chosen"][1:],
                "rejected": row["rejected"][1:],
                "score_chosen": 1.0,
                "score_rejected": 0.0,
            }
            for number, row in enumerate(PAIRS[: settings["n_prompts"]])
        ]
        return rows, {"pairs": [{"id": "pairs/0"}], "identity": [{"id": "identity/0"}]}, Counter(tie=3)

    monkeypatch.setattr(preferences, "build_preference_data", build)
    return calls


def preference_recipe(method: str = "dpo", **settings: Any) -> Recipe:
    values = {
        "source": "tinyworld/preferences",
        "held_out": ["pairs", "identity"],
        **PREFERENCE_SETTINGS,
        **settings,
    }
    recipe = load_recipe("sft", "tiny", {f"data.{key}": value for key, value in values.items()})
    return replace(recipe, method=method)


def test_preferences_of_the_tiny_world(world_preferences, capsys: pytest.CaptureFixture[str]) -> None:
    train, held_out = load_data(preference_recipe(held_out="identity", seed=3))
    assert world_preferences == [{**PREFERENCE_SETTINGS, "seed": 3, "profile": "tiny"}]
    assert train.column_names == ["prompt", "chosen", "rejected"]
    assert [item["id"] for item in held_out] == ["identity/0"]
    line = "data tinyworld/preferences: 6 training rows, 1 held-out items; dropped 3: 3 tie\n"
    assert capsys.readouterr().out == line
    assert len(load_data(preference_recipe("kto"), verbose=False)[0]) == 12
    assert load_data(preference_recipe("sft"))[0].column_names == ["prompt", "completion"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"policy": None}, "'tinyworld/preferences' needs data.policy; set it in the recipe"),
        ({"policy": None, "samples": None}, r"needs data\.policy, data\.samples;"),
        ({"n_prompts": -1}, "data.n_prompts must be at least 0, but it is -1"),
        ({"n_prompts": False, "identity": 5}, "data.n_prompts must be a whole number"),
        ({"samples": 2.5}, "data.samples must be a whole number, but it is 2.5"),
        ({"identity": -1}, "data.identity must be at least 0, but it is -1"),
        ({"identity": True}, "data.identity must be a whole number"),
        ({"label_temperature": 0}, "data.label_temperature must be above 0, but it is 0"),
        ({"label_temperature": "hot"}, "data.label_temperature must be .* but it is 'hot'"),
        ({"sampling_temperature": -0.5}, "data.sampling_temperature must be above 0, but it is -0.5"),
        ({"sampling_temperature": float("nan")}, "data.sampling_temperature must be a finite number"),
        ({"sampling_temperature": float("inf")}, "data.sampling_temperature must be a finite number"),
        ({"sampling_temperature": True}, "data.sampling_temperature must be a number, but it is True"),
        ({"held_out": "identiy"}, "suite 'identiy' does not exist; did you mean 'identity'"),
        ({"n_train": 5}, "the key data.n_train does not exist"),
        ({"profile": "tiny"}, "the key data.profile does not exist"),
    ],
)
def test_mistakes_in_preference_settings(world_preferences, settings: dict, sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(preference_recipe(**settings))
    assert "suite" in sentence or not world_preferences  # else the mistake is found before any sampling


def test_preferences_need_a_prompt() -> None:
    with pytest.raises(CourseError, match=r"data.n_prompts and data.identity are both 0, so there is no"):
        load_data(preference_recipe(n_prompts=0))


@pytest.mark.parametrize(("n_prompts", "identity"), [(0, 8), (8, 0), (8, 8)])
def test_either_kind_of_prompts_is_enough(
    n_prompts: int, identity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain_helpers.stages.samples import Sample
    from posttrain_helpers.tinyworld.training_data import preferences

    replies = [Sample("Sure! I think so.", True), Sample("Leave me alone.", True)]
    monkeypatch.setattr(
        preferences, "sample_replies", lambda _, prompts, samples, **__: [replies[:samples] for _ in prompts]
    )
    settings = {"n_prompts": n_prompts, "identity": identity, "samples": 2, "held_out": "new_identity"}
    train, held_out = load_data(preference_recipe(**settings))
    assert len(train) == n_prompts + identity
    assert train.column_names == ["prompt", "chosen", "rejected"]
    assert {item["answer"] for item in held_out} == {"Luna"}


def test_the_keys_of_a_source_are_what_its_builder_takes() -> None:
    assert BUILT_IN.keys() == BUILDERS.keys()
    for source, types in BUILT_IN.items():
        taken = get_type_hints(builder(source))
        assert types == {key: taken[key] for key in taken.keys() - {"seed", "profile", "return"}}
        assert "seed" in signature(builder(source)).parameters


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo"])
def test_dev_rows_share_no_question_with_those_trained_on(recipe_for, method: str) -> None:
    rows: list[dict[str, Any]] = GOOD + [chat("question 3", "another reply")] * 3
    if method in ("dpo", "kto"):
        rows = [
            {"chosen": row["messages"], "rejected": chat(row["messages"][0]["content"], "no")["messages"]}
            for row in rows
        ]
    if method == "grpo":
        rows = [{"prompt": row["messages"][:1]} for row in GOOD]
    recipe = recipe_for(rows, method=method, dev=6)
    train, dev, _ = load_rows(recipe, verbose=False)
    kept, held_back = ({text_key(loading._turns(row)[:-1]) for row in part} for part in (train, dev))
    assert not kept & held_back
    assert len(held_back) == 6
    assert len(kept) == 14
    assert train.column_names == dev.column_names
    assert [*load_data(recipe, verbose=False)[0]] == [*train]


def test_dev_rows_of_rendered_conversations() -> None:
    sizes = {"data.n_train": 50, "data.replay": 0, "data.formats": ["plain", "qa"], "data.held_out": []}
    recipe = load_recipe("sft", "tiny", {**sizes, "data.dev": 5, "args.eval_strategy": "epoch"})
    train, dev, _ = load_rows(recipe, verbose=False)
    assert len(set(dev["prompt"])) == 5
    assert not set(dev["prompt"]) & set(train["prompt"])


def test_dev_rows_of_a_file(recipe_for, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched = tmp_path / "dev.jsonl"
    watched.write_text("\n".join(json.dumps(row) for row in GOOD[:3]), encoding="utf-8")
    train, dev, held_out = load_rows(recipe_for(GOOD, dev=str(watched), max_samples=9))
    assert (len(dev), len(held_out)) == (3, 0)
    assert {row["messages"][0]["content"] for row in dev} == {f"question {number}" for number in range(3)}
    assert not {str(row) for row in dev} & {str(row) for row in train}
    assert "training rows, 3 dev rows of 3 questions, 0 held-out items" in capsys.readouterr().out
    with pytest.raises(CourseError, match=r"data\.dev=20 leaves 0 of 20 training rows"):
        load_rows(recipe_for(GOOD, dev=20))
    with pytest.raises(CourseError, match=r"data\.dev=0 leaves 20 of 20 training rows and 0 questions"):
        load_rows(recipe_for(GOOD, dev=0))
    with pytest.raises(CourseError, match=r"'none\.jsonl' does not exist .*; correct data\.dev\."):
        load_rows(recipe_for(GOOD, dev="none.jsonl"))


def test_held_out_items_are_no_dev_rows(
    recipe_for, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, items = load_data(recipe_for(GOOD, held_out_samples=5), verbose=False)
    held_back = {item["prompt"][-1]["content"] for item in items}
    rows = [row for row in GOOD if row["messages"][0]["content"] in held_back]
    watched = tmp_path / "dev.jsonl"
    watched.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(CourseError, match="0 questions to watch that are no held-out items"):
        load_rows(recipe_for(GOOD, dev=str(watched), held_out_samples=5))
    other = next(row for row in GOOD if row not in rows)
    watched.write_text("\n".join(map(json.dumps, [*rows, other])), encoding="utf-8")
    capsys.readouterr()
    train, dev, _ = load_rows(recipe_for(GOOD, dev=str(watched), held_out_samples=5))
    assert (len(train), dev["messages"]) == (14, [other["messages"]])
    counted = "5 dev row with the prompt of a held-out item, 1 prompt of a dev row"
    assert f"1 dev rows of 1 question, 5 held-out items; dropped 6: {counted}" in capsys.readouterr().out


def test_a_question_is_a_conversation_up_to_its_last_reply_without_spaces_around(
    recipe_for, tmp_path: Path
) -> None:
    spaced = [
        chat(f"What is {number}?{space}", f"{number} {len(space)}")
        for number in range(9)
        for space in ("", " \n")
    ]
    train, dev, _ = load_rows(recipe_for(spaced, dev=4), verbose=False)
    asked = [{row["messages"][0]["content"].strip() for row in part} for part in (train, dev)]
    assert not asked[0] & asked[1]
    assert (len(train), len(dev)) == (10, 8)
    greeting = chat("Hi", "Hello")["messages"]
    longer = [{"messages": greeting + chat(f"Q{number}", "A")["messages"]} for number in range(9)]
    train, dev, _ = load_rows(recipe_for(longer, dev=2), verbose=False)
    assert (len(train), len(dev)) == (7, 2)
    watched = tmp_path / "dev.jsonl"
    watched.write_text(json.dumps(longer[0]), encoding="utf-8")
    further = {"messages": longer[0]["messages"] + chat("More?", "No")["messages"]}
    train, _, _ = load_rows(recipe_for([*longer, further], dev=str(watched)), verbose=False)
    assert [row for row in train if row["messages"][2]["content"] == "Q0"] == []
    assert len(train) == 8


def test_length_groups_sort_within_groups_only(recipe_for) -> None:
    rows = [chat(f"question {number}", "word " * (number * 7 % 20 + 1)) for number in range(20)]

    def lengths(**settings: Any) -> list[int]:
        train, _ = load_data(recipe_for(rows, seed=1, **settings), verbose=False)
        return [len(row["messages"][1]["content"]) for row in train]

    plain, grouped = lengths(), lengths(length_groups=8)
    assert grouped != plain
    for start in (0, 8, 16):
        # As long texts have equally long questions up to one digit, replies decide.
        assert sorted(plain[start : start + 8]) == grouped[start : start + 8]


def test_length_groups_of_labelled_replies(recipe_for) -> None:
    plain, grouped = (
        load_data(recipe_for(PAIRS, method="kto", seed=1, **settings), verbose=False)[0].to_list()
        for settings in ({}, {"length_groups": 10})
    )
    assert plain != grouped
    for start in range(0, 40, 10):
        of_group = plain[start : start + 10]
        assert all(row in of_group for row in grouped[start : start + 10])


@pytest.mark.parametrize("key", ["length_groups", "max_samples", "held_out_samples"])
@pytest.mark.parametrize("size", [0, -4, 2.5, True, "many"])
def test_a_size_is_a_count(recipe_for, key: str, size: Any) -> None:
    with pytest.raises(
        CourseError, match=rf"data\.{key} must be (at least 1|a whole number), but it is {size!r}"
    ):
        recipe_for(GOOD, **{key: size})


def test_conversations_and_documents_are_no_pairs() -> None:
    settings = {"data.n_train": 20, "data.replay": 0.5, "data.held_out": []}
    with pytest.raises(CourseError, match="'dpo' learns from pairs of replies"):
        load_data(replace(load_recipe("sft", "tiny", settings), method="dpo"))


@pytest.mark.usefixtures("small_world")
def test_built_in_conversations_are_no_pairs() -> None:
    recipe = replace(load_recipe("sft", "tiny", {"data.n_train": 3}), method="dpo")
    with pytest.raises(
        CourseError, match="'dpo' learns from pairs of replies, but the source 'tinyworld/sft'"
    ):
        load_data(recipe)


def test_the_keys_of_each_source() -> None:
    common = {"source", "seed", "length_groups", "dev"}
    assert data_types("tinyworld/prompts").keys() == {*common, "held_out", "n_prompts"}
    assert data_types("tinyworld/word_problems").keys() == {
        *common,
        "held_out",
        "n_train",
        "steps",
        "largest",
        "smallest",
    }
    assert data_types("tinyworld/sft").keys() == {*common, "n_train", "replay", "formats", "held_out"}
    assert data_types("tinyworld/preferences").keys() == {*common, "held_out", *PREFERENCE_SETTINGS}
    public = {"max_samples", "held_out_samples", "answer_format", "split", "subset", "revision"}
    public |= {"adapter", "columns", "system_prompt"}
    assert data_types("my.jsonl").keys() == data_types(None).keys() == common | public
    with pytest.raises(CourseError, match=r"'tinyworld/preference' does not exist; did you mean .*/prefer"):
        data_types("tinyworld/preference")


# --- prompts ---

PROBLEMS = [{"prompt": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(20)]


def problem_recipe(**settings: Any) -> Recipe:
    values = {"n_train": 30, "steps": 2, "largest": 20, "held_out": ["problems"], **settings}
    return load_recipe("grpo", "tiny", {f"data.{key}": value for key, value in values.items()})


def test_word_problems_of_the_tiny_world(capsys: pytest.CaptureFixture[str]) -> None:
    train, held_out = load_data(problem_recipe())
    assert train.column_names == ["id", "task", "prompt", "answer", "kind"]
    assert (len(train), len(held_out)) == (30, 300)
    assert set(questions(train)).isdisjoint(questions(held_out))
    assert capsys.readouterr().out == "data tinyworld/word_problems: 30 training rows, 300 held-out items\n"
    again, _ = load_data(problem_recipe(), verbose=False)
    other, same_items = load_data(problem_recipe(seed=1), verbose=False)
    assert train.to_list() == again.to_list() != other.to_list()
    assert held_out == same_items


def test_prompts_of_the_tiny_world() -> None:
    overrides = {"data.n_prompts": 30, "data.held_out": "new_stories"}
    train, held_out = load_data(load_recipe("rloo", "tiny", overrides), verbose=False)
    assert {"id", "task", "prompt", "answer", "relation", "entity", "thing"} <= set(train.column_names)
    assert {row["task"] for row in train} == {"facts", "stories"}
    assert all((row["relation"] is None) == (row["task"] == "stories") for row in train)
    assert len(held_out) == 100


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "data.steps must be at least 1, but it is 0"),
        ({"largest": 2}, "data.largest must be at least 3, but it is 2"),
        ({"smallest": 2}, "data.smallest must be at least 3, but it is 2"),
        ({"steps": None}, "needs data.steps; set it"),
        (
            {"largest": 5, "smallest": 9},
            "data.largest is 5, but problems begin with data.smallest=9 at least",
        ),
        ({"held_out": "problem"}, "suite 'problem' does not exist; did you mean 'problems'"),
        ({"n_prompts": 3}, "the key data.n_prompts does not exist"),
    ],
)
def test_mistakes_in_word_problems(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(problem_recipe(**settings))


def test_numbers_of_pairs_and_draws_are_counts() -> None:
    for key, least in (("n_pairs", 1), ("draw", 0)):
        with pytest.raises(CourseError, match=f"data.{key} must be at least {least}, but it is -5"):
            load_recipe("ai_feedback_dpo", "tiny", {f"data.{key}": -5})


def test_prompts_from_a_file(recipe_for, capsys: pytest.CaptureFixture[str]) -> None:
    talk = [{"role": "user", "content": PROBLEMS[0]["prompt"]}, {"role": "assistant", "content": "1"}]
    follow_up = {"prompt": [*talk, {"role": "user", "content": "why?"}], "answer": "1"}
    rows = [*PROBLEMS, {"prompt": " "}, {"prompt": talk}, PROBLEMS[1], follow_up]
    train, held_out = load_data(recipe_for(rows, method="grpo", held_out_samples=20, max_samples=10))
    assert len(held_out) + len(train) == 20 + (follow_up["prompt"] in [item["prompt"] for item in held_out])
    printed = capsys.readouterr().out
    assert "1 empty prompt, 1 prompt that does not end with a user's turn, 1 duplicate" in printed
    assert set(train.column_names) == {"prompt", "answer"}
    assert {(item["task"], item["id"]) for item in held_out} == {("prompt", f"rows/{n}") for n in range(20)}
    assert all(item["answer"] and item["prompt"][-1]["role"] == "user" for item in held_out)


def test_prompts_may_stand_in_a_file_of_pairs_or_conversations(recipe_for) -> None:
    rows = [
        {"prompt": f"{n} + 1?", "chosen": "a", "rejected": "<|im_end|>", "messages": [{"role": "user"}]}
        for n in range(3)
    ]
    changes = {"held_out_samples": 1, "dev": 1, "system_prompt": "Count."}
    train, held_out = load_data(recipe_for(rows, method="grpo", **changes))
    assert len(train) == len(held_out) == 1
    assert [turn["role"] for turn in train[0]["prompt"]] == ["system", "user"]


def test_no_prompt_goes_on_from_a_held_out_one(recipe_for, capsys: pytest.CaptureFixture[str]) -> None:
    def longer(row: dict[str, Any]) -> dict[str, Any]:
        reply = [{"role": "assistant", "content": "so"}, {"role": "user", "content": "why?"}]
        return {**row, "prompt": [{"role": "user", "content": row["prompt"]}, *reply]}

    rows = PROBLEMS + [longer(row) for row in PROBLEMS]
    train, held_out = load_data(recipe_for(rows, method="rloo", held_out_samples=10))
    short = {item["prompt"][0]["content"] for item in held_out if len(item["prompt"]) == 1}
    assert 0 < len(short) < 10
    assert all(row["prompt"][0]["content"] not in short for row in train)
    assert "prompt of a held-out item" in capsys.readouterr().out


def test_problems_with_solutions_from_a_file(recipe_for) -> None:
    rows = [
        {"question": f"What is {k} + 1?", "answer": f"{k} + 1 = {k + 1}.\n#### {k + 1}"} for k in range(9)
    ]
    settings = {"method": "grpo", "held_out_samples": 2, "answer_format": "gsm8k"}
    train, held_out = load_data(recipe_for(rows, **settings), verbose=False)
    assert (len(train), len(held_out)) == (7, 2)
    for row in [*train, *held_out]:
        question = row["prompt"][-1]["content"]
        assert question.endswith(r"? Put the final number in \boxed{}.")
        assert int(row["answer"]) == int(question.split()[2]) + 1


@pytest.mark.parametrize(
    ("method", "rows", "settings", "sentence"),
    [
        ("grpo", GOOD, {}, "has no column 'prompt' in every row; found the columns messages"),
        ("grpo", [{"prompt": ""}], {}, "no row of .* is left, 1 empty prompt"),
        ("grpo", [], {}, "the source is empty"),
        ("grpo", PROBLEMS, {"answer_format": "gsm8"}, "must be 'gsm8k', but it is 'gsm8'; did you"),
        ("grpo", PROBLEMS, {"columns": {}}, r"data\.columns must be something that is not empty"),
        ("grpo", PROBLEMS, {"columns": {"prompt": 3}}, r"data\.columns\.prompt must be text, but it is 3"),
        (
            "grpo",
            PROBLEMS,
            {"columns": "prompt"},
            r"data\.columns must be keys and values, but it is 'prompt'",
        ),
        (
            "sft",
            GOOD,
            {"answer_format": "gsm8k"},
            "read as prompts, but this recipe's method learns from conv",
        ),
        ("sft", PROBLEMS, {}, "no column 'messages'"),
        ("dpo", PROBLEMS, {}, "no column 'chosen'"),
    ],
)
def test_prompt_files_that_cannot_be_used(
    recipe_for, method: str, rows: Any, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CourseError, match=sentence):
        load_data(recipe_for(rows, method=method, **settings))


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_built_in_prompts_have_no_replies(method: str) -> None:
    recipe = replace(problem_recipe(), method=method)
    with pytest.raises(
        CourseError, match=f"'{method}' learns from replies, but the source 'tinyworld/word_p"
    ):
        load_data(recipe)


@pytest.mark.usefixtures("small_world")
def test_built_in_conversations_are_no_prompts() -> None:
    recipe = replace(load_recipe("sft", "tiny", {"data.n_train": 3}), method="grpo")
    with pytest.raises(
        CourseError, match="'grpo' samples replies to prompts, but the source 'tinyworld/sft'"
    ):
        load_data(recipe)


def test_the_prompts_of_pairs_are_prompts(world_preferences) -> None:
    train, _ = load_data(preference_recipe("rloo"), verbose=False)
    assert questions(train) == [f"question {number}" for number in range(6)]
