"""Generation markers for chat templates that have none, so that SFT can tell replies from questions.

TRL trains replies only where `{% generation %}` markers say which tokens they are, or where it knows the very
template. Most published models have neither. Here the template is asked itself: what it renders up to a reply
with the generation prompt, and what it renders with the reply, differ by the reply and its end token.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Whatever the inner template renders comes out unchanged. A conversation in which a reply is rendered
# differently once more turns follow has no marks, so that it is left out of the training and counted.
_WRAPPER = """\
{%- macro rendered(messages, add_generation_prompt) %}<template>{% endmacro -%}
{%- set whole = rendered(messages, add_generation_prompt) -%}
{%- set text = namespace(done='', markable=true) -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' and text.markable -%}
{%- if loop.first -%}{%- set text.markable = false -%}{%- else -%}
{%- set before = rendered(messages[:loop.index0], true) -%}
{%- set after = rendered(messages[:loop.index], false) -%}
{%- if before.startswith(text.done) and after.startswith(before) and whole.startswith(after) -%}
{%- set text.done = after -%}
{%- else -%}{%- set text.markable = false -%}{%- endif -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- set text.done = '' -%}
{%- if text.markable -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{%- set before = rendered(messages[:loop.index0], true) -%}
{%- set after = rendered(messages[:loop.index], false) -%}
{%- set parts = after[before|length:].rpartition(<end>) -%}
{{- before[text.done|length:] -}}
{%- generation -%}{{- parts[0] + parts[1] if parts[1] else parts[2] -}}{%- endgeneration -%}
{{- parts[2] if parts[1] else '' -}}
{%- set text.done = after -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- whole[text.done|length:] -}}"""
_QUESTION = {"role": "user", "content": "xquestionx"}
_REPLY = {"role": "assistant", "content": "xreplyx"}
_PROBES = ([_QUESTION], [_QUESTION, _REPLY], [_QUESTION, _REPLY, _QUESTION, _REPLY])


def needs_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether neither markers nor TRL's knowledge of templates tell replies from questions."""
    if not isinstance(tokenizer.chat_template, str):
        return False
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return False
    try:
        get_training_chat_template(processing_class=tokenizer)
    except ValueError:
        return True
    return False


def mark_replies(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the tokenizer's chat template markers if it needs them and can have them.

    Returns:
        Whether the template was changed.
    """
    template = marked_template(tokenizer) if needs_markers(tokenizer) else None
    if template is not None:
        tokenizer.chat_template = template
    return template is not None


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the tokenizer's chat template with generation markers around each reply and its end token.

    Args:
        tokenizer: its end token is the one that ends a reply.

    Returns:
        A template that renders the same; None where that does not work.
    """
    original = tokenizer.chat_template
    marked = _WRAPPER.replace("<end>", json.dumps(tokenizer.eos_token, ensure_ascii=False))
    marked = marked.replace("<template>", original.removesuffix("\n"))
    return marked if all(_same_with_marks(tokenizer, marked, probe) for probe in _PROBES) else None


def _same_with_marks(tokenizer: PreTrainedTokenizerBase, marked: str, messages: list[dict[str, Any]]) -> bool:
    from jinja2 import TemplateError

    for prompt in (True, False):
        options = {"tokenize": False, "add_generation_prompt": prompt}
        try:
            texts = [
                tokenizer.apply_chat_template(messages, chat_template=template, **options)
                for template in (tokenizer.chat_template, marked)
            ]
        except TemplateError:
            return False
        if texts[0] != texts[1]:
            return False
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    trained = [
        id_ for id_, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask
    ]
    return tokenizer.decode(trained).count(_REPLY["content"]) == messages.count(_REPLY)
