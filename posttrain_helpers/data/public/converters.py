"""From the fields of one public row to the row that a method learns from.

An adapter has renamed a row's columns to fields before: `prompt`, `context`, `reply`, `system`, `messages`,
`chosen`, `rejected`, `completion`, `label`, `answer`. A converter returns the row in the form of its kind, or
the fault for which it is dropped.
"""

from __future__ import annotations

import math
import re

from posttrain_helpers.errors import CourseError
from posttrain_helpers.messages import Row
from posttrain_helpers.rewards.verifiers import BOXED_REQUEST, gsm8k_answer

# What chat sets call the speakers, in any case. Bing and Bard answer in ShareGPT's.
_SPEAKERS = {
    "system": ("developer",),
    "user": ("human", "prompter", "person", "customer"),
    "assistant": ("gpt", "chatgpt", "bot", "chatbot", "model", "ai", "llm", "agent", "bing", "bard"),
}
ROLE_NAMES = {name: role for role, names in _SPEAKERS.items() for name in (role, *names)}
# What Alpaca's columns hold where nothing was meant.
_NO_CONTEXT = frozenset({"<noinput>", "<no input>", "noinput", "no input"})
_NO_REPLY = frozenset({"<nooutput>", "<no output>"})
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
SCORES = ("score_chosen", "score_rejected")
_SHAREGPT = ("from", "value")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
BROKEN = "broken transcript"


def as_row(fields: Row) -> Row | str:
    """Return what the fields say: `messages`, or whatever there is of a prompt, replies, label and answer.

    A prompt and its one `reply` become `messages`.
    """
    if "messages" in fields:
        return {"messages": normalized_messages(fields["messages"])}
    row = {key: fields[key] for key in (*SCORES, "answer") if key in fields}
    if "prompt" in fields:
        row["prompt"] = prompt_of(fields)
        if isinstance(row["prompt"], str):
            return row["prompt"]
    if "reply" in fields:
        return {"messages": row["prompt"] + reply_of(fields["reply"])} if row["prompt"] else "empty prompt"
    row |= {key: reply_of(fields[key]) for key in ("chosen", "rejected", "completion") if key in fields}
    return row | ({"label": _truth(fields["label"])} if "label" in fields else {})


def transcript_pair(fields: Row) -> Row | str:
    """Return {"chosen", "rejected"} from two transcripts with speakers Human and Assistant."""
    sides = {side: split_transcript(fields[side]) for side in ("chosen", "rejected")}
    return BROKEN if None in sides.values() else sides


def gsm8k_problem(fields: Row) -> Row | str:
    """Return {"prompt", "answer"}: a problem that asks for a boxed number, and the solution's last number."""
    prompt, solution = fields["prompt"], fields["answer"]
    if not isinstance(prompt, str) or not prompt.strip():
        return "empty prompt"
    try:
        answer = gsm8k_answer(_text(solution))
    except CourseError:
        return "no answer"
    return {"prompt": [{"role": "user", "content": f"{prompt} {BOXED_REQUEST}"}], "answer": answer}


def split_transcript(text: object) -> list[Row] | None:
    r"""Split "\n\nHuman: ... \n\nAssistant: ..." into messages, the last of them the reply.

    Returns:
        The messages; None where the turns do not alternate from a Human's to an Assistant's, or one before
        the reply is empty.
    """
    if not isinstance(text, str):
        return None
    before, *parts = _SPEAKER.split("\n\n" + text.lstrip())
    speakers, words = parts[::2], [part.strip() for part in parts[1::2]]
    alternate = ["Human", "Assistant"] * (len(speakers) // 2)
    if before or not speakers or speakers != alternate or not all(words[:-1]):
        return None
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": content}
        for speaker, content in zip(speakers, words, strict=True)
    ]


def is_transcript(value: object) -> bool:
    """Say whether a text holds turns of the speakers Human and Assistant."""
    return isinstance(value, str) and bool(_SPEAKER.search("\n\n" + value.lstrip()))


def normalized_messages(value: object) -> object:
    """Return messages with the keys and roles that chat templates know, and content in parts as one text.

    Other keys and values stay, such as parts that are no text.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        return value
    return [
        {
            **{key: message[key] for key in message if key not in _SHAREGPT},
            "role": _role(_first(message, "role", "from")),
            "content": joined_parts(_first(message, "content", "value")),
        }
        for message in value
    ]


def _first(message: Row, key: str, of_sharegpt: str) -> object:
    """Return a message's value; sets joined of both styles have both keys, and one of them holds nothing."""
    return message[key] if message.get(key) is not None else message.get(of_sharegpt)


def joined_parts(content: object, separator: str = "") -> object:
    """Return parts of text, as the OpenAI API has them, as one text; anything else stays.

    Args:
        content: of a message.
        separator: between two parts.
    """
    if (
        isinstance(content, list)
        and content
        and all(isinstance(part, dict) and part.get("type") == "text" for part in content)
        and all(isinstance(part.get("text"), str) for part in content)
    ):
        return separator.join(part["text"] for part in content)
    return content


def _role(name: object) -> object:
    return ROLE_NAMES.get(name.strip().casefold(), name) if isinstance(name, str) else name


def _truth(label: object) -> object:
    """Return what a label of a table, where every cell is a text, says; other values stay."""
    return _TRUTHS.get(label.strip().casefold(), label) if isinstance(label, str) else label


def prompt_of(fields: Row) -> list[Row] | str:
    """Return the messages before the reply, or the fault of a row that has none."""
    prompt = _as_list(fields["prompt"])
    if isinstance(prompt, list):
        messages = normalized_messages(prompt)
    else:
        parts = [_text(prompt), _text(fields.get("context"), _NO_CONTEXT)]
        if not parts[0]:
            return "empty prompt"
        messages = [{"role": "user", "content": "\n\n".join(filter(None, parts))}]
    system = _text(fields.get("system"))
    own_system = bool(messages) and isinstance(messages[0], dict) and messages[0].get("role") == "system"
    return [{"role": "system", "content": system}, *messages] if system and not own_system else messages


def reply_of(value: object) -> list[Row]:
    """Return a reply as a list of messages: a text is one of the assistant's."""
    value = _as_list(value)
    if isinstance(value, list):
        return normalized_messages(value)
    return [{"role": "assistant", "content": _text(value, _NO_REPLY)}]


def _as_list(value: object) -> object:
    """Return one message as a list of messages; other values stay."""
    return [value] if isinstance(value, dict) else value


def _text(value: object, nothing: frozenset[str] = frozenset()) -> str:
    """Return a cell as text; a table's reader makes numbers of digits and nothing of an empty cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() in nothing else text
