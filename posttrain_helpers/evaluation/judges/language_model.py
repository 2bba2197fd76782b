"""Language models as judges: they are shown two replies, and the probabilities of their answer are read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.comparison.scores import Item
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import evaluation_mode, left_padded, positions
from posttrain_helpers.messages import is_conversation

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_SIZE = 32  # comparisons


class LanguageModelJudge:
    """Show a language model both replies and read which letter it would answer with.

    Nothing is generated: the two letters' log-probabilities as the beginning of the answer are compared, so
    that every model gives an answer, also one that would have written something else. Look at
    `letter_log_probs` for how likely it is to write a letter at all.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template and padding token.
        template: the user message, with {question}, {first} and {second}.
        letters: the answers for "the first is better" and "the second is better". Of several tokens the first
            in which they differ is read.

    Raises:
        CourseError: a model with a score head, a template without one of its fields, two letters of which one
            begins the other, or a missing chat template or padding token.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, for
    pairwise judging and its position bias.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str,
        letters: tuple[str, str] = ("A", "B"),
    ) -> None:
        _check(model, tokenizer, template, letters)
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.letters = (letters[0], letters[1])

    def letter_log_probs(
        self, items: Sequence[Item], first_replies: Sequence[str], second_replies: Sequence[str]
    ) -> numpy.ndarray:
        """Return the log-probability of each letter as the beginning of the answer.

        Tokens with which both letters begin count for neither.

        Args:
            items: N items; a prompt of several turns is shown as a whole.
            first_replies: N replies to show first.
            second_replies: N replies to show second.

        Returns:
            Nats, shape (N, 2). `numpy.exp(...).sum(1)` is the probability that the answer is a letter.

        Raises:
            CourseError: lists of different length, no items, a prompt or reply of an unknown form, or a
                comparison that is longer than the model's context.
        """
        import numpy as np
        import torch

        _check_pairs(items, first_replies, second_replies)
        asked = zip(items, first_replies, second_replies, strict=True)
        encoded = [self._encode(self.question(*pair)) for pair in asked]
        self._check_fits(items, encoded)
        letters = dict(encoded)
        rows = sorted(letters, key=len)
        found: dict[tuple[int, ...], list[float]] = {}
        with evaluation_mode(self.model), torch.no_grad():
            for start in range(0, len(rows), _BATCH_SIZE):
                batch = rows[start : start + _BATCH_SIZE]
                for row, log_probs in zip(batch, self._next_log_probs(batch), strict=True):
                    found[row] = log_probs[letters[row]].tolist()
        return np.array([found[row] for row, _ in encoded])

    def both_orders(
        self, items: Sequence[Item], left: Sequence[str], right: Sequence[str]
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

    def question(self, item: Item, first: str, second: str) -> str:
        """Return the user message that shows a pair of replies.

        Raises:
            CourseError: a prompt of an unknown form.
        """
        turns = _prompt_messages(item)
        spoken = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
        fields = {
            "question": turns[0]["content"] if len(turns) == 1 else "\n".join(spoken),
            "first": first,
            "second": second,
        }
        # One pass, and not str.format: replies and templates may hold braces of their own.
        return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), self.template)

    def _encode(self, question: str) -> tuple[tuple[int, ...], list[int]]:
        """Return the tokens of the prompt with what both letters begin with, and the next one of each."""
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
        return tuple(first[:shared]), [first[shared], second[shared]]

    def _check_fits(self, items: Sequence[Item], encoded: Sequence[tuple[tuple[int, ...], Any]]) -> None:
        limit = positions(self.model)
        lengths = [len(prompt) + 1 for prompt, _ in encoded]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] > limit:
            raise CourseError(
                f"the comparison of item {items[longest].get('id')!r} has {lengths[longest]} tokens, but the "
                f"judge has {limit} positions; shorten the template, or leave out the longest replies."
            )

    def _next_log_probs(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the log-probabilities of the token that follows each row, shape (rows, V)."""
        padded = left_padded(rows, self.tokenizer.pad_token_id)
        optional = {
            "position_ids": padded["attention_mask"].cumsum(1).sub(1).clamp(min=0).to(self.model.device),
            "logits_to_keep": 1,  # those of a whole prompt and a large vocabulary may not fit into memory
        }
        # The forward of a PEFT model takes anything.
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        known = inspect.signature(model.forward).parameters
        logits = self.model(
            **{name: tensor.to(self.model.device) for name, tensor in padded.items()},
            use_cache=False,
            **{name: value for name, value in optional.items() if name in known},
        ).logits
        return logits[:, -1].float().log_softmax(-1)


def _check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    letters: tuple[str, str],
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


def _check_pairs(items: Sequence[Item], first_replies: Sequence[str], second_replies: Sequence[str]) -> None:
    counts = (len(items), len(first_replies), len(second_replies))
    if isinstance(first_replies, str) or isinstance(second_replies, str):
        raise CourseError("the replies must be lists of texts, but one string was found; write [reply].")
    if not counts[0] or len(set(counts)) > 1:
        raise CourseError(
            f"a judge needs two replies for each item, and at least one item; found {counts[0]} items, "
            f"{counts[1]} first replies and {counts[2]} second ones. Pass three lists of one length."
        )
    for item, *replies in zip(items, first_replies, second_replies, strict=True):
        for reply in replies:
            if not isinstance(reply, str):
                raise CourseError(
                    f"a reply must be a text, but a {type(reply).__name__} was found for item "
                    f"{item.get('id')!r}; of a Generation pass its text."
                )


def _prompt_messages(item: Item) -> list[dict[str, str]]:
    prompt = item.get("prompt")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not is_conversation(prompt):
        raise CourseError(
            f"the prompt of item {item.get('id')!r} must be a text or a list of messages with role and "
            f"content, but it is {str(prompt)[:60]!r}."
        )
    return prompt
