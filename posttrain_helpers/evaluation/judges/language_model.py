"""Language models as judges: they are shown two replies, and the probabilities of their answer are read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judges.base import (
    Item,
    Reply,
    after_prompt,
    as_text,
    check_pairs,
    prompt_messages,
)
from posttrain_helpers.generation.decoding import evaluation_mode, left_padded, positions

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


class LanguageModelJudge:
    """Show a language model both replies and read which letter it would answer with.

    Nothing is generated: the two letters' log-probabilities as the beginning of the answer are compared, so
    that every model gives an answer, also one that would have written something else. Look at
    `letter_log_probs` for how likely it is to write a letter at all.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template and padding token.
        template: the user message, with {question}, {first} and {second}; {first_letter} and {second_letter}
            may be in it as well.
        letters: the answers for "the first is better" and "the second is better"; not necessarily one token.
        batch_size: comparisons in a batch.

    Raises:
        CourseError: a model with a score head, a template without one of its fields, two letters of which one
            begins the other, a missing chat template or padding token, or a batch size below 1.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, for
    pairwise judging and its position bias.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str = DEFAULT_TEMPLATE,
        letters: tuple[str, str] = ("A", "B"),
        batch_size: int = 32,
    ) -> None:
        _check(model, tokenizer, template, letters, batch_size)
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.letters = (letters[0], letters[1])
        self.batch_size = batch_size

    def letter_log_probs(
        self, items: Sequence[Item], first_replies: Sequence[Reply], second_replies: Sequence[Reply]
    ) -> numpy.ndarray:
        """Return the log-probability of each letter as the beginning of the answer.

        Tokens with which both letters begin count for neither.

        Args:
            items: N items; a prompt of several turns is shown as a whole.
            first_replies: N replies to show first, each a text, or the messages after the prompt.
            second_replies: N replies to show second.

        Returns:
            Nats, shape (N, 2). `numpy.exp(...).sum(1)` is the probability that the answer is a letter.

        Raises:
            CourseError: lists of different length, no items, a prompt or reply of an unknown form, or a
                comparison that is longer than the model's context.
        """
        import numpy as np
        import torch

        check_pairs(items, first_replies, second_replies)
        asked = zip(items, first_replies, second_replies, strict=True)
        encoded = [self._encode(self.question(*pair)) for pair in asked]
        self._check_fits(items, encoded)
        # Where each letter is one token, both are read from one forward pass over the prompt.
        wanted: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for index, (prompt, *letters) in enumerate(encoded):
            for side, letter in enumerate(letters):
                wanted.setdefault((*prompt, *letter[:-1]), []).append((index, side))
        steps = max(len(letter) for _, *letters in encoded for letter in letters)
        rows = sorted(wanted, key=len)
        result = np.empty((len(encoded), 2))
        with evaluation_mode(self.model), torch.no_grad():
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                for row, log_probs in zip(batch, self._last_log_probs(batch, steps), strict=True):
                    for index, side in wanted[row]:
                        letter = encoded[index][1 + side]
                        result[index, side] = log_probs[range(-len(letter), 0), letter].sum().item()
        return result

    def both_orders(
        self, items: Sequence[Item], left: Sequence[Reply], right: Sequence[Reply]
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the log-odds of the left replies when they are shown first, and when they are shown second.

        Half the sum is the judge's opinion of the replies, half the difference its lean to the first place.

        Returns:
            Nats, two arrays of shape (N,); above 0 the left reply is preferred.

        Raises:
            CourseError: as `letter_log_probs`.
        """
        first, second = (self.letter_log_probs(items, *pair) for pair in ((left, right), (right, left)))
        return first[:, 0] - first[:, 1], second[:, 1] - second[:, 0]

    def question(self, item: Item, first: Reply, second: Reply) -> str:
        """Return the user message that shows a pair of replies.

        Raises:
            CourseError: a prompt or reply of an unknown form.
        """
        fields = {
            "question": as_text(prompt_messages(item)),
            "first": as_text(after_prompt(item, first)),
            "second": as_text(after_prompt(item, second)),
            "first_letter": self.letters[0],
            "second_letter": self.letters[1],
        }
        # One pass, and not str.format: replies and templates may hold braces of their own.
        return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), self.template)

    def _encode(self, question: str) -> tuple[list[int], list[int], list[int]]:
        """Return the tokens of the prompt, and of each letter what it adds to them."""
        opened = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            tokenize=False,
            # Templates of models that think leave the answer's beginning to the thoughts without it.
            enable_thinking=False,
        )
        # Prompt and letter together: a tokenizer may join the letter to what stands before it.
        first, second = (
            self.tokenizer(opened + letter, add_special_tokens=False)["input_ids"] for letter in self.letters
        )
        shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if not shared:
            raise CourseError(
                f"the tokenizer gives the letters {self.letters[0]!r} and {self.letters[1]!r} no tokens that "
                "tell them apart; choose other letters."
            )
        return first[:shared], first[shared:], second[shared:]

    def _check_fits(self, items: Sequence[Item], encoded: list[tuple[list[int], ...]]) -> None:
        limit = positions(self.model)
        lengths = [len(prompt) + max(len(first), len(second)) for prompt, first, second in encoded]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] > limit:
            raise CourseError(
                f"the comparison of item {items[longest].get('id')!r} has {lengths[longest]} tokens, but the "
                f"judge has {limit} positions; shorten the template, or leave out the longest replies."
            )

    def _last_log_probs(self, rows: Sequence[Sequence[int]], steps: int) -> torch.Tensor:
        """Return the log-probabilities of what follows each of the last tokens, shape (rows, steps, V)."""
        padded = left_padded(rows, self.tokenizer.pad_token_id)
        optional = {
            "position_ids": padded["attention_mask"].cumsum(1).sub(1).clamp(min=0).to(self.model.device),
            "logits_to_keep": steps,  # those of a whole prompt and a large vocabulary may not fit into memory
        }
        known = inspect.signature(_unwrapped(self.model).forward).parameters
        logits = self.model(
            **{name: tensor.to(self.model.device) for name, tensor in padded.items()},
            use_cache=False,
            **{name: value for name, value in optional.items() if name in known},
        ).logits
        return logits[:, -steps:].float().log_softmax(-1)


def _unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model inside a PEFT model, whose own `forward` takes anything."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    letters: tuple[str, str],
    batch_size: int,
) -> None:
    if not model.can_generate():
        raise CourseError(
            f"a {type(model).__name__} has a score head and cannot answer with a letter; pass it to "
            "reward_model_judge(), or pass a language model."
        )
    fields = ("{question}", "{first}", "{second}")
    missing = [field for field in fields if field not in template]
    if missing:
        raise CourseError(
            f"the template lacks {', '.join(missing)}; it needs {' and '.join(fields)}, where the request "
            "and the replies go."
        )
    if isinstance(letters, str) or len(letters) != 2 or not all(letters):
        raise CourseError(f"letters must be two texts such as ('A', 'B'), but {letters!r} was found.")
    first, second = letters
    if first.startswith(second) or second.startswith(first):
        raise CourseError(
            f"one of the letters {first!r} and {second!r} begins with the other, so an answer may mean both; "
            "choose letters that differ from their beginning on."
        )
    if not tokenizer.chat_template:
        raise CourseError(
            "the judge's tokenizer has no chat template; load the model with load_model_and_tokenizer, which "
            "adds one."
        )
    if tokenizer.pad_token_id is None:
        raise CourseError(
            "the judge's tokenizer has no padding token, so comparisons cannot share a batch; load the model "
            "with load_model_and_tokenizer, which picks one, or set tokenizer.pad_token."
        )
    if batch_size < 1:
        raise CourseError(f"batch_size must be at least 1, but {batch_size} was found.")
