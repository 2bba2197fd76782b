"""How long the rows of a training set are in tokens, and what a `max_length` would cut off.

    train, _ = load_data(recipe)
    print(length_sentence(token_lengths(train, tokenizer), recipe.args.get("max_length")))

Supervised fine-tuning cuts longer rows at the end without a word: the end of the reply and its end token are
lost first, and a prompt that is too long leaves nothing to learn from. DPO cuts replies too and drops pairs
whose prompt alone is too long; training a reward model drops every pair that has a longer side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_BAR = 30  # signs of the longest bar


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
        asks = "messages" not in row  # a prompt alone is written up to where its reply begins
        texts = [_written(messages, tokenizer, asks) for messages in _sequences(row)]
        lengths.append(
            [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
        )
    if not lengths:
        raise CourseError("the data set has no rows, so it has no lengths; check what was dropped from it.")
    return lengths


def length_sentence(lengths: Sequence[Sequence[int]], max_length: int | None = None) -> str:
    """Return how long rows are and what is cut of them, in one sentence.

    Args:
        lengths: as `token_lengths` returns them.
        max_length: tokens at which the trainer cuts, or drops the row; None for no limit.
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


def length_counts(lengths: Sequence[Sequence[int]]) -> dict[int, dict[str, float]]:
    """Count rows by length, and what a `max_length` at the upper end of each class would cut.

    Args:
        lengths: as `token_lengths` returns them; of a pair the longer sequence counts.

    Returns:
        For each power of two the rows of as many tokens or fewer, down to half of it, and the shares of rows
        and tokens that are cut there.
    """
    import numpy

    table = numpy.array(lengths)
    longest, counts = table.max(axis=1), {}
    edge = 1 << int(longest.min() - 1).bit_length()
    while edge < 2 * longest.max():
        counts[edge] = {
            "rows": int(((longest > edge // 2) & (longest <= edge)).sum()),
            "rows_cut": float((longest > edge).mean()),
            "tokens_cut": float((table - edge).clip(min=0).sum() / table.sum()),
        }
        edge *= 2
    return counts


def length_profile(counts: Mapping[int, Mapping[str, float]]) -> str:
    """Return a histogram of lengths as text, made of `length_counts`."""
    most = max(each["rows"] for each in counts.values())
    lines = [f"{'tokens':>15}  {'rows':>8}  {'':{_BAR}}  cut where max_length is the upper end"]
    for edge, each in counts.items():
        bar = "█" * round(_BAR * each["rows"] / most)
        lines.append(
            f"{edge // 2 + 1:>6,} – {edge:>6,}  {each['rows']:8,}  {bar:{_BAR}}  "
            f"{each['rows_cut']:.1%} of the rows, {each['tokens_cut']:.1%} of the tokens"
        )
    return "\n".join(lines)


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


def _written(messages: list[Row], tokenizer: PreTrainedTokenizerBase, asks: bool) -> str:
    """Return a conversation as the chat template writes it."""
    from jinja2 import TemplateError

    asks = asks and messages[-1]["role"] == "user"
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise CourseError(
            f"the chat template refuses a row with the turns {roles}: {error}; correct the row, or give "
            "the tokenizer another chat template."
        ) from error
