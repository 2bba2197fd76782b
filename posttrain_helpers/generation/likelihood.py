"""How likely a model finds a completion, and how far it has moved from its reference.

`completion_log_probs` gives the sums that the preference losses compare; `kl_to_reference` measures the price
that training paid: the KL divergence from the policy to the reference, on prompts of the reader's choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import (
    Generation,
    Prompt,
    check_padding,
    encode_prompts,
    evaluation_mode,
    generate,
    positions,
    right_padded,
)
from posttrain_helpers.losses.kl import token_kl
from posttrain_helpers.messages import is_conversation
from posttrain_helpers.metrics import several_texts

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

Messages = list[dict[str, str]]

# Logits of one forward pass of one model, so that a vocabulary of 151,936 fits beside the weights (1 GB).
MOST_LOGITS = 2**28


def completion_log_probs(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_mask: torch.Tensor,
) -> torch.Tensor:
    """Return the log-probability of each completion given its prompt.

    `completion_log_probs(model, **encode_completions(...))` takes all arguments from the batch. Gradients
    flow; dropout is as the model's mode says.

    Args:
        model: a causal language model.
        input_ids: prompts and completions, padded on the right, shape (B, T).
        attention_mask: 0 on padding, else 1, shape (B, T).
        completion_mask: 1 on the tokens of the completion, else 0, shape (B, T).

    Returns:
        Sums over the completion's tokens in nats, shape (B,). Divide by `completion_mask.sum(-1)` for the
        mean per token.
    """
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    log_probs = logits[:, :-1].float().log_softmax(-1)  # position t predicts token t + 1 ...
    targets = input_ids[:, 1:]  # ... so the tokens move one to the left
    chosen = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (chosen * completion_mask[:, 1:]).sum(-1)


def mean_log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    completions: Sequence[str | Messages],
    *,
    batch_size: int = 16,
) -> numpy.ndarray:
    """Return the mean log-probability per token of each completion given its prompt, without gradients.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with chat template and padding token.
        prompts: N conversations that end before the reply.
        completions: N replies, each a text or a list of messages.
        batch_size: the most rows in a batch; fewer where a large vocabulary needs the memory.

    Returns:
        Nats per token, the end token included, shape (N,).

    Raises:
        CourseError: what `encode_completions` raises, or a row longer than the model can read.
    """
    encoded = encode_completions(tokenizer, prompts, completions)
    lengths = encoded["attention_mask"].sum(1)
    if (longest := int(lengths.max())) > positions(model):
        raise CourseError(
            f"Prompt {int(lengths.argmax())} and its completion have {longest} tokens, but the model can "
            f"read {positions(model)}; drop or shorten them."
        )
    sums = _sums_of_log_probs(model, encoded, lengths.argsort(), _rows_that_fit(batch_size, longest, model))
    return (sums / encoded["completion_mask"][:, 1:].sum(1)).double().numpy()


def _sums_of_log_probs(
    model: PreTrainedModel, encoded: Mapping[str, torch.Tensor], by_length: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """Return what `completion_log_probs` gives for all rows: of similar length in a batch, little padding."""
    import torch

    sums = torch.empty(len(by_length))
    with evaluation_mode(model), torch.no_grad():
        for rows in by_length.split(batch_size):
            longest = int(encoded["attention_mask"][rows].sum(1).max())
            batch = {name: tensor[rows, :longest].to(model.device) for name, tensor in encoded.items()}
            sums[rows] = completion_log_probs(model, **batch).cpu()
    return sums


def encode_completions(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], completions: Sequence[str | Messages]
) -> BatchEncoding:
    """Render prompts with their completions and pad them, as TRL's DPOTrainer does.

    The completion is what the chat template adds to the opened assistant turn: the reply, its end token and
    what the template writes after it.

    Args:
        tokenizer: with chat template and padding token.
        prompts: B conversations that end before the reply.
        completions: B replies, each a text or a list of messages.

    Returns:
        `input_ids`, `attention_mask` and `completion_mask`, each of shape (B, T), padded on the right;
        `.to(device)` moves them together.

    Raises:
        CourseError: not as many completions as prompts, a prompt or completion of an unknown form, or a
            missing chat template or padding token.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import BatchEncoding

    conversations = _conversations(prompts, completions)
    opened = encode_prompts(tokenizer, prompts)
    check_padding(tokenizer)
    rows, masks = [], []
    for prompt_ids, conversation in zip(opened, conversations, strict=True):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        start = _common_length(prompt_ids, ids)
        if start == len(ids):
            raise CourseError(
                f"Completion {len(rows)} has no token: it is empty, and the chat template writes no end "
                "token after it; drop it."
            )
        rows.append(ids)
        masks.append(torch.tensor([0] * start + [1] * (len(ids) - start)))
    return BatchEncoding(
        {
            **right_padded(rows, tokenizer.pad_token_id),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }
    )


