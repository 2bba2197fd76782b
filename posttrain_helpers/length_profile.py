"""How long the rows of a training set are in tokens, and what a `max_length` would cut off.

    train, _ = load_data(recipe)
    profile = recipe_length_profile(recipe, train, tokenizer)
    profile.plot()

A trainer cuts longer rows at the end without a word: the end of the reply and its end token are lost first,
and a prompt that is too long leaves nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset
    from matplotlib.axes import Axes
    from transformers import PreTrainedTokenizerBase

    from posttrain_helpers.recipes import Recipe

Row = dict[str, Any]
_BATCH = 256


@dataclass(frozen=True, repr=False)
class LengthProfile:
    """Token lengths of the sequences that a trainer makes of a data set.

    Attributes:
        lengths: tokens of every sequence; a pair of replies makes two, each with the prompt.
        sequences_per_row: 2 for pairs, else 1.
        max_length: tokens at which the trainer cuts, None for no limit.
    """

    lengths: tuple[int, ...]
    sequences_per_row: int = 1
    max_length: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the data set."""
        return len(self.lengths) // self.sequences_per_row

    @property
    def cut_rows(self) -> float:
        """Share of the rows that are cut; a pair is if either reply is."""
        if self.max_length is None:
            return 0.0
        size = self.sequences_per_row
        longest = [max(self.lengths[start : start + size]) for start in range(0, len(self.lengths), size)]
        return sum(length > self.max_length for length in longest) / self.rows

    @property
    def lost_tokens(self) -> float:
        """Share of all tokens that lie beyond `max_length`."""
        if self.max_length is None:
            return 0.0
        return sum(max(0, length - self.max_length) for length in self.lengths) / sum(self.lengths)

    @property
    def _noun(self) -> str:
        return "row" if self.sequences_per_row == 1 else "pair"

    def quantile(self, share: float) -> int:
        """Return the length that this share of the sequences does not exceed.

        Raises:
            CourseError: the share is not between 0 and 1.
        """
        import numpy

        if not 0 <= share <= 1:
            raise CourseError(f"a share must be between 0 and 1, but it is {share!r}.")
        return int(numpy.quantile(self.lengths, share, method="inverted_cdf"))

    def histogram(self, bins: int = 40) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the number of sequences in each bin and the edges of the bins, in tokens.

        Args:
            bins: between 0 and the greatest length.
        """
        import numpy

        return numpy.histogram(self.lengths, bins=bins, range=(0, max(self.lengths)))

    def sentence(self) -> str:
        """Return what the profile says, in one sentence."""
        noun = self._noun
        text = (
            f"{self.rows:,} {noun}{'' if self.rows == 1 else 's'} of {min(self.lengths):,} to "
            f"{max(self.lengths):,} tokens (median {self.quantile(0.5):,}, 95 % within "
            f"{self.quantile(0.95):,})"
        )
        if self.max_length is None:
            return f"{text}; no max_length is set, so nothing is cut."
        return (
            f"{text}; max_length {self.max_length:,} cuts {self.cut_rows:.1%} of the {noun}s and "
            f"{self.lost_tokens:.1%} of the tokens."
        )

    def plot(self, axes: Axes | None = None, title: str = "") -> Axes:
        """Draw the histogram of the lengths; what lies beyond `max_length` has another colour.

        Args:
            axes: where to draw; None makes a figure.
            title: of the panel.
        """
        from posttrain_helpers.plots import BLUE, ORANGE, new_figure

        axes = axes if axes is not None else new_figure(height=3.4)[1]
        edges, limit = self.histogram()[1], self.max_length
        groups, colours, labels = [self.lengths], [BLUE], [None]
        if limit is not None:
            beyond = [length for length in self.lengths if length > limit]
            groups = [[length for length in self.lengths if length <= limit], beyond]
            colours, labels = [BLUE, ORANGE], ["kept whole", f"cut: {self.cut_rows:.1%} of the {self._noun}s"]
            axes.axvline(limit, color="black", linestyle="--", linewidth=1.2, label=f"max_length {limit:,}")
        axes.hist(groups, bins=edges, stacked=True, color=colours, label=labels)
        axes.set_axisbelow(True)
        if limit is not None:
            axes.legend(loc="upper right")
        axes.set(xlabel="tokens", ylabel="sequences", title=title)
        return axes

    def __repr__(self) -> str:
        return self.sentence()


def length_profile(
    dataset: Dataset | Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    verbose: bool = True,
) -> LengthProfile:
    """Count the tokens of a training set as the chat template writes it.

    Args:
        dataset: as `load_data` returns it: rows with messages, a prompt and a completion, a pair of replies,
            or a prompt alone.
        tokenizer: with a chat template.
        max_length: tokens at which the trainer cuts.
        verbose: print the profile's sentence.

    Raises:
        CourseError: no rows, rows of another form, no chat template or one that refuses a row, or a limit
            that is no count.
    """
    if max_length is not None and (
        isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1
    ):
        raise CourseError(f"max_length must be a whole number of at least 1, but it is {max_length!r}.")
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so the lengths of conversations are not known; load it with "
            "load_model_and_tokenizer, which adds one."
        )
    lengths: list[int] = []
    size, batch = 1, []
    for row in dataset:
        sequences = _sequences(row)
        size = len(sequences)
        batch += sequences
        if len(batch) >= _BATCH:
            lengths += _token_counts(batch, tokenizer)
            batch = []
    lengths += _token_counts(batch, tokenizer)
    if not lengths:
        raise CourseError("the data set has no rows, so it has no lengths; check what was dropped from it.")
    profile = LengthProfile(tuple(lengths), size, max_length)
    if verbose:
        print(profile.sentence())
    return profile


def recipe_length_profile(
    recipe: Recipe, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, verbose: bool = True
) -> LengthProfile:
    """Return the length profile of a recipe's training set.

    Args:
        recipe: its `data.max_length`, else its `args.max_length`, is the limit.
        dataset: as `load_data` returns it.
        tokenizer: of the recipe's model.
        verbose: print the profile's sentence.
    """
    limit = recipe.data.get("max_length")
    limit = recipe.args.get("max_length") if limit is None else limit
    return length_profile(dataset, tokenizer, limit, verbose)


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


def _token_counts(conversations: list[list[Row]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    from jinja2 import TemplateError

    if not conversations:
        return []
    texts = []
    for messages in conversations:
        asks = messages[-1]["role"] == "user"
        try:
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise CourseError(
                f"the chat template refuses a row with the turns {roles}: {error}; correct the row, or give "
                "the tokenizer another chat template."
            ) from error
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
