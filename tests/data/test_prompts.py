from __future__ import annotations

from typing import Any

import pytest

from posttrain_helpers.data.prompts import (
    FAULTS,
    prompt_dataset,
    usable_prompts,
)
from posttrain_helpers.errors import CourseError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ASSISTANT = {"role": "assistant", "content": "yes"}


def test_texts_become_messages_and_messages_stay() -> None:
    rows = [{"prompt": "one?"}, {"prompt": [{"role": "system", "content": "s"}, user("two?")]}]
    kept, dropped = usable_prompts(rows, "mine")
    assert [row["prompt"] for row in kept] == [[user("one?")], rows[1]["prompt"]]
    assert not dropped


def test_every_other_column_is_kept_for_reward_functions() -> None:
    row = {"prompt": "one?", "answer": "7", "level": 3, "notes": None}
    (kept,), _ = usable_prompts([row], "mine")
    assert kept == {**row, "prompt": [user("one?")]}
    (plain,), _ = usable_prompts([{"prompt": [{**user("one?"), "weight": 1}]}], "mine")
    assert plain["prompt"] == [user("one?")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": " \n"}, "empty prompt"),
        ({"prompt": []}, "empty prompt"),
        ({"prompt": None}, "empty prompt"),
        ({"prompt": [user("  ")]}, "empty prompt"),
        ({"prompt": [user("one?"), ASSISTANT]}, "prompt that does not end with a user's turn"),
        ({"prompt": [{"role": "system", "content": "s"}]}, "prompt that does not end with a user's turn"),
        ({"prompt": [{"role": "narrator", "content": "one?"}]}, "unknown role"),
        ({"prompt": [{"role": "tool", "content": "one?"}]}, "tool call"),
        ({"prompt": ["one?"]}, "not conversational"),
        ({"prompt": 7}, "not conversational"),
        ({"prompt": "one?", "answer": " "}, "no answer"),
        ({"prompt": "one?", "answer": None}, "no answer"),
        ({"prompt": " good? "}, "duplicate"),
    ],
)
def test_what_is_dropped_is_counted(row: dict[str, Any], reason: str) -> None:
    kept, dropped = usable_prompts([{"prompt": "good?"}, row], "mine")
    assert len(kept) == 1
    [(found, count)] = dropped.items()
    assert found.startswith(reason)
    assert reason in FAULTS
    assert count == 1


def test_nothing_left_says_why() -> None:
    rows = [{"prompt": ""}, {"prompt": [user("one?"), ASSISTANT]}]
    with pytest.raises(CourseError, match="no row of 'mine' is left, 1 empty prompt, 1 prompt that does"):
        usable_prompts(rows, "mine")
    assert usable_prompts([], "mine") == ([], {})


def test_missing_columns() -> None:
    with pytest.raises(CourseError, match=r"'mine' has no column 'prompt' .* found the columns text"):
        usable_prompts([{"text": "one?"}], "mine")
    with pytest.raises(CourseError, match=r"columns are those of the adapter 'gsm8k': set data\.adapter to"):
        usable_prompts([{"question": "2 + 1?", "answer": "#### 3"}], "mine")


@pytest.mark.parametrize("name", ["prompts", "completions", "completion_ids", "trainer_state", "log_metric"])
def test_columns_whose_names_trl_needs(name: str) -> None:
    with pytest.raises(CourseError, match=f"'mine' has a column '{name}', a name under which TRL"):
        usable_prompts([{"prompt": "one?", name: 1}], "mine")


@pytest.mark.parametrize("name", ["image", "images"])
def test_a_column_of_pictures_is_named(name: str) -> None:
    with pytest.raises(
        CourseError, match=f"'mine' has a column '{name}', whose values TRL takes for pictures"
    ):
        usable_prompts([{"prompt": "one?", name: None}, {"prompt": "two?", name: "two.png"}], "mine")
    assert len(usable_prompts([{"prompt": "one?", name: None}], "mine")[0]) == 1


LARGE = 123456789012345678901234567890


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([5, "a", 0.5, None], ["5", "a", "0.5", None]),
        (["a", 5, True], ["a", "5", "True"]),
        ([LARGE, 5], [str(LARGE), "5"]),
        ([2**63], [str(2**63)]),
        ([2**60 + 1, 0.5], [str(2**60 + 1), "0.5"]),
        ([5, 0.5], [5.0, 0.5]),
        ([5, None, 7], [5, None, 7]),
        (["a", "b"], ["a", "b"]),
        ([["a"], ["b", "c"]], [["a"], ["b", "c"]]),
    ],
)
def test_a_column_has_values_of_one_kind(answers: list[Any], expected: list[Any]) -> None:
    rows = [{"prompt": [user(f"{number}?")], "answer": answer} for number, answer in enumerate(answers)]
    assert prompt_dataset(rows, "grpo", "mine")["answer"][:] == expected


@pytest.mark.parametrize("answers", [[["a"], "a"], [{"a": 1}, {"a": "x"}], [[LARGE], [1]]])
def test_columns_that_have_nothing_in_common(answers: list[Any]) -> None:
    rows = [{"prompt": [user(f"{number}?")], "answer": answer} for number, answer in enumerate(answers)]
    with pytest.raises(CourseError, match="the column 'answer' of 'mine' holds values of different kinds"):
        prompt_dataset(rows, "grpo", "mine")


def test_a_data_set_has_the_columns_of_all_rows() -> None:
    rows = [{"prompt": [user("one?")], "entity": "a"}, {"prompt": [user("two?")], "answer": "7"}]
    dataset = prompt_dataset(rows, "grpo", "mine")
    assert dataset.column_names == ["prompt", "entity", "answer"]
    assert dataset["answer"][:] == [None, "7"]
    with pytest.raises(CourseError, match="'grpo' samples replies to prompts, but the source 'mine' holds"):
        prompt_dataset([{"messages": [user("one?"), ASSISTANT]}], "grpo", "mine")
