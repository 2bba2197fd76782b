"""The tokenizer of the tiny world: byte-level BPE in the manner of Qwen, small enough to read.

Numbers are split into single digits, so that arithmetic is about digits and not about memorised number
tokens. `user` and `assistant` are single tokens, the special tokens and the ChatML template are Qwen's, and
padding is not the end token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from posttrain_helpers.models.chatml import END_OF_DOCUMENT, TURN_END, TURN_START, chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant")
# Qwen's splitting rule, shortened: a word with its leading space, ONE digit, punctuation, white space.
SPLIT_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer.

    Args:
        texts: documents of the world; the same texts give the same tokenizer.
        vocab_size: entries in all, special tokens and the 256 bytes included.

    Returns:
        A tokenizer with ChatML template, `<|im_end|>` as end token and `<|endoftext|>` as padding.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ROLES),
        special_tokens=[END_OF_DOCUMENT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    # Roles are ordinary text that must stay whole whatever the corpus holds.
    bpe.add_tokens([role for role in ROLES if bpe.token_to_id(role) is None])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_DOCUMENT,
        additional_special_tokens=[TURN_START],
        chat_template=chat_template(),
        padding_side="right",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
