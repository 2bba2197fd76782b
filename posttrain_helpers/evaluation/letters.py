"""The probabilities of two letters as the beginning of a language model's answer; nothing is generated."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.judge_base import Item

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LetterReader:
    """Ask a language model for one of two letters and read how likely it is to begin its answer with each.

    Attributes:
        FIELDS: of a kind of reader: what its messages are filled with.
        TEMPLATE: of a kind of reader: its messages, unless it is given others.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template and padding token.
        name: what to call it in tables.
        template: of the user message, with every one of `FIELDS` in braces; None takes `TEMPLATE`.
        letters: the two answers; not necessarily one token.
        batch_size: texts in a batch; fewer where a large vocabulary needs the memory.

    Raises:
        CourseError: a model with a score head, a template without one of its fields, two letters of which one
            begins the other, a missing chat template or padding token, or a batch size below 1.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ()
    TEMPLATE: ClassVar[str] = ""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "language model",
        template: str | None = None,
        letters: tuple[str, str] = ("A", "B"),
        batch_size: int = 32,
    ) -> None:
        template = self.TEMPLATE if template is None else template
        _check(model, tokenizer, template, self.FIELDS, letters, batch_size)
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.letters = (letters[0], letters[1])
        self.batch_size = batch_size

    def filled(self, **fields: str) -> str:
        """Return the message for these fields; other words in braces stay as they are."""
        # One pass, and not str.format: replies and templates may hold braces of their own.
        return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), self.template)

    def read(self, items: Sequence[Item], questions: Sequence[str]) -> numpy.ndarray:
        """Return the log-probability of each letter as the beginning of the answer.

        Tokens with which both letters begin count for neither.

        Args:
            items: N items, for their names in an error.
            questions: the user message about each item.

        Returns:
            Nats, shape (N, 2). `numpy.exp(...).sum(1)` is the probability that the answer is a letter.

        Raises:
            CourseError: a message that is longer than the model's context.
        """
        import numpy as np

        encoded = [self._encode(question) for question in questions]
        self._check_fits(items, encoded)
        # Where each letter is one token, both are read from one forward pass over the prompt.
        wanted: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for index, (prompt, *letters) in enumerate(encoded):
            for side, letter in enumerate(letters):
                wanted.setdefault((*prompt, *letter[:-1]), []).append((index, side))
        tail = max(len(letter) for _, *letters in encoded for letter in letters)
        result = np.empty((len(encoded), 2))
        for row, log_probs in self._next_token_log_probs(list(wanted), tail):
            for index, side in wanted[row]:
                letter = encoded[index][1 + side]
                steps = log_probs[-len(letter) :]
                result[index, side] = steps[range(len(letter)), letter].sum().item()
        return result

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
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        lengths = [len(prompt) + max(len(first), len(second)) for prompt, first, second in encoded]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if limit is not None and lengths[longest] > limit:
            raise CourseError(
                f"the comparison of item {items[longest].get('id')!r} has {lengths[longest]} tokens, but the "
                f"model of the judge {self.name!r} has {limit} positions; shorten the template, or leave out "
                "the longest replies."
            )

    def _next_token_log_probs(
        self, rows: list[tuple[int, ...]], tail: int
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Yield each row with the log-probabilities after each of its last `tail` tokens."""
        import torch

        from posttrain_helpers.generation import evaluation_mode, right_padded

        model = self.model
        # Most models can leave out the logits of the tokens before, which nobody asks for.
        leaves_out = "logits_to_keep" in inspect.signature(_unwrapped(model).forward).parameters
        with evaluation_mode(model), torch.no_grad():
            for batch in self._batches(sorted(rows, key=len, reverse=True), tail, leaves_out):
                padded = right_padded(batch, self.tokenizer.pad_token_id)
                inputs = {key: tensor.to(model.device) for key, tensor in padded.items()}
                kept = {"logits_to_keep": _kept(batch, tail)} if leaves_out else {}
                logits = model(**inputs, use_cache=False, **kept).logits
                offset = len(batch[0]) - logits.shape[1]
                for index, row in enumerate(batch):
                    end = len(row) - offset
                    yield row, logits[index, max(0, end - tail) : end].float().log_softmax(-1)

    def _batches(
        self, ordered: list[tuple[int, ...]], tail: int, leaves_out: bool
    ) -> Iterator[list[tuple[int, ...]]]:
        """Cut rows, the longest first, into batches whose logits fit into memory."""
        from posttrain_helpers.divergence import MOST_LOGITS

        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        start = 0
        while start < len(ordered):
            batch = ordered[start : start + self.batch_size]
            while len(batch) > 1:
                positions = _kept(batch, tail) if leaves_out else len(batch[0])
                if len(batch) * positions * vocabulary <= MOST_LOGITS:
                    break
                batch = batch[: len(batch) // 2]
            yield batch
            start += len(batch)


def _kept(batch: list[tuple[int, ...]], tail: int) -> int:
    """Return how many last positions hold the last `tail` tokens of every row; the longest row is first."""
    return len(batch[0]) - len(batch[-1]) + tail


def _unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model inside a PEFT model, whose own `forward` takes anything."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    fields: Sequence[str],
    letters: tuple[str, str],
    batch_size: int,
) -> None:
    if not model.can_generate():
        raise CourseError(
            f"a {type(model).__name__} has a score head and cannot answer with a letter; pass it to "
            "reward_model_judge(), or pass a language model."
        )
    missing = [field for field in fields if f"{{{field}}}" not in template]
    if missing:
        raise CourseError(
            f"the template lacks {', '.join(f'{{{field}}}' for field in missing)}; it needs "
            f"{' and '.join(f'{{{field}}}' for field in fields)}, where the request and the replies go."
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
