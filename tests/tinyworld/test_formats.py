"""Instruction formats: rows take them in turn, and TRL masks the prompt of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain_helpers.data.loading import load_data
from posttrain_helpers.errors import CourseError
from posttrain_helpers.recipes import load_recipe
from posttrain_helpers.stages.loading import load_model_and_tokenizer
from posttrain_helpers.tinyworld.formats import FORMATS, in_formats, render
from posttrain_helpers.tinyworld.tasks import build_sft_data, training_conversations
from posttrain_helpers.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("output_root")

QUESTION, REPLY = "What is 2 + 3?", "2 + 3 = 5."


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_holds_the_question_and_ends_without_a_space(name: str) -> None:
    prompt, completion = render(name, QUESTION, REPLY)
    assert QUESTION in prompt
    assert REPLY not in prompt
    assert not prompt.endswith(" ")
    assert completion.strip() == REPLY
    assert (prompt + completion).count(REPLY) == 1
    assert render(name, QUESTION)[0] == prompt


def test_no_two_formats_write_the_same_prompt() -> None:
    prompts = [render(name, QUESTION)[0] for name in FORMATS]
    assert len(set(prompts)) == len(prompts)


def test_rows_take_the_formats_in_turn() -> None:
    conversations = training_conversations(7, seed=3)
    rows, suites = build_sft_data(7, 3, formats=["qa", "chatml"])
    for number, (row, conversation) in enumerate(zip(rows, conversations, strict=True)):
        question, reply = (message["content"] for message in conversation["messages"])
        expected = render(("qa", "chatml")[number % 2], question, reply)
        assert (row["prompt"], row["completion"]) == expected
    assert suites == build_sft_data(7, 3)[1]  # items are asked in messages, whatever the training


def test_an_unknown_format_is_one_sentence() -> None:
    with pytest.raises(CourseError, match=r"the format 'chat_ml' does not exist; did you mean 'chatml'"):
        in_formats(training_conversations(1, seed=0), ["chat_ml"])


def test_formats_and_documents_are_not_taken_together() -> None:
    with pytest.raises(CourseError, match=r"data\.formats .* and data\.replay"):
        build_sft_data(4, 0, replay=0.5, formats=["qa"])


@pytest.mark.parametrize("name", FORMATS)
def test_reply_and_end_token_are_supervised_and_nothing_else(name: str, random_model_dir: Path) -> None:
    changes = {"data.n_train": 8, "data.formats": [name], "args.max_length": 1024}
    changes |= {"args.shuffle_dataset": False}
    recipe = load_recipe("templates", "tiny", changes)
    model, tokenizer = load_model_and_tokenizer(random_model_dir, verbose=False)
    train, held_out = load_data(recipe, verbose=False)
    assert train.column_names == ["prompt", "completion"]
    assert held_out[0]["prompt"][0]["role"] == "user"
    data = make_trainer(recipe, model, tokenizer, train, verbose=False).train_dataset
    for row, given in zip(data, train, strict=True):
        trained = [token for token in row["labels"] if token != -100]
        assert tokenizer.decode(trained) == given["completion"] + tokenizer.eos_token
        masked = row["input_ids"][: len(row["input_ids"]) - len(trained)]
        assert tokenizer.decode(masked) == given["prompt"]


def test_the_recipe_trains_on_conversations_of_sft() -> None:
    templates = load_recipe("templates", "tiny")
    sft = load_recipe("sft", "tiny", {"data.n_train": templates.data["n_train"]})
    assert templates.data == {**sft.data, "formats": list(FORMATS)[:5]}
    rows = load_data(sft, verbose=False)[0]
    prompts = load_data(templates, verbose=False)[0]["prompt"]
    assert all(row["messages"][0]["content"] in prompt for row, prompt in zip(rows, prompts, strict=True))
