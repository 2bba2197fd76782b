"""Chat templates in the formats that families of published models document, and tokenizers that fit.

They are written for the tests and hold what makes each family special, not every option of published files.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Format:
    """How a family writes conversations.

    Attributes:
        template: Jinja.
        special: tokens that are one token each.
        end: the one that ends a reply.
        begin: the one that begins a text, None if none does.
        takes_system: whether there may be a system turn.
        last_only: whether it changes replies once more turns follow: "always", or only "with system".
        opening: what stands between the prompt and the text of a reply.
    """

    template: str
    special: tuple[str, ...]
    end: str
    begin: str | None = None
    takes_system: bool = True
    last_only: str | None = None
    opening: str = ""


CHATML = ("<|im_start|>", "<|im_end|>")

# A default system turn.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Replies keep their thoughts until the next question; the last one has some even if they are empty.
QWEN3 = """\
{%- set seen = namespace(question=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set seen.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- set thoughts = '' -%}
{%- set content = message.content -%}
{%- if '</think>' in content -%}
{%- set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > seen.question and (loop.last or thoughts) -%}
{{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- content.lstrip('\\n') -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""
# A system header with the date in it, whether or not there is a system turn; every text is trimmed.
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# No generation prompt: a question ends with [/INST]. The last question holds the system text; strict turns.
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant") }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last or (loop.index0 == loop_messages | length - 2) %}
            {%- if system_message is defined %}
                {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
            {%- else %}
                {{- "[INST] " + message["content"] + "[/INST]" }}
            {%- endif %}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
# No system turn; the assistant is called "model"; texts are trimmed; strict turns.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Lines of its own for every tag, and headers that are plain text.
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
# It asks for thoughts, and renders replies without.
REASONER = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)

FORMATS = {
    "smollm2": Format(SMOLLM2, CHATML, CHATML[1]),
    "qwen3": Format(QWEN3, CHATML, CHATML[1], last_only="always"),
    "llama3": Format(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "mistral": Format(
        MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>", last_only="with system", opening=" "
    ),
    "gemma": Format(
        GEMMA,
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
        takes_system=False,
    ),
    "zephyr": Format(ZEPHYR, ("<s>", "</s>"), "</s>", "<s>"),
}


def written_in(tokenizer: PreTrainedTokenizerBase, form: Format) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer that writes conversations as a family does.

    The tokenizer itself begins texts with the token for it, as those of Llama, Mistral and Gemma do: where a
    template writes it too, careless code has it twice.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(form.special), special_tokens=True)
    tokenizer.eos_token = form.end
    if form.begin is not None:
        from tokenizers.processors import TemplateProcessing

        tokenizer.bos_token = form.begin
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{form.begin} $A", special_tokens=[(form.begin, tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = form.template
    return tokenizer
