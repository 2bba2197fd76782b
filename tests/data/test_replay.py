"""Replayed documents: there with the stated share, every token of them trained, among whole conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.data.replay import tokenized_rows
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.tinyworld.tasks import build_sft_data
from posttrain_helpers.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("output_root")

SMALL = {"data.n_train": 40}
TURNS = [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "3 + 4 = 7."}]


@pytest.fixture
def tokenizer(random_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(random_model_dir)


def trained_text(row: dict[str, list[int]], tokenizer: Any) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_stated_share_of_the_rows_are_documents(tokenizer, share: float) -> None:
    train, held_out = load_data(
        load_recipe("replay_sft", "tiny", {**SMALL, "data.replay": share}), tokenizer=tokenizer
    )
    assert train.column_names == ["input_ids", "labels"]
    documents = [number for number, row in enumerate(train) if row["labels"] == row["input_ids"]]
    assert len(documents) == share * len(train) == share * 40 / (1 - share)
    assert documents != list(range(documents[0], documents[0] + len(documents)))  # not in one piece
    assert {item["task"] for item in held_out} == {"facts"}


def test_what_is_trained_of_each_kind(tokenizer) -> None:
    document, conversation = tokenized_rows([{"text": "A cow says moo."}, {"messages": TURNS}], tokenizer)
    assert tokenizer.decode(document["input_ids"]) == "A cow says moo.<|endoftext|>"
    assert document["labels"] == document["input_ids"]
    assert tokenizer.decode(conversation["input_ids"]) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert trained_text(conversation, tokenizer) == "3 + 4 = 7.<|im_end|>"


def test_conversations_are_trained_as_without_documents(random_model_dir: Path) -> None:
    def trained(recipe: str, **changes: Any) -> list[list[int]]:
        model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
        made = load_recipe(recipe, "tiny", {**SMALL, **changes})
        rows, _ = load_data(made, verbose=False, tokenizer=tokenizer)
        data = make_trainer(made, model, tokenizer, rows, verbose=False).train_dataset
        return sorted([row["input_ids"], row["labels"]] for row in data)

    plain = trained("sft", **{"args.max_length": 192})
    mixed = trained("replay_sft")
    assert len(mixed) == len(plain) + 10
    assert [row for row in mixed if row[0] != row[1]] == plain


def test_another_family_ends_documents_with_its_own_token(tmp_path: Path) -> None:
    from small_models import foreign_tokenizer

    foreign_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    document, conversation = tokenized_rows([{"text": "A cow says moo."}, {"messages": TURNS}], tokenizer)
    assert tokenizer.decode(document["input_ids"]).endswith("</s>")
    assert document["labels"] == document["input_ids"]
    assert trained_text(conversation, tokenizer).endswith("</s>")


def test_no_replay_changes_nothing() -> None:
    rows, _ = build_sft_data(30, 0)
    assert build_sft_data(30, 0, replay=0.0)[0] == rows
    mixed = build_sft_data(30, 0, replay=0.25)[0]
    assert [row for row in sorted(mixed, key=lambda row: row["id"]) if "messages" in row] == sorted(
        rows, key=lambda row: row["id"]
    )


def test_the_seed_draws_documents_of_its_own() -> None:
    def texts(seed: int) -> set[str]:
        return {row["text"] for row in build_sft_data(8, seed, replay=0.5)[0] if "text" in row}

    assert len(texts(0)) == len(texts(1)) == 8
    assert texts(0).isdisjoint(texts(1))


def test_documents_need_the_tokenizer_and_a_template_that_marks_replies(tokenizer) -> None:
    with pytest.raises(CourseError, match=r"pass the model's tokenizer: load_data\(recipe, tokenizer="):
        load_data(load_recipe("replay_sft", "tiny", SMALL))
    # Earlier replies look otherwise than the last one.
    tokenizer.chat_template = "{{ messages|length }}{% for turn in messages %}{{ turn.content }}{% endfor %}"
    with pytest.raises(CourseError, match="replies of the data cannot be told from the questions"):
        load_data(load_recipe("replay_sft", "tiny", SMALL), tokenizer=tokenizer)
