"""Repairs of what published models lack: chat template, end token, padding, valid generation config.

Each repair is returned as a sentence, so that nothing about a model changes in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import special_tokens
from posttrain_helpers.models.chat_markers import mark_replies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Special tokens that published vocabularies hold and that no text uses.
_PADDING_CANDIDATES = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "[PAD]", "<unk>", "[UNK]")
_NEW_PADDING = "<|pad|>"
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_PROBE = "xreplyx"
_NEW_ROWS_SEED = 0


def repair_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None, template: str | None = None
) -> list[str]:
    """Give a tokenizer a chat template, the end token of that template, marks of replies, and padding.

    Args:
        tokenizer: changed in place.
        model: its embeddings grow if tokens are added; None for a tokenizer alone.
        template: "chatml" replaces a template that is there.

    Returns:
        One sentence for each change.

    Raises:
        CourseError: no end token is there and none can be told from the template.
    """
    changes = _repair_template(tokenizer, template) + _repair_end(tokenizer)
    if marked := mark_replies(tokenizer):
        changes.append(marked)
    changes += _repair_padding(tokenizer)
    if tokenizer.padding_side != "right":
        tokenizer.padding_side = "right"
        changes.append("padding is on the right (generate() pads on the left by itself)")
    if model is not None and (added := grow_embeddings(model, len(tokenizer))):
        changes.append(f"the embeddings have {added} more rows ({len(tokenizer)}) for new tokens")
    return changes


def grow_embeddings(model: PreTrainedModel, tokens: int) -> int:
    """Give a model a row of its embeddings for each token; rows beyond the tokenizer's stay.

    The new rows are drawn around the mean of the old ones, and always the same: a model that is loaded twice,
    to be trained and to be its reference, is one model.

    Args:
        model: changed in place.
        tokens: how many there are.

    Returns:
        How many rows were added.
    """
    import torch

    from posttrain_helpers.environment.runtime import preserved_random_state

    rows = model.get_input_embeddings().num_embeddings
    if tokens <= rows:
        return 0
    with preserved_random_state():
        torch.manual_seed(_NEW_ROWS_SEED)
        model.resize_token_embeddings(tokens)
    return tokens - rows


def repair_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Make a model stop at the tokenizer's end token and its generation config valid to save.

    Args:
        model: `generation_config` and `config` are changed in place. A reward model, which generates nothing,
            has only its `config`: it finds the token to score by the padding token named there.
        tokenizer: already repaired.

    Returns:
        One sentence for each change.
    """
    text_config = model.config.get_text_config()
    text_config.eos_token_id, text_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    settings, changes = getattr(model, "generation_config", None), []
    if settings is None:
        return changes
    ends = settings.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        settings.eos_token_id = [tokenizer.eos_token_id, *ends] if ends else tokenizer.eos_token_id
        changes.append(f"generation stops at {tokenizer.eos_token}")
    settings.pad_token_id = tokenizer.pad_token_id
    if not settings.do_sample:
        # transformers refuses to save sampling settings beside greedy decoding, which would end a run at its
        # last step.
        idle = [name for name in _SAMPLING_FIELDS if getattr(settings, name, None) is not None]
        for name in idle:
            setattr(settings, name, None)
        if idle:
            changes.append(
                f"generation config: {', '.join(idle)} had no effect without do_sample and are unset"
            )
    return changes


def _repair_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> list[str]:
    from posttrain_helpers.models.chatml import TURN_END, TURN_START, chat_template

    changes = []
    if isinstance(tokenizer.chat_template, dict):
        names = list(tokenizer.chat_template)
        if "default" not in names:
            raise CourseError(
                f"the tokenizer has {len(names)} chat templates ({', '.join(names)}), but none is named "
                "'default'; keep one of them in chat_template.jinja."
            )
        tokenizer.chat_template = tokenizer.chat_template["default"]
        changes.append(f"of its chat templates ({', '.join(names)}) it keeps 'default'")
    if tokenizer.chat_template and (template is None or tokenizer.chat_template == chat_template()):
        return changes
    had_one = bool(tokenizer.chat_template)
    tokenizer.chat_template = chat_template()
    new = [token for token in (TURN_START, TURN_END) if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    reason = "the profile replaces its chat template by" if had_one else "it had no chat template and has"
    added = f" (new tokens: {', '.join(new)})" if new else ""
    return [*changes, f"{reason} plain ChatML with generation markers{added}"]


def _repair_end(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    end = _turn_end(tokenizer)
    if end is None and tokenizer.eos_token is None:
        raise CourseError(
            "the tokenizer has no end token and its chat template ends a reply with no special token; set "
            "eos_token in tokenizer_config.json to the token that ends a reply."
        )
    if end is None or end == tokenizer.eos_token:
        return []
    before = tokenizer.eos_token
    tokenizer.eos_token = end
    return [f"the end token is {end}, which ends a reply in the chat template (it was {before})"]


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the special token that the chat template writes right after a reply."""
    after = _rendered_probe(tokenizer).rpartition(_PROBE)[2].lstrip()
    starts = [token for token in special_tokens(tokenizer) if after.startswith(token)]
    return max(starts, key=len, default=None)


def _rendered_probe(tokenizer: PreTrainedTokenizerBase) -> str:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _PROBE}]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError as error:
        raise CourseError(
            f"the chat template cannot render a question and a reply ({error}); correct chat_template.jinja."
        ) from error


def _begins_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether the beginning token stands in texts; GPT-2 and SmolLM2 name one and never write it."""
    if tokenizer.bos_token is None:
        return False
    return tokenizer.bos_token_id in tokenizer(_PROBE)["input_ids"] or (
        tokenizer.bos_token in _rendered_probe(tokenizer)
    )


def _repair_padding(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if tokenizer.pad_token is not None and tokenizer.pad_token != tokenizer.eos_token:
        return []
    vocabulary = tokenizer.get_vocab()
    taken = (tokenizer.eos_token, tokenizer.bos_token if _begins_texts(tokenizer) else None)
    before = tokenizer.pad_token
    pad = next(
        (name for name in _PADDING_CANDIDATES if name in vocabulary and name not in taken), _NEW_PADDING
    )
    if pad not in vocabulary:
        tokenizer.add_tokens([pad], special_tokens=True)
    tokenizer.pad_token = pad
    reason = "there was none" if before is None else "it was the end token, which padding would have masked"
    return [f"the padding token is {pad} ({reason})"]
