"""From documents to tokens: the tokenizer's training texts, and the corpus that pre-training reads.

The corpus is endless and never stored: stretch `index` of seed `seed` is drawn when it is needed, so that a
run that is resumed reads what it would have read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerFast

TOKENIZER_DOCUMENTS = 30_000
SHARD_TOKENS = 2**20


def build_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the world's first documents."""
    from posttrain_helpers.tinyworld.documents import documents
    from posttrain_helpers.tinyworld.pretraining.tokenizer import train_tokenizer

    return train_tokenizer(islice(documents(f"tokenizer/{seed}"), TOKENIZER_DOCUMENTS), vocab_size)


def shard(tokenizer: PreTrainedTokenizerFast, seed: int, index: int) -> np.ndarray:
    """Return one stretch of the corpus, the same for the same seed and index.

    Returns:
        Token ids, shape (SHARD_TOKENS,), documents separated by the end-of-document token.
    """
    import numpy as np

    from posttrain_helpers.models.chatml import END_OF_DOCUMENT
    from posttrain_helpers.tinyworld.documents import documents

    stream = documents(f"{seed}/{index}")
    pieces: list[int] = []
    while len(pieces) < SHARD_TOKENS:
        texts = [text + END_OF_DOCUMENT for text in islice(stream, 2000)]
        for ids in tokenizer(texts, add_special_tokens=False).input_ids:
            pieces.extend(ids)
    return np.asarray(pieces[:SHARD_TOKENS], dtype=np.int64)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, first_step: int, *, batch_size: int, length: int
) -> Iterator[torch.Tensor]:
    """Yield batches of windows, shape (batch_size, length), from a step onwards."""
    import numpy as np
    import torch

    per_shard = SHARD_TOKENS // (length * batch_size)
    step = first_step
    while True:
        index = step // per_shard
        windows = shard(tokenizer, seed, index).reshape(-1, length)
        order = np.random.default_rng((seed, index)).permutation(len(windows))
        for position in range(step % per_shard, per_shard):
            chosen = order[position * batch_size : (position + 1) * batch_size]
            yield torch.from_numpy(windows[chosen])
            step += 1
