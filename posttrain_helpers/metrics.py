"""Measures of replies: correctness (strict and lenient), repetition, diversity, length and loss."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.plain_text import holds_words, plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A minus is a sign only where no operand stands directly before it: "10-3" holds 10 and 3, "= -3" holds -3.
# Digits that follow a letter belong to a name ("H2O", "gpt2"); commas group exactly three digits.
_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9_])
        (?P<sign>(?<![)\]%])[-\u2212])?
        [$\u20ac\u00a3]? (?P<inner_sign>(?<=[$\u20ac\u00a3])[-\u2212])?
        (?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9_.])\.[0-9]+)
        (?P<exponent>[eE][-+]?[0-9]{1,3}(?![0-9]))?""",
    re.VERBOSE,
)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, or None when it holds none.

    Understands signs, decimals, thousands separators ("1,000"), a currency sign before the number, units and
    punctuation after it ("$72", "72.", "72 kg", "72%"). Number words and fractions are not numbers.

    Args:
        text: a reply.
    """
    found = list(_NUMBER.finditer(plain_text(text)))
    return _value(found[-1]) if found else None


def numbers_equal(left: str | float | Decimal, right: str | float | Decimal) -> bool:
    """Return whether both sides are the same number, however they are written ("72.0", "$72", "72.", 72).

    Args:
        left: a number, or a text that is one number and nothing else.
        right: the same.

    Returns:
        False also when a side is no number. The comparison is exact: 0.333 does not equal 1/3.
    """
    first, second = _as_number(left), _as_number(right)
    return first is not None and first == second


def strict_match(reply: str, item: Mapping[str, Any]) -> bool | None:
    """Return whether the reply is one of the complete replies that the item accepts: content and format.

    Args:
        reply: the text of the reply; blanks around it and the spelling of quotes and digits do not count.
        item: a held-out item; its "accepted" lists complete replies.

    Returns:
        None when the item accepts none, that is, cannot be scored strictly.

    Raises:
        CourseError: when "accepted" is one string, in which every fragment would count as correct.
    """
    accepted = item.get("accepted")
    if isinstance(accepted, str):
        raise CourseError(
            f"'accepted' must be a list of complete replies; found the text {accepted!r}. Put it into a list."
        )
    if not accepted:
        return None
    return plain_text(reply).strip() in {plain_text(candidate).strip() for candidate in accepted}


def lenient_match(reply: str, item: Mapping[str, Any]) -> bool | None:
    """Return whether the reply holds the answer, whatever stands around it.

    A number must be the *last* number of the reply, compared by value: 9 is not found in "19", and 72 is
    found in "72.0", "72." and "$72". Words must occur as whole words, in any case, as `holds_words` finds
    them. A reply that lists many candidates, or denies the right one, passes too: read this score beside
    `strict_match`.

    Args:
        reply: the text of the reply.
        item: a held-out item; its "answer" is a text or a number.

    Returns:
        None when the answer is None, that is, cannot be scored.

    Raises:
        CourseError: when the answer is empty, which every reply would hold.
    """
    answer = item.get("answer")
    if answer is None:
        return None
    number = _as_number(answer)
    if number is not None:
        return last_number(reply) == number
    if not str(answer).split():
        raise CourseError(
            "The answer of an item is empty; every reply would hold it. Use None for 'no answer'."
        )
    return holds_words(reply, str(answer))


def word_count(text: str) -> int:
    """Return the number of words, separated by blanks."""
    return len(text.split())


def repetition_rate(text: str, n: int = 3) -> float:
    """Return the share of the n-grams of words that occurred before in the same text: 0 never, near 1 a loop.

    Args:
        text: one reply; fewer than `n` words give 0.
        n: words per n-gram.

    Raises:
        CourseError: when `n` is less than 1.

    Source: seq-rep-n of Welleck et al. (2020), arXiv:1908.04319, here on words.
    """
    ngrams = _ngrams(text, n)
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Return the number of different n-grams of words divided by all n-grams, over all texts together.

    Args:
        texts: replies; when none has `n` words the result is 0.
        n: words per n-gram.

    Raises:
        CourseError: when `n` is less than 1, or `texts` is one string.

    Source: Li et al. (2016), arXiv:1510.03055, section 5.
    """
    ngrams = [ngram for text in _several(texts) for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def text_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], batch_size: int = 16
) -> list[tuple[float, int]]:
    """Return for each text its negative log-likelihood and the number of tokens that it is a sum over.

    The first token is given, not predicted. Divide the two for the mean loss per text, the form that a paired
    comparison needs.

    Args:
        model: a causal language model, in any mode; the mode is restored.
        tokenizer: its tokenizer, with a padding token.
        texts: plain texts, read as they are (no chat template).
        batch_size: texts per forward pass; fewer where a large vocabulary needs the memory.

    Returns:
        One (loss in nats, number of predicted tokens) per text, in the order of `texts`.

    Raises:
        CourseError: when there is no text, a text has fewer than two tokens or more than the model can read,
            the tokenizer cannot pad, or a loss is not finite.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from posttrain_helpers.divergence import MOST_LOGITS
    from posttrain_helpers.generation import evaluation_mode

    texts = list(_several(texts))
    if not texts or batch_size < 1:
        raise CourseError(
            f"A loss needs at least one text and batch_size >= 1; found {len(texts)} texts and batch_size="
            f"{batch_size}. Pass held-out texts."
        )
    if tokenizer.pad_token_id is None:
        raise CourseError(
            "The tokenizer has no padding token. Load it with load_model_and_tokenizer, which adds one."
        )
    ids = tokenizer(texts)["input_ids"]
    limit = getattr(model.config, "max_position_embeddings", None) or math.inf
    for text, tokens in zip(texts, ids, strict=True):
        if not 2 <= len(tokens) <= limit:
            raise CourseError(
                f"Each text must have from 2 to {limit} tokens; found {len(tokens)} in {text[:40]!r}. "
                "Drop or split it."
            )

    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))  # little padding per batch
    # The loss makes several copies of the logits; a CPU is also slower at blocks that no cache holds.
    vocabulary = model.get_output_embeddings().weight.shape[0]
    batch_size = max(1, min(batch_size, MOST_LOGITS // 16 // (max(map(len, ids)) * vocabulary)))
    losses: list[tuple[float, int]] = [(0.0, 0)] * len(ids)
    with evaluation_mode(model), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [ids[row] for row in rows]}, padding_side="right", return_tensors="pt"
            ).to(model.device)
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
            targets = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
            sums = cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=1)
            for row, total in zip(rows, sums.tolist(), strict=True):
                losses[row] = (total, len(ids[row]) - 1)
    broken = sum(not math.isfinite(total) for total, _ in losses)
    if broken:
        raise CourseError(
            f"The loss of {broken} of {len(losses)} texts is not finite; the model's weights have probably "
            "diverged. Train again with a smaller learning rate."
        )
    return losses


def _value(match: re.Match[str]) -> Decimal:
    sign = "-" if match["sign"] or match["inner_sign"] else ""
    return Decimal(sign + match["digits"].replace(",", "") + (match["exponent"] or ""))


def _as_number(value: str | float | Decimal) -> Decimal | None:
    """Return a number, or a text that is one number with at most a unit sign or a full stop, as a Decimal."""
    text = plain_text(str(value)).strip()
    match = _NUMBER.match(text)
    return _value(match) if match and text[match.end() :] in ("", ".", "%", "%.") else None


def _several(texts: Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        raise CourseError("Expected a list of texts; found one string. Put it into a list.")
    return texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise CourseError(f"An n-gram has at least one word; found n={n}. Use 1, 2, 3 or 4.")
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
