"""How long the rows of a training set are in tokens, and what a `max_length` would cut off.

    train, _ = load_data(recipe)
    print(length_sentence(token_lengths(train, tokenizer), recipe.args.get("max_length")))

A trainer cuts longer rows at the end without a word: the end of the reply and its end token are lost first,
and a prompt that is too long leaves nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]


def token_lengths(dataset: Dataset | Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Count the tokens of a training set as the chat template writes it.

    Args:
        dataset: as `load_data` returns it: rows with messages, a prompt and a completion, a pair of replies,
            or a prompt alone.
        tokenizer: with a chat template.

    Returns:
        For each row the tokens of each sequence that a trainer makes of it: a pair of replies makes two, each
        with the prompt.

    Raises:
        CourseError: no rows, rows of another form, no chat template or one that refuses a row.
    """
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so the lengths of conversations are not known; load it with "
            "load_model_and_tokenizer, which adds one."
        )
    lengths = []
    for row in dataset:
        texts = [_written(messages, tokenizer) for messages in _sequences(row)]
        lengths.append([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])
    if not lengths:
        raise CourseError("the data set has no rows, so it has no lengths; check what was dropped from it.")
    return lengths


def length_sentence(lengths: Sequence[Sequence[int]], max_length: int | None = None) -> str:
    """Return how long rows are and what is cut of them, in one sentence.

    Args:
        lengths: as `token_lengths` returns them.
        max_length: tokens at which the trainer cuts, None for no limit.
    """
    import numpy

    table = numpy.array(lengths)
    noun = "row" if table.shape[1] == 1 else "pair"
    half, most = numpy.quantile(table, (0.5, 0.95), method="inverted_cdf")
    text = (
        f"{len(table):,} {noun}{'' if len(table) == 1 else 's'} of {table.min():,} to {table.max():,} tokens "
        f"(median {half:,}, 95 % within {most:,})"
    )
    if max_length is None:
        return f"{text}; no max_length is set, so nothing is cut."
    beyond = (table - max_length).clip(min=0)
    cut_rows = beyond.any(axis=1).mean()
    return (
        f"{text}; max_length {max_length:,} cuts {cut_rows:.1%} of the {noun}s and "
        f"{beyond.sum() / table.sum():.1%} of the tokens."
    )


def _sequences(row: Row) -> list[list[Row]]:
    """Return the conversations that a trainer makes of a row."""
    if "messages" in row:
        return [row["messages"]]
    if "chosen" in row and "rejected" in row:
        return [[*row.get("prompt", ()), *row[side]] for side in ("chosen", "rejected")]
    if "prompt" in row:
        return [[*row["prompt"], *row.get("completion", ())]]
    raise CourseError(
        f"a row has neither messages, nor a prompt, nor chosen and rejected; found the columns "
        f"{', '.join(map(str, row))}. Give it what load_data returns."
    )


def _written(messages: list[Row], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation as the chat template writes it."""
    from jinja2 import TemplateError

    asks = messages[-1]["role"] == "user"
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise CourseError(
            f"the chat template refuses a row with the turns {roles}: {error}; correct the row, or give "
            "the tokenizer another chat template."
        ) from error
