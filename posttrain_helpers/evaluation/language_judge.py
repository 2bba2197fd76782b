"""A language model as a judge: it is shown two replies, and the probabilities of its answer are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.evaluation.judge_base import (
    Choice,
    Item,
    Reply,
    after_prompt,
    as_text,
    check_pairs,
    messages_of,
)
from posttrain_helpers.evaluation.letters import LetterReader

if TYPE_CHECKING:
    import numpy

DEFAULT_TEMPLATE = """\
Compare two replies to a request and decide which of them is better. A good reply is correct, helpful and to \
the point. Do not let the order of the replies or their length influence you.

[Request]
{question}

[Reply {first_letter}]
{first}

[Reply {second_letter}]
{second}

Which reply is better? Answer with one letter, {first_letter} or {second_letter}, and nothing else."""


class LanguageModelJudge(LetterReader):
    """Show a language model both replies and read which letter it would answer with.

    Nothing is generated: the two letters' log-probabilities as the beginning of the answer are compared, so
    that every model gives an answer, also one that would have written something else. Look at
    `letter_log_probs` for how likely it is to write a letter at all.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template and padding token.
        name: what to call the judge in tables.
        template: the user message, with {question}, {first} and {second}; {first_letter} and {second_letter}
            may be in it as well.
        letters: the answers for "the first is better" and "the second is better"; not necessarily one token.
        batch_size: texts in a batch; fewer where a large vocabulary needs the memory.

    Raises:
        CourseError: a model with a score head, a template without one of its fields, two letters of which one
            begins the other, a missing chat template or padding token, or a batch size below 1.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, for
    pairwise judging and its position bias.
    """

    FIELDS = ("question", "first", "second")
    TEMPLATE = DEFAULT_TEMPLATE

    def compare(
        self, items: Sequence[Item], first_replies: Sequence[Reply], second_replies: Sequence[Reply]
    ) -> list[Choice]:
        """Return one choice for each item: the first letter's share of the probability of both letters.

        Args:
            items: N items; a prompt of several turns is shown as a whole.
            first_replies: N replies to show first, each a text, or the messages after the prompt.
            second_replies: N replies to show second.

        Raises:
            CourseError: lists of different length, no items, a prompt or reply of an unknown form, or a
                comparison that is longer than the model's context.
        """
        log_probs = self.letter_log_probs(items, first_replies, second_replies)
        return [Choice(_sigmoid(first - second)) for first, second in log_probs.tolist()]

    def letter_log_probs(
        self, items: Sequence[Item], first_replies: Sequence[Reply], second_replies: Sequence[Reply]
    ) -> numpy.ndarray:
        """Return the log-probability of each letter as the beginning of the answer, see `LetterReader.read`.

        Returns:
            Nats, shape (N, 2).

        Raises:
            CourseError: as `compare`.
        """
        check_pairs(items, first_replies, second_replies)
        asked = zip(items, first_replies, second_replies, strict=True)
        return self.read(items, [self.question(*pair) for pair in asked])

    def question(self, item: Item, first: Reply, second: Reply) -> str:
        """Return the user message that shows a pair of replies.

        Raises:
            CourseError: a prompt or reply of an unknown form.
        """
        return self.filled(
            question=as_text(messages_of(item)),
            first=as_text(after_prompt(item, first)),
            second=as_text(after_prompt(item, second)),
            first_letter=self.letters[0],
            second_letter=self.letters[1],
        )


def _sigmoid(difference: float) -> float:
    # Two forms, because exp() of a large positive number overflows.
    if difference >= 0:
        return 1 / (1 + math.exp(-difference))
    return math.exp(difference) / (1 + math.exp(difference))
