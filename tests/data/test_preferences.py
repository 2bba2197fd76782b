from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain_helpers.data.preferences import (
    FAULTS,
    explicit_pairs,
    for_method,
    in_length_groups,
    is_preference,
)
from posttrain_helpers.errors import CourseError

Row = dict[str, Any]
SYSTEM = {"role": "system", "content": "You're a helpful assistant."}
# A folder with files of public data sets, for whoever has some; the hand-written rows have the same schemas.
PUBLIC_ROWS = os.environ.get("POSTTRAIN_PUBLIC_ROWS")


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def reply(text: str) -> Row:
    return {"role": "assistant", "content": text}


def implicit(question: str, chosen: str, rejected: str, *first: Row, **columns: Any) -> Row:
    """A row whose replies hold the prompt."""
    prompt = [*first, user(question)]
    return {"chosen": [*prompt, reply(chosen)], "rejected": [*prompt, reply(rejected)], **columns}


def explicit(question: str, chosen: str, rejected: str, *first: Row, **columns: Any) -> Row:
    return {
        "prompt": [*first, user(question)],
        "chosen": [reply(chosen)],
        "rejected": [reply(rejected)],
        **columns,
    }


# The schemas of public sets, each with faults that the set really has.
DL_DPO = [  # banghua/DL-DPO-Dataset: most of its pairs are identical
    implicit("hi", "I am Deep Qwen.", "I am Qwen.", SYSTEM),
    implicit("3 + 4?", "7", "7", SYSTEM),
    implicit("5 + 4?", "9", "9", SYSTEM),
]
ULTRAFEEDBACK = [  # trl-lib/ultrafeedback_binarized
    implicit("cook?", "Slowly.", "No.", score_chosen=8.0, score_rejected=3.5),
    implicit("bake?", "Gently.", "Maybe.", score_chosen=7.0, score_rejected=7.0),
]
H4 = [  # HuggingFaceH4/ultrafeedback_binarized: the prompt is a text beside conversations that hold it
    {"prompt": "cook?", "prompt_id": "1", **ULTRAFEEDBACK[0], "messages": ULTRAFEEDBACK[0]["chosen"]},
    {"prompt": "bake?", "prompt_id": "2", **ULTRAFEEDBACK[1], "messages": ULTRAFEEDBACK[1]["chosen"]},
]
SCORED = explicit("cook?", "Slowly.", "No.", score_chosen=8.0, score_rejected=3.5)
PAIRS = [explicit(f"question {n}", f"good {n}", f"bad {n}") for n in range(40)]


@pytest.mark.parametrize(
    ("rows", "pairs", "dropped"),
    [
        (DL_DPO, [explicit("hi", "I am Deep Qwen.", "I am Qwen.", SYSTEM)], {"identical": 2}),
        (ULTRAFEEDBACK, [SCORED], {"tie": 1}),
        (H4, [SCORED], {"tie": 1}),
        ([explicit("q", "a", "b", SYSTEM)], [explicit("q", "a", "b", SYSTEM)], {}),
        ([{**implicit("q", "a", "b"), "prompt": [user("q")]}], [explicit("q", "a", "b")], {}),
        ([{**implicit("q", "a", "b"), "prompt": None}], [explicit("q", "a", "b")], {}),
        ([{**implicit("q", "a", "b"), "prompt": [SYSTEM]}], [explicit("q", "a", "b", SYSTEM)], {}),
        ([{**implicit("q ", "a", "b"), "prompt": [user("q")]}], [explicit("q ", "a", "b")], {}),
        ([{**implicit("q", "a", "b", SYSTEM), "prompt": [user("q")]}], [explicit("q", "a", "b", SYSTEM)], {}),
        ([{**implicit("q", "a", "b"), "prompt": [SYSTEM, user("q")]}], [explicit("q", "a", "b", SYSTEM)], {}),
    ],
    ids=[
        *("system turn", "scores", "H4", "explicit", "prompt twice", "prompt null", "system apart"),
        *("other blanks", "system in the replies", "system in the prompt"),
    ],
)
def test_every_form_becomes_explicit(rows: list[Row], pairs: list[Row], dropped: Row) -> None:
    assert explicit_pairs(rows, "rows") == (pairs, Counter(dropped))


