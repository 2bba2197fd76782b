from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.rewards.scoring import checked_rewards, reward_name
from posttrain_helpers.rewards.scoring import score_completions as scored_completions


@pytest.fixture
def tokenizer(random_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(random_model_dir)


def score_completions(*arguments: Any, state: Any = None, log: Any = None) -> torch.Tensor:
    return scored_completions(*arguments, state, log)


def length(completions: list, **_: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


ROWS = [{"prompt": "Say", "answer": "moo"}, {"prompt": "What", "answer": "7"}]


def completions(tokenizer: Any) -> list[list[int]]:
    """Two replies, one of which has ended."""
    ids = [tokenizer(text)["input_ids"] for text in ("cow says moo", "3 + 4")]
    return [[*ids[0], tokenizer.eos_token_id], ids[1]]


def test_one_row_of_scores_for_each_function(tokenizer: Any) -> None:
    def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(gold in text) for text, gold in zip(completions, answer, strict=True)]

    scores = score_completions([length, right], tokenizer, ROWS, completions(tokenizer))
    assert scores.tolist() == [[12, 5], [1, 0]]


def test_a_function_gets_texts_ids_columns_and_the_state(tokenizer: Any) -> None:
    found: dict[str, Any] = {}

    def note(**columns: Any) -> list[int]:
        columns.pop("log_extra")("column", ["a", "b"])
        columns.pop("log_metric")("mean", 1.5)
        found.update(columns)
        return [1, 2]

    logged: dict[str, float] = {}
    ids, state = completions(tokenizer), SimpleNamespace(global_step=3)
    rows = [{**row, "completion": "of the data set"} for row in ROWS]
    scores = score_completions([note], tokenizer, rows, ids, state=state, log=logged.__setitem__)
    assert scores.tolist() == [[1, 2]]
    assert logged == {"mean": 1.5}
    assert found == {
        "prompts": ["Say", "What"],
        "completions": ["cow says moo", "3 + 4"],
        "completion_ids": ids,
        "answer": ["moo", "7"],
        "trainer_state": state,
    }


def test_replies_to_conversations_are_messages(tokenizer: Any) -> None:
    def note(completions: list, prompts: list, **_: Any) -> list[float]:
        assert completions[0] == [{"role": "assistant", "content": "cow says moo"}]
        assert prompts[1] == [{"role": "user", "content": "What"}]
        return [0.0, 0.0]

    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert score_completions([note], tokenizer, rows, completions(tokenizer)).shape == (1, 2)


def test_no_opinion_counts_nothing(tokenizer: Any) -> None:
    scores = score_completions([lambda **_: [None, 2]], tokenizer, ROWS, completions(tokenizer))
    assert scores.tolist() == [[0, 2]]


def test_a_wrong_number_of_scores() -> None:
    with pytest.raises(
        CourseError, match=r"'single' returned 1 rewards for 2 replies; return a list with one"
    ):
        checked_rewards("single", [1.0], ["cow", "3 + 4"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(
        CourseError, match=r"'broken' returned -?(nan|inf) for the reply '3 \+ 4'; a reward must be finite"
    ):
        checked_rewards("broken", [1.0, bad], ["cow", "3 + 4"])


def test_the_name_of_a_reward() -> None:
    class Judge:
        def __call__(self, **_: Any) -> list[float]:
            return []

    assert reward_name(length) == "length"
    assert reward_name(Judge()) == "Judge"
    assert reward_name(partial(length, scale=2.0)) == "length"


def test_tensors_and_integers_are_numbers() -> None:
    assert checked_rewards("mine", torch.tensor([1, 2]), ["cow", "3 + 4"]) == [1, 2]
