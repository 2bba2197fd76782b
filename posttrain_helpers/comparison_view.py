"""How a comparison looks: an HTML table for notebooks and a plain one for terminals.

The HTML carries its styles inline and takes its colours from the page (transparent tints, no fixed text or
background colour), so that it reads well in light and dark themes. Replies stand side by side, and below each
other on a narrow screen; without styles a plain table is left. All text of models and data is escaped.
"""

from __future__ import annotations

import re
import shutil
import textwrap
import unicodedata
from difflib import SequenceMatcher
from html import escape
from typing import TYPE_CHECKING, Any

from posttrain_helpers.comparison_scores import rate

if TYPE_CHECKING:
    from posttrain_helpers.comparison import Comparison

_GREEN, _RED, _AMBER, _GREY = "46,160,67", "248,81,73", "219,154,4", "128,128,128"
_VERDICT_COLOURS = {"improved": _GREEN, "worse": _RED}
_LINE = f"1px solid rgba({_GREY},.4)"
# Notebooks right-align, centre and stripe tables; every cell says otherwise.
_CELL = (
    "text-align:left;vertical-align:top;white-space:normal;max-width:none;border:0;background:transparent;"
)
# In <code> notebooks do not typeset what stands between two dollars as mathematics. A <pre> would not wrap
# where styles are stripped, as on GitHub.
_CODE = (
    "display:block;margin:0;padding:0;border:0;background:transparent;color:inherit;font:inherit;"
    "line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere;max-height:20em;overflow:auto"
)
_FAINT = "opacity:.75;font-size:.85em"
_HEADINGS = {"stop": "stopped by itself"}
_SELECTED = {
    "all": "prompts",
    "changed": "prompts with a different reply",
    "up": "prompts whose score rose",
    "down": "prompts whose score fell",
}


def shown(comparison: Comparison) -> list[int]:
    """Return the indices of the items in the tables: evenly spaced, not the most flattering ones."""
    chosen = _selection(comparison)
    count = min(comparison.rows, len(chosen))
    return [chosen[i * len(chosen) // count] for i in range(count)]


def changed_words(before: str, after: str) -> list[tuple[str, bool]]:
    """Split a text into pieces and tell which of them are new.

    Args:
        before: the text to compare with.
        after: the text to split.

    Returns:
        Pairs of a piece and whether `before` lacks it at that place. The pieces joined give `after`.
    """
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after))
    pieces = []
    for kind, _, _, start, end in SequenceMatcher(str.isspace, old, new, autojunk=False).get_opcodes():
        piece = "".join(new[start:end])
        if piece:
            pieces.append((piece, kind != "equal" and not piece.isspace()))
    return pieces


def to_html(comparison: Comparison) -> str:
    """Return the comparison as one self-contained HTML fragment."""
    rows = "".join(_item_html(comparison, index) for index in shown(comparison))
    return (
        f'<div style="max-width:80em;line-height:1.45"><div style="font-size:1.15em;font-weight:600">'
        f"{_text(comparison.title)}</div>"
        + "".join(_verdict_html(comparison, label) for label in _warnings_first(comparison))
        + _summary_html(comparison)
        + f'<table style="display:block;width:100%;margin:.8em 0;border:0;border-collapse:collapse">'
        f'<tbody style="display:block">{rows}</tbody></table>'
        f'<div style="{_FAINT}">{_text(_note(comparison))} {_mark("Marked")} words differ from the reply of '
        f"{_text(comparison.labels[0])}.</div></div>"
    )