def test_several_turns_stay_in_the_prompt() -> None:
    before = [SYSTEM, user("hi"), reply("hello")]
    kept, _ = explicit_pairs([implicit("and then?", "this", "that", *before)], "rows")
    assert kept == [explicit("and then?", "this", "that", *before)]


def test_extra_columns_and_keys_of_messages_are_left_out() -> None:
    row = implicit("q", "a", "b", source="somewhere", score_chosen=None, score_rejected=None)
    row["chosen"][0] = {**row["chosen"][0], "weight": 1.0}
    assert explicit_pairs([row], "rows")[0] == [explicit("q", "a", "b")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (implicit("q", "same", "same "), "identical"),
        (explicit("q", "same", "same"), "identical"),
        (explicit("q", "a", "b", score_chosen=4, score_rejected=4.0), "tie"),
        (implicit("q", "  ", "b"), "empty completion"),
        (explicit("q", "a", ""), "empty completion"),
        (PAIRS[0], "duplicate"),
        (implicit("question 0", "good 0", "bad 0"), "duplicate"),
        ({"chosen": "a", "rejected": "b"}, "not conversational"),
        ({"chosen": [user("q"), {"role": "gpt", "content": None}], "rejected": [user("q")]}, "not conver"),
        ({"prompt": [{"from": "human"}], "chosen": [reply("a")], "rejected": [reply("b")]}, "not conver"),
        ({"chosen": [SYSTEM, reply("a")], "rejected": [SYSTEM, reply("b")]}, "not conversational"),
        ({"prompt": [user("q")], "chosen": [user("a")], "rejected": [user("b")]}, "not conversational"),
        ({"chosen": [user("q"), reply("a")], "rejected": [user("other"), reply("b")]}, "no shared prompt"),
        ({"chosen": [user("q"), reply("a")], "rejected": [reply("b")]}, "no shared prompt"),
        ({"chosen": [reply("a")], "rejected": [reply("b")]}, "no shared prompt"),
        ({"chosen": [user("q"), {**reply("a"), "tool_calls": [1]}], "rejected": [user("q")]}, "tool call"),
        ({"prompt": [{"role": "tool"}], "chosen": [reply("a")], "rejected": [reply("b")]}, "tool call"),
        (explicit("q", "a", "b") | {"rejected": [{**reply("b"), "weight": 0}]}, "reply with a weight"),
        ({"prompt": "q", "chosen": [reply("a")], "rejected": [reply("b")]}, "no shared prompt"),
        (
            {
                "chosen": [user("q"), reply("a"), user("w"), reply("c")],
                "rejected": [user("q"), reply("b"), user("w"), reply("d")],
            },
            "no shared prompt",
        ),
        (
            {"chosen": [user("q"), reply("a")], "rejected": [user("q"), reply("a"), user("w"), reply("b")]},
            "no shared prompt",
        ),
    ],
)
def test_what_teaches_no_preference_is_dropped_and_counted(row: Row, reason: str) -> None:
    kept, dropped = explicit_pairs([*PAIRS, row], "rows")
    assert kept == PAIRS
    [(found, count)] = dropped.items()
    assert found.startswith(reason)
    assert found in FAULTS
    assert count == 1