def kl_to_reference(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 72,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    return_generations: bool = False,
    generations: Sequence[Generation] | None = None,
) -> numpy.ndarray | tuple[numpy.ndarray, list[Generation]]:
    """Estimate KL(policy || reference) for each prompt from one completion that the policy samples.

    The estimate sums over the completion's positions the exact KL of the two next-token distributions, which
    is unbiased, never negative, and varies less than the log ratio of the sampled tokens (Amini et al. 2025,
    "Better Estimation of the KL Divergence Between Language Models": the Rao-Blackwellised estimator).
    Completions are those of at most `max_new_tokens` tokens.

    Args:
        policy: the trained model.
        reference: the model that training started from, with the same vocabulary.
        tokenizer: the tokenizer of both.
        prompts: N strings or message lists, as for `generate`.
        max_new_tokens: the most tokens of a completion.
        temperature: of both models, above 0; 1 compares the models as they are.
        seed: seed of the sampling.
        batch_size: sequences in a batch; fewer where a large vocabulary needs the memory.
        return_generations: also return the completions, to be used again.
        generations: N completions that the policy has sampled already, with this temperature and the same
            `max_new_tokens`; None samples them here.

    Returns:
        Nats per completion, shape (N,); with `return_generations` also the N generations.

    Raises:
        CourseError: a temperature that is not above 0, models with different vocabularies, not as many
            generations as prompts, or as `generate`.
    """
    import numpy
    import torch

    _check_comparable(policy, reference, temperature)
    if generations is None:
        generations = generate(
            policy,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
        )
    elif len(generations) != len(prompts):
        raise CourseError(
            f"each prompt needs its own completion, but there are {len(prompts)} prompts and "
            f"{len(generations)} generations; pass lists of equal length."
        )
    encoded = encode_prompts(tokenizer, prompts)
    rows = [[*ids, *completion.token_ids] for ids, completion in zip(encoded, generations, strict=True)]
    longest = max(len(row) for row in rows)
    size = _rows_that_fit(batch_size, longest, policy)
    divergences: list[float] = []
    with evaluation_mode(policy), evaluation_mode(reference), torch.no_grad():
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            policy_logits = _logits(policy, batch, tokenizer.pad_token_id)
            reference_logits = _logits(reference, batch, tokenizer.pad_token_id).to(policy_logits.device)
            for index, row in enumerate(batch):
                # The position before a token predicts it; row by row, so that only one row is copied.
                predicts = slice(len(encoded[start + index]) - 1, len(row) - 1)
                steps = token_kl(
                    policy_logits[index, predicts].float() / temperature,
                    reference_logits[index, predicts].float() / temperature,
                )
                divergences.append(steps.sum().item())
    values = numpy.array(divergences)
    return (values, list(generations)) if return_generations else values


def _conversations(prompts: Sequence[Messages], completions: Sequence[str | Messages]) -> list[Messages]:
    if len(prompts) != len(completions):
        raise CourseError(
            f"each prompt needs one completion, but there are {len(prompts)} prompts and {len(completions)} "
            "completions; pass lists of equal length."
        )
    conversations = []
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not is_conversation(prompt):
            raise CourseError(
                f"Prompt {index} must be a list of messages with role and content, but it is {prompt!r}."
            )
        reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        if not is_conversation(reply) or reply[0]["role"] != "assistant":
            raise CourseError(
                f"Completion {index} must be a text or a list of messages that begins with the assistant's, "
                f"but it is {completion!r}."
            )
        conversations.append([*prompt, *reply])
    return conversations


def _common_length(prompt_ids: list[int], ids: list[int]) -> int:
    """Return where the completion begins: templates may render the end of a prompt in two ways."""
    pairs = zip(prompt_ids, ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt_ids), len(ids)))


def _check_comparable(policy: PreTrainedModel, reference: PreTrainedModel, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise CourseError(
            f"temperature must be a number above 0, but it is {temperature}: greedy completions do not show "
            "how far two distributions are apart; 1 compares the models as they are."
        )
    if _vocabulary(policy) != _vocabulary(reference):
        raise CourseError(
            f"the policy has {_vocabulary(policy)} vocabulary entries and the reference "
            f"{_vocabulary(reference)}; compare a model with the one that its training started from."
        )


def _rows_that_fit(batch_size: int, longest: int, model: PreTrainedModel) -> int:
    """Return how many rows a batch may have, so that its logits are no more than `MOST_LOGITS`."""
    return max(1, min(batch_size, MOST_LOGITS // (longest * _vocabulary(model))))


def _vocabulary(model: PreTrainedModel) -> int:
    return model.get_output_embeddings().weight.shape[0]


def _logits(model: PreTrainedModel, rows: list[list[int]], pad: int) -> torch.Tensor:
    """Return the logits of rows of token ids, shape (rows, longest row, vocabulary)."""
    batch = {name: tensor.to(model.device) for name, tensor in right_padded(rows, pad).items()}
    return model(**batch, use_cache=False).logits


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
    texts = list(several_texts(texts))
    if not texts or batch_size < 1:
        raise CourseError(
            f"A loss needs at least one text and batch_size >= 1; found {len(texts)} texts and batch_size="
            f"{batch_size}. Pass held-out texts."
        )
    check_padding(tokenizer)
    ids = tokenizer(texts)["input_ids"]
    limit = positions(model)
    for text, tokens in zip(texts, ids, strict=True):
        if not 2 <= len(tokens) <= limit:
            raise CourseError(
                f"Each text must have from 2 to {limit} tokens; found {len(tokens)} in {text[:40]!r}. "
                "Drop or split it."
            )

    encoded = right_padded(ids, tokenizer.pad_token_id)
    encoded["completion_mask"] = encoded["attention_mask"]
    lengths = encoded["attention_mask"].sum(1)
    # The loss makes several copies of the logits; a CPU is also slower at blocks that no cache holds.
    batch_size = _rows_that_fit(batch_size, 16 * int(lengths.max()), model)
    sums = _sums_of_log_probs(model, encoded, lengths.argsort(stable=True), batch_size)
    losses = [(-total, len(tokens) - 1) for total, tokens in zip(sums.tolist(), ids, strict=True)]
    broken = sum(not math.isfinite(total) for total, _ in losses)
    if broken:
        raise CourseError(
            f"The loss of {broken} of {len(losses)} texts is not finite; the model's weights have probably "
            "diverged. Train again with a smaller learning rate."
        )
    return losses