def to_text(comparison: Comparison, width: int | None = None) -> str:
    """Return the comparison as plain text.

    Args:
        comparison: what to show.
        width: columns of the text; None is the width of the terminal.
    """
    width = max(40, width or shutil.get_terminal_size((100, 24)).columns)

    def fill(text: str, indent: str = "", hanging: str = "") -> str:
        flat = re.sub(r"\s*\n\s*", r" \\n ", visible(text).strip())
        return textwrap.fill(flat, width, initial_indent=indent, subsequent_indent=hanging)

    parts = [fill(comparison.title), "=" * min(width, len(comparison.title))]
    for label in _warnings_first(comparison):
        warning = "WARNING: " if comparison.same_weights(label) else ""
        parts.append(fill(warning + comparison.reason(label)))
    parts.append("")
    for label in comparison.labels:
        rates = [
            f"{_HEADINGS.get(measure, measure)} {_rate_text(rate(comparison.scores[label][measure]))}"
            for measure in _measures(comparison)
        ]
        parts.append(fill(f"{label}: {'; '.join(rates)}", "", "    "))
    for index in shown(comparison):
        item = comparison.items[index]
        parts += ["", "-" * width, fill(_prompt_text(item["prompt"]))]
        if item.get("answer") is not None:
            parts.append(fill(f"expected: {item['answer']}"))
        for label in comparison.labels:
            facts = ", ".join(_facts(comparison, label, index))
            parts.append(fill(f"{label} ({facts})", "  ", "    "))
            parts.append(fill(comparison.generations[label][index].text or "(empty reply)", "    ", "    "))
    return "\n".join([*parts, "", fill(_note(comparison))])


def _selection(comparison: Comparison) -> list[int]:
    first, *others = comparison.labels
    indices = range(len(comparison.items))
    if comparison.selection == "all":
        return list(indices)
    if comparison.selection == "changed":
        texts = {label: [g.text for g in comparison.generations[label]] for label in comparison.labels}
        return [i for i in indices if any(texts[label][i] != texts[first][i] for label in others)]
    sign = 1 if comparison.selection == "up" else -1
    values = {label: comparison.scores[label][comparison.measure] for label in comparison.labels}
    return [
        i
        for i in indices
        if values[first][i] is not None
        and any(sign * (values[label][i] - values[first][i]) > 0 for label in others)
    ]


def _warnings_first(comparison: Comparison) -> list[str]:
    return sorted(comparison.labels[1:], key=lambda label: not comparison.same_weights(label))


def _measures(comparison: Comparison) -> list[str]:
    """Return the measures by which at least one item was scored."""
    scores = comparison.scores[comparison.labels[0]]
    return [measure for measure, values in scores.items() if any(value is not None for value in values)]


def _note(comparison: Comparison) -> str:
    settings, count, chosen = comparison.settings, len(shown(comparison)), len(_selection(comparison))
    decoding = (
        f"sampled at temperature {settings['temperature']:g} with seed {settings['seed']}"
        if settings["temperature"] > 0
        else "greedy"
    )
    return (
        f"{len(comparison.items)} prompts were compared. Shown: {count} of {chosen} "
        f"{_SELECTED[comparison.selection]}{', evenly spaced' if count < chosen else ''}. Decoding: "
        f"{decoding}, at most {settings['max_new_tokens']} new tokens, the same batches for every model."
    )


def _rate_text(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['mean']:.3g} (mean of {found['n']})"
    percent = [f"{100 * found[key]:.0f}" for key in ("mean", "low", "high")]
    return f"{percent[0]} % of {found['n']} ({percent[1]} to {percent[2]} %)"


def _facts(comparison: Comparison, label: str, index: int) -> list[str]:
    """Return what a terminal shows beside a reply: its scores and how it ended."""
    facts = []
    for measure in _measures(comparison):
        value = comparison.scores[label][measure][index]
        if measure != "stop" and value is not None:
            shown_value = ("no", "yes")[value] if isinstance(value, bool) else f"{value:.3g}"
            facts.append(f"{measure} {shown_value}")
    return [*facts, _stop_text(comparison, label, index)]


def _stop_text(comparison: Comparison, label: str, index: int) -> str:
    generation = comparison.generations[label][index]
    return "stopped" if generation.stop_reason == "stop" else f"cut at {len(generation.token_ids)} tokens"


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def visible(text: str, keep: str = "\n\t") -> str:
    """Replace control characters, which a browser drops and a terminal obeys, but those to keep."""
    hidden = {c for c in text if unicodedata.category(c) == "Cc" and c not in keep}
    return "".join("\N{REPLACEMENT CHARACTER}" if c in hidden else c for c in text)


def _text(text: Any) -> str:
    return escape(visible(str(text))).replace("\n", "<br>")