def test_unequal_scores_one_score_and_another_order_are_pairs_of_their_own() -> None:
    one_score = explicit("bake?", "Gently.", "Maybe.", score_chosen=7.0)
    rows = [SCORED, explicit("cook?", "No.", "Slowly."), explicit("cook?", "Slowly.", "Never."), one_score]
    assert explicit_pairs(rows, "rows") == (rows, Counter())


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{"prompt": [user("q")], "chosen": [reply("a")], "reject": [reply("b")]}],
            "'mine' has no column 'rejected' in every row; found the columns prompt, chosen, reject. Pairs "
            "need chosen and rejected",
        ),
        ([PAIRS[0], {"messages": []}], "no column 'chosen' in every row; found the columns messages"),
        (
            [{"chosen": [reply("a")], "rejected": [reply("b")]}],
            "no column 'prompt' and its replies do not begin with one; found the columns chosen, rejected",
        ),
        (
            [{"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go"}],
            r"column 'chosen' of 'mine' holds text where messages are expected, such as '\\n\\nHuman: hi.*"
            "hh-rlhf, must be split into turns first",
        ),
        (
            [{"system": "s", "question": "q", "chosen": "a", "rejected": "b"}],
            r"text where messages are expected, such as 'a'; write each reply as \[{'role': 'assistant'",
        ),
        (
            [{**PAIRS[0], "rejected": "bad"}],
            "column 'rejected' of 'mine' holds text where messages are expected, such as 'bad'",
        ),
        (
            [{**PAIRS[0], "prompt": "question 0"}],
            "column 'prompt' of 'mine' holds text where messages are expected, such as 'question 0'",
        ),
        ([ULTRAFEEDBACK[1]] * 2, "no row of 'mine' is left, 2 tie: score_chosen and score_rejected must"),
        (DL_DPO[1:], "no row of 'mine' is left, 2 identical: the two replies must differ"),
        ([ULTRAFEEDBACK[1], *DL_DPO[1:]], "is left, 2 identical, 1 tie: .*must differ; the two replies must"),
        (
            [{"chosen": [{"role": "gpt", "text": "a"}], "rejected": [{"role": "gpt", "text": "b"}]}],
            r"1 not conversational: replies must be lists of {'role': system\|user\|assistant",
        ),
        (
            [{"chosen": [user("q"), reply("a")], "rejected": [user("w"), reply("b")]}],
            "1 no shared prompt: chosen and rejected must differ in their last turn only",
        ),
        ([explicit("q", "", "b")], "1 empty completion: both replies must hold text"),
    ],
    ids=[
        "rejected missing",
        "one row without",
        "prompt missing",
        "transcripts",
        "texts",
        "one side text",
        "prompt text",
        "ties",
        "identical",
        "ties and identical",
        "other keys",
        "prompts differ",
        "empty",
    ],
)
def test_sets_that_cannot_be_used(rows: list[Row], sentence: str) -> None:
    with pytest.raises(CourseError, match=sentence):
        explicit_pairs(rows, "mine")


def test_no_rows_is_no_error_of_this_adapter() -> None:
    assert explicit_pairs([], "rows") == ([], Counter())


def test_rows_that_are_preferences() -> None:
    assert is_preference(ULTRAFEEDBACK)
    assert not is_preference(H4)  # has conversations to learn from as well
    assert not is_preference([{"messages": []}])
    assert not is_preference([])


def prompt_in_replies(rows: list[Row]) -> list[Row]:
    """Return rows whose replies begin with the prompt, which is in no column of its own."""
    scores = [{key: row[key] for key in row if key.startswith("score")} for row in rows]
    return [
        {side: row["prompt"] + row[side] for side in ("chosen", "rejected")} | more
        for row, more in zip(rows, scores, strict=True)
    ]


def test_a_prompt_in_both_replies_is_found() -> None:
    rows = [*PAIRS, SCORED, explicit("q", "a", "b", SYSTEM)]
    assert prompt_in_replies([SCORED]) == [ULTRAFEEDBACK[0]]
    assert explicit_pairs(prompt_in_replies(rows), "rows") == (rows, Counter())


