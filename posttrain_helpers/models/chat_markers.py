"""Generation markers for chat templates that have none, so that SFT can tell replies from questions.

TRL trains replies only where `{% generation %}` markers say which tokens they are, and most published models
have none. Here the template is asked itself: what it renders up to a reply with the generation prompt, and
what it renders with the reply, differ by the reply and its end token.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Whatever the inner template renders comes out unchanged. A reply has marks where the conversation holds it
# as it was asked for and written: behind the text that prompts the model, and unchanged by later turns. Any
# other one (its thoughts are left out, say) is read as context, like a question. A reply without thoughts
# follows the prompt that asks for none, as `generate` prompts; most templates have one prompt for both.
_WRAPPER = """\
{%- macro rendered(messages, add_generation_prompt, enable_thinking) +%}<template>{%+ endmacro -%}
{%- set whole = rendered(messages, add_generation_prompt, enable_thinking) -%}
{%- set text = namespace(done=0) -%}
{%- if not add_generation_prompt -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' and not loop.first -%}
{%- set after = rendered(messages[:loop.index], false, enable_thinking) -%}
{%- set before = rendered(messages[:loop.index0], true, false) -%}
{%- if not after.startswith(before) -%}
{%- set before = rendered(messages[:loop.index0], true, enable_thinking) -%}
{%- endif -%}
{%- if before|length >= text.done and after.startswith(before) and whole.startswith(after) -%}
{%- set parts = after[before|length:].rpartition(<end>) -%}
{{- before[text.done:] -}}
{%- generation -%}{{- parts[0] + parts[1] if parts[1] else parts[2] -}}{%- endgeneration -%}
{{- parts[2] if parts[1] else '' -}}
{%- set text.done = after|length -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- whole[text.done:] -}}"""
_SYSTEM = {"role": "system", "content": "xsystemx"}
_QUESTION = {"role": "user", "content": "xquestionx"}
_REPLY = {"role": "assistant", "content": "xreplyx"}
_ONE_TURN = [_QUESTION, _REPLY]
_TWO_TURNS = [*_ONE_TURN, *_ONE_TURN]


def needs_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether the chat template has no markers that tell replies from questions."""
    from trl.chat_template_utils import has_generation_markers

    return bool(tokenizer.chat_template) and not has_generation_markers(tokenizer.chat_template)


def mark_replies(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Give the tokenizer's chat template markers if it needs them and can have them.

    Args:
        tokenizer: its chat template may be changed; its end token is the one that ends a reply.

    Returns:
        One sentence about the change, or why there cannot be any; None where none is needed.
    """
    if not needs_markers(tokenizer):
        return None
    template = marked_template(tokenizer)
    if template is None:
        return f"SFT cannot train its replies: {_why_unmarkable(tokenizer)}"
    tokenizer.chat_template = template
    sentence = "its chat template marks replies now, for SFT; what it renders stays the same"
    if changes_replies(tokenizer):
        sentence += ", and an earlier reply that it changes once more turns follow is not trained"
    return sentence


def changes_replies(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether the markers leave out a reply that the chat template changes once more turns follow.

    Args:
        tokenizer: its chat template has markers.
    """
    # Without a system turn the template may keep what it changes with one.
    talks = (_TWO_TURNS, [_SYSTEM, *_TWO_TURNS])
    return any(_replies_marked(tokenizer, tokenizer.chat_template, talk) == 1 for talk in talks)


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the tokenizer's chat template with generation markers around each reply and its end token.

    Args:
        tokenizer: its end token is the one that ends a reply.

    Returns:
        A template that renders the same; None where it cannot find the replies.
    """
    marked = _WRAPPER.replace("<end>", json.dumps(tokenizer.eos_token, ensure_ascii=False))
    marked = marked.replace("<template>", tokenizer.chat_template.removesuffix("\n"))
    same = all(
        _rendered(tokenizer, None, talk, prompt) == _rendered(tokenizer, marked, talk, prompt)
        for talk in ([_QUESTION], _ONE_TURN, _TWO_TURNS)
        for prompt in (True, False)
    )
    # None where the template refuses the talk: some take a single turn only.
    marks = [_replies_marked(tokenizer, marked, talk) for talk in (_ONE_TURN, _TWO_TURNS)]
    return marked if same and marks[0] == 1 and marks[1] != 0 else None


def check_markers(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template tells replies from questions.

    Raises:
        CourseError: it has no markers; the sentence says why it could not be given any.
    """
    if needs_markers(tokenizer):
        raise CourseError(
            f"the replies of the data cannot be told from the questions: {_why_unmarkable(tokenizer)}; set "
            "tokenizer.chat_template to a template with {% generation %} markers, as "
            "models.chatml.chat_template() returns one."
        )


def check_openings(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that in what the chat template renders a reply follows the text that prompts the model.

    Raises:
        CourseError: it does not, so that a reply would be learned in a place where it is never asked for.
    """
    prompt, whole = _asked_and_written(tokenizer)
    if prompt is None or whole is None or not whole.startswith(prompt):
        raise CourseError(
            f"replies would be trained in a place where none is asked for: {_why_unmarkable(tokenizer)}; set "
            "tokenizer.chat_template to a template that renders both alike, as models.chatml.chat_template() "
            "returns one."
        )


def _why_unmarkable(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a clause that says why the replies in what a chat template renders cannot be told."""
    prompt, whole = _asked_and_written(tokenizer)
    if prompt is None or whole is None:
        return "the chat template cannot render a question and a reply"
    if whole.startswith(prompt):
        return "the chat template changes the text of a reply"
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    asked, written = prompt[common:], whole[common:]
    return f"the chat template asks for a reply with {asked!r} and, in its place, renders one as {written!r}"


def _asked_and_written(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str | None]:
    """Return the text that prompts the model with a question, and the text of that question and a reply."""
    return _rendered(tokenizer, None, [_QUESTION], True), _rendered(tokenizer, None, _ONE_TURN, False)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, template: str | None, messages: list[dict[str, Any]], prompt: bool
) -> str | None:
    """Return what a template makes of messages; None where it refuses them."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    except TemplateError:
        return None


def _replies_marked(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, Any]]
) -> int | None:
    """Return how many replies the marks of a template find, 0 if there are marks on anything else."""
    if _rendered(tokenizer, template, messages, False) is None:
        return None
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    marks = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    said = tokenizer.decode([token for token, mask in marks if mask])
    other = any(message["content"] in said for message in (_SYSTEM, _QUESTION))
    return 0 if other else said.count(_REPLY["content"])