def _mark(text: str) -> str:
    style = f"text-decoration:none;color:inherit;background:rgba({_AMBER},.28);border-radius:.2em"
    return f'<ins style="{style}">{_text(text)}</ins>'


def _badge(text: str, colour: str) -> str:
    style = (
        "display:inline-block;white-space:nowrap;padding:0 .5em;margin:0 0 .25em .35em;border-radius:.8em;"
        f"font-size:.8em;line-height:1.5;background:rgba({colour},.25)"
    )
    # The blank keeps badges apart where styles are stripped.
    return f' <span style="{style}">{_text(text)}</span>'


def _verdict_html(comparison: Comparison, label: str) -> str:
    equal = comparison.same_weights(label)
    colour = _AMBER if equal else _VERDICT_COLOURS.get(comparison.verdicts[label], _GREY)
    style = "margin:.5em 0;padding:.35em .7em;"
    style += f"border-left:4px solid rgba({colour},.9);background:rgba({colour},.12)"
    warning = "<b>\N{WARNING SIGN} Warning.</b> " if equal else ""
    return f'<div style="{style}">{warning}{_text(comparison.reason(label))}</div>'


def _summary_html(comparison: Comparison) -> str:
    measures = _measures(comparison)
    cell = f"{_CELL}padding:.2em 1.2em .2em 0;border-bottom:{_LINE};"
    header = "".join(
        f'<th style="{cell}font-weight:600">{_text(_HEADINGS.get(name, name))}</th>'
        for name in ["model", *measures]
    )
    rows = ""
    for label in comparison.labels:
        found = [_rate_text(rate(comparison.scores[label][measure])) for measure in measures]
        cells = "".join(f'<td style="{cell}">{_text(text)}</td>' for text in found)
        rows += (
            f'<tr style="background:transparent"><td style="{cell}"><b>{_text(label)}</b></td>{cells}</tr>'
        )
    return (
        '<div style="overflow-x:auto"><table style="margin:.5em 0;border:0;border-collapse:collapse">'
        f'<thead><tr style="background:transparent">{header}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _item_html(comparison: Comparison, index: int) -> str:
    item = comparison.items[index]
    facts = [f"expected: {item['answer']}"] if item.get("answer") is not None else []
    style = f"{_CELL}flex:1 1 100%;min-width:0;padding:.4em .7em;background:rgba({_GREY},.14)"
    prompt = (
        f'<td colspan="{len(comparison.labels)}" style="{style}">'
        f'<code style="{_CODE}">{_text(_prompt_text(item["prompt"]))}</code>'
        f'<div style="{_FAINT}">{_text(" · ".join([*facts, str(item["id"])]))}</div></td>'
    )
    replies = "".join(_reply_html(comparison, label, index) for label in comparison.labels)
    row = "display:flex;flex-wrap:wrap;background:transparent"
    return (
        f'<tr style="{row};border-top:{_LINE}">{prompt}</tr>'
        f'<tr style="{row};margin-bottom:.8em">{replies}</tr>'
    )


def _reply_html(comparison: Comparison, label: str, index: int) -> str:
    generation = comparison.generations[label][index]
    badges = ""
    for measure in _measures(comparison):
        value = comparison.scores[label][measure][index]
        if measure == "stop" or value is None:
            continue
        if isinstance(value, bool):
            badges += _badge(f"{'✓' if value else '✗'} {measure}", _GREEN if value else _RED)
        else:
            badges += _badge(f"{measure} {value:.3g}", _GREY)
    stopped = generation.stop_reason == "stop"
    badges += _badge(_stop_text(comparison, label, index), _GREY if stopped else _AMBER)
    first = comparison.generations[comparison.labels[0]][index].text
    text = "".join(
        _mark(piece) if changed else _text(piece)
        for piece, changed in changed_words(
            generation.text if label == comparison.labels[0] else first, generation.text
        )
    )
    # 18em is the width below which replies move below each other.
    return (
        f'<td style="{_CELL}flex:1 1 18em;min-width:0;padding:.4em .7em">'
        f'<div style="margin-bottom:.2em"><b>{_text(label)}</b>{badges}</div>'
        f'<code style="{_CODE}">{text or "<i>(empty reply)</i>"}</code></td>'
    )