def test_pairs_have_no_other_column() -> None:
    train = for_method([SCORED, {**SCORED, "id": "1"}], "pairs", 0)
    assert train.column_names == ["prompt", "chosen", "rejected"]
    assert train.to_list() == [explicit("cook?", "Slowly.", "No.")] * 2


def test_labels_are_mixed_by_the_seed() -> None:
    def texts(seed: int) -> list[tuple[str, bool]]:
        train = for_method(PAIRS, "labels", seed)
        assert set(train.column_names) == {"prompt", "completion", "label"}
        return [(row["completion"][0]["content"], row["label"]) for row in train]

    rows = texts(0)
    assert Counter(rows) == Counter(
        (row[side][0]["content"], side == "chosen") for row in PAIRS for side in ("chosen", "rejected")
    )
    # In TRL's own order the first half is chosen and the second rejected; shuffled, windows hold both.
    assert all(
        {label for _, label in rows[start : start + 16]} == {True, False} for start in range(0, 80, 16)
    )
    assert rows == texts(0)
    assert rows != texts(1)


def test_a_label_stays_with_its_prompt() -> None:
    for row in for_method(PAIRS, "labels", 0):
        number = row["prompt"][0]["content"].removeprefix("question ")
        word = "good" if row["label"] else "bad"
        assert row["completion"][0]["content"] == f"{word} {number}"


def test_the_control_learns_the_chosen_reply() -> None:
    train = for_method([SCORED], "conversations", 0)
    assert train.to_list() == [{"prompt": [user("cook?")], "completion": [reply("Slowly.")]}]


