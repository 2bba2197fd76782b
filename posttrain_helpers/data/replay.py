"""Conversations and documents in one training set: a trainer takes both only as tokens.

Of a conversation the replies are trained, of a document every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row
from posttrain_helpers.models.chat_markers import check_markers, mark_replies
from posttrain_helpers.models.chatml import END_OF_DOCUMENT

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def tokenized_rows(rows: list[Row], tokenizer: PreTrainedTokenizerBase | None) -> Dataset:
    """Return rows as tokens and labels, in their order.

    Args:
        rows: each with `messages`, or with `text`.
        tokenizer: its chat template gets markers of replies if it has none.

    Returns:
        The columns `input_ids` and `labels` (-100 where a token is not trained).

    Raises:
        CourseError: there is no tokenizer, or its chat template cannot mark replies.
    """
    from datasets import Dataset

    if tokenizer is None:
        raise CourseError(
            "documents and conversations go into one training set as tokens; pass the model's tokenizer: "
            "load_data(recipe, tokenizer=tokenizer)."
        )
    mark_replies(tokenizer)
    check_markers(tokenizer)
    return Dataset.from_list([_tokenized(row, tokenizer) for row in rows])


def _tokenized(row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    if "text" in row:
        end = END_OF_DOCUMENT if END_OF_DOCUMENT in tokenizer.get_vocab() else tokenizer.eos_token
        ids = tokenizer(row["text"] + end)["input_ids"]
        return {"input_ids": ids, "labels": list(ids)}
    written = tokenizer.apply_chat_template(
        row["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    ids, masks = written["input_ids"], written["assistant_masks"]
    return {
        "input_ids": ids,
        "labels": [token if mask else -100 for token, mask in zip(ids, masks, strict=True)],
    }
