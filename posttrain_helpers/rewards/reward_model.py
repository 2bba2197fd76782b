"""Score replies with a reward model, at the very token that it was trained to score.

A reward model gives one number for the whole text: its score head reads the hidden state of the last token
that is not padding. Which token that is depends on the chat template. In ChatML a conversation ends with
"<|im_end|>" and a newline, so the newline is scored; a text that ends at "<|im_end|>" is scored at a token
that training never looked at, and gets a number that means nothing. `score_replies` renders a reply exactly
as TRL's RewardTrainer renders its training pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import evaluation_mode, positions, right_padded
from posttrain_helpers.models.loading import has_score_head

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Reply = str | Messages

_PROBE: Messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "reply"}]


def score_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    replies: Sequence[Reply],
    batch_size: int = 32,
) -> np.ndarray:
    """Return the reward model's score of each reply to its prompt.

    The model is in eval mode while it scores and gets its previous mode back.

    Args:
        model: a reward model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template.
        prompts: N lists of messages.
        replies: N replies: texts, or lists of messages as in the columns of a preference data set.
        batch_size: texts in a batch; texts of similar length share one.

    Returns:
        N scores as floats, in the order of the replies. Only differences between replies to one prompt mean
        something: the loss of a reward model leaves the zero of each prompt open.

    Raises:
        CourseError: a model without score head or padding token, no replies, another number of prompts than
            of replies, or a text longer than the model.
    """
    import numpy as np
    import torch

    pad = _padding(model)
    if batch_size < 1:
        raise CourseError(f"batch_size must be at least 1, but {batch_size} was found.")
    if isinstance(replies, str):
        raise CourseError("replies must be a list, but one string was given; write [reply].")
    if len(prompts) != len(replies):
        raise CourseError(
            f"each prompt needs one reply, but {len(prompts)} prompts and {len(replies)} replies were given; "
            "pass two lists of one length."
        )
    if not len(replies):
        raise CourseError("there are no replies to score: the lists are empty; pass at least one.")
    encoded = [_encode(tokenizer, prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    _check_encoded(model, encoded, pad)

    device = next(model.parameters()).device
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    scores = np.empty(len(encoded))
    # Not inference_mode: layers that keep tensors of their first forward could not be trained afterwards.
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            padded = right_padded([encoded[index] for index in batch], pad)
            inputs = {name: tensor.to(device) for name, tensor in padded.items()}
            outputs = model(**inputs, use_cache=False)
            scores[batch] = outputs.logits.squeeze(-1).float().cpu().numpy()
    return scores


def as_reward_function(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Callable[..., list[float]]:
    """Return a reward model as a reward function with TRL's signature, for online RL.

    Raises:
        CourseError: what `check_scored_token` raises; later, what `score_replies` raises.
    """
    check_scored_token(model, tokenizer)

    def reward_model(prompts: list[Messages], completions: list[Reply], **_: Any) -> list[float]:
        return score_replies(model, tokenizer, prompts, completions).tolist()

    return reward_model


def check_scored_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that model and tokenizer agree on the last token of a conversation as the one to score.

    Raises:
        CourseError: no score head, no padding token or another one than the tokenizer's, a conversation that
            ends with the padding token, or padding on the left.
    """
    pad = _padding(model)
    if tokenizer.pad_token_id != pad:
        raise CourseError(
            f"the tokenizer pads with the token {tokenizer.pad_token_id}, but the model takes {pad} for "
            "padding, so it would score a padding token; load both with load_model_and_tokenizer()."
        )
    if tokenizer.padding_side != "right":
        raise CourseError(
            "the tokenizer pads on the left, but a reward model is trained with padding on the right; set "
            "tokenizer.padding_side = 'right'."
        )
    _check_encoded(model, [_encode(tokenizer, _PROBE[:1], _PROBE[1:])], pad)


def _padding(model: PreTrainedModel) -> int:
    if not has_score_head(model):
        raise CourseError(
            f"a {type(model).__name__} has no score head of one output, so it cannot score a reply; pass a "
            "reward model, such as the stage 'reward_model'."
        )
    pad = model.config.get_text_config().pad_token_id
    if pad is None:
        raise CourseError(
            "the model's config names no padding token, by which it finds the token to score; load it with "
            "load_model_and_tokenizer(), or set model.config.pad_token_id."
        )
    return pad


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Messages, reply: Reply) -> list[int]:
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so a reply cannot be put behind its prompt; load it with "
            "load_model_and_tokenizer(), which gives it one."
        )
    for part in (prompt, reply):
        if not isinstance(part, list) and not (part is reply and isinstance(part, str)):
            raise CourseError(
                "a prompt must be a list of messages and a reply a text or a list of messages, but "
                f"{str(part)[:60]!r} was found."
            )
    turns: Any = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
    # The call that RewardTrainer makes for each of its training pairs.
    return tokenizer.apply_chat_template(prompt + turns, tokenize=True, return_dict=True)["input_ids"]


def _check_encoded(model: PreTrainedModel, encoded: list[list[int]], pad: int) -> None:
    for index, ids in enumerate(encoded):
        if not ids or ids[-1] == pad:
            raise CourseError(
                f"text {index} ends with the padding token (id {pad}), so the model would score an earlier "
                "one; give the tokenizer a padding token that no conversation ends with."
            )
    limit = positions(model)
    longest = max(range(len(encoded)), key=lambda index: len(encoded[index]))
    if len(encoded[longest]) > limit:
        raise CourseError(
            f"text {longest} has {len(encoded[longest])} tokens, but the model has {limit} positions; "
            "shorten the prompt or the reply."
        )