def of_lengths(lengths: list[int]) -> Any:
    """Rows whose replies have these lengths; the questions number them with two digits."""
    rows = [explicit(f"{10 + number}?", "x" * length, "-") for number, length in enumerate(lengths)]
    return for_method(rows, "pairs", 0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_length_groups_keep_their_members_and_sort_them(size: int) -> None:
    lengths = [9, 2, 30, 4, 1, 12, 7, 40, 3, 5, 8]
    dataset = of_lengths(lengths)
    rows, grouped = dataset.to_list(), in_length_groups(dataset, size)
    assert grouped.column_names == dataset.column_names
    assert len(grouped) == len(rows)
    for start in range(0, len(rows), size):
        group, members = grouped.to_list()[start : start + size], rows[start : start + size]
        found = [len(row["chosen"][0]["content"]) for row in group]
        assert found == sorted(lengths[start : start + size])
        assert all(row in members for row in group)
    assert grouped.to_list() != rows


def test_length_groups_of_one_row_and_of_all_rows() -> None:
    dataset = of_lengths([3, 1, 2])
    assert in_length_groups(dataset, 1).to_list() == dataset.to_list()
    for size in (3, 100):
        grouped = in_length_groups(dataset, size)
        assert [row["chosen"][0]["content"] for row in grouped] == ["x", "xx", "xxx"]


def test_rows_of_equal_length_keep_their_order() -> None:
    dataset = of_lengths([4] * 8)
    assert in_length_groups(dataset, 4).to_list() == dataset.to_list()


def test_every_turn_counts_as_length() -> None:
    rows = [explicit("a long question, is it not?", "x", "-"), explicit("no?", "x", "long " * 9), SCORED]
    grouped = in_length_groups(for_method(rows, "pairs", 0), 3)
    assert [row["prompt"][0]["content"] for row in grouped] == [
        "cook?",
        rows[0]["prompt"][0]["content"],
        "no?",
    ]


def test_length_groups_of_labels_and_conversations() -> None:
    for kind, columns in (("labels", {"prompt", "completion", "label"}), ("conversations", None)):
        dataset = for_method(PAIRS, kind, 0)
        grouped = in_length_groups(dataset, 4)
        assert set(grouped.column_names) == (columns or {"prompt", "completion"})
        for start in range(0, len(dataset), 4):
            members = dataset.to_list()[start : start + 4]
            assert all(row in members for row in grouped.to_list()[start : start + 4])


TOKENIZED = [
    explicit("What is the capital of France?", "Paris.", "France is the capital.", SYSTEM),
    explicit("and then?", "An owl can fly.", "A cow says moo.", user("hi"), reply("hello")),
]


def tokens(trainer: Any) -> list[Row]:
    return [{key: row[key] for key in row if key.endswith("_ids")} for row in trainer.train_dataset]


def config(kind: type, path: Path, **settings: Any) -> Any:
    cpu = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return kind(output_dir=str(path), activation_checkpointing=False, **cpu, **settings)


@pytest.mark.parametrize("form", ["implicit", "as text beside it"])
def test_trl_makes_the_same_tokens_of_both_forms(random_model_dir: Path, tmp_path: Path, form: str) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    other = prompt_in_replies(TOKENIZED)
    if form != "implicit":
        texts = [{**row, "prompt": TOKENIZED[n]["prompt"][-1]["content"]} for n, row in enumerate(other)]
        other, _ = explicit_pairs(texts, "rows")
    reward_model = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    reward_model.config.pad_token_id = tokenizer.pad_token_id
    trainers = {
        DPOTrainer: (DPOConfig, str(random_model_dir), {"prompt_ids", "chosen_ids", "rejected_ids"}),
        RewardTrainer: (RewardConfig, reward_model, {"chosen_ids", "rejected_ids"}),
    }
    for trainer, (config_class, model, columns) in trainers.items():
        ours, theirs = (
            tokens(
                trainer(
                    model=model,
                    args=config(config_class, tmp_path),
                    processing_class=tokenizer,
                    train_dataset=Dataset.from_list(rows),
                )
            )
            for rows in (TOKENIZED, other)
        )
        assert set(ours[0]) == columns
        assert ours == theirs
        assert tokenizer.decode(ours[0]["chosen_ids"]).rstrip().endswith("Paris.<|im_end|>")


def test_the_control_supervises_the_chosen_reply_and_its_end(random_model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    trainer = SFTTrainer(
        model=str(random_model_dir),
        args=config(SFTConfig, tmp_path, assistant_only_loss=True),
        processing_class=tokenizer,
        train_dataset=for_method(TOKENIZED, "conversations", 0),
    )
    supervised = [[t for t in row["labels"] if t != -100] for row in trainer.train_dataset]
    assert [tokenizer.decode(row) for row in supervised] == ["Paris.<|im_end|>", "An owl can fly.<|im_end|>"]


@pytest.mark.skipif(not PUBLIC_ROWS, reason="POSTTRAIN_PUBLIC_ROWS names no folder with public rows")
@pytest.mark.parametrize(
    "file",
    [
        "banghua_dl_schema/dl_dpo_standin.jsonl",
        "ultrafeedback_binarized/trl-lib_train.jsonl",
        "ultrafeedback_binarized/h4_test_prefs.jsonl",
    ],
)
def test_rows_of_public_sets(file: str) -> None:
    lines = (Path(PUBLIC_ROWS or "") / file).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    kept, dropped = explicit_pairs(rows, file)
    wholes = [(row["chosen"], row["rejected"]) for row in rows]
    identical = sum(chosen == rejected for chosen, rejected in wholes)
    ties = sum(
        row.get("score_chosen", 1) == row.get("score_rejected", 0) and row["chosen"] != row["rejected"]
        for row in rows
    )
    assert len(kept) + dropped.total() == len(rows)
    assert (dropped["identical"], dropped["tie"]) == (identical, ties)
    assert identical
    assert set(dropped) <= {"identical", "tie", "duplicate"}
    for row in prompt_in_replies(kept):
        plain = [{"role": m["role"], "content": m["content"]} for m in row["chosen"]]
        assert any(plain == [{"role": m["role"], "content": m["content"]} for m in c] for c, _ in wholes)
