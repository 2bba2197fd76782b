"""How a comparison looks: an HTML table for notebooks and a plain one for terminals.

The HTML carries its styles inline and takes its colours from the page (transparent tints, no fixed text or
background colour), so that it reads well in light and dark themes. Replies stand side by side, and below each
other on a narrow screen; without styles a plain table is left. All text of models and data is escaped.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.rendering import html_environment, visible

if TYPE_CHECKING:
    from posttrain_helpers.comparison.compare import Comparison
    from posttrain_helpers.generation.decoding import Generation, Prompt

_HEADINGS = {"stop": "stopped by itself"}


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
    """Return a comparison as one self-contained HTML fragment."""
    templates = html_environment(Path(__file__).parent)
    templates.globals.update(
        changed_words=changed_words,
        rate_text=_rate_text,
        headings=_HEADINGS,
        prompt_text=_prompt_text,
        scores_of=_scores,
        ending=_ending,
    )
    return templates.get_template("comparison.html").render(comparison=comparison)


def to_text(comparison: Comparison, width: int | None = None) -> str:
    """Return a comparison as plain text.

    Args:
        comparison: what to show.
        width: columns of the text; None is the width of the terminal.
    """
    width = max(40, width or shutil.get_terminal_size((100, 24)).columns)

    def fill(text: str, indent: str = "", hanging: str = "") -> str:
        flat = re.sub(r"\s*\n\s*", r" \\n ", visible(text).strip())
        return textwrap.fill(flat, width, initial_indent=indent, subsequent_indent=hanging)

    parts = [fill(comparison.title), "=" * min(width, len(comparison.title))]
    for label in comparison.warnings_first():
        parts.append(fill("WARNING: " * comparison.same_weights(label) + comparison.reason(label)))
    parts.append("")
    for label, rates in comparison.rates().items():
        texts = [f"{_HEADINGS.get(measure, measure)} {_rate_text(found)}" for measure, found in rates.items()]
        parts.append(fill(f"{label}: {'; '.join(texts)}", "", "    "))
    for index in comparison.shown():
        item = comparison.items[index]
        parts += ["", "-" * width, fill(_prompt_text(item["prompt"]))]
        if item.get("answer") is not None:
            parts.append(fill(f"expected: {item['answer']}"))
        for label, replies in comparison.generations.items():
            scores = _scores(comparison, label, index).items()
            facts = [
                *(f"{measure} {_score_text(value)}" for measure, value in scores),
                _ending(replies[index]),
            ]
            parts.append(fill(f"{label} ({', '.join(facts)})", "  ", "    "))
            parts.append(fill(replies[index].text or "(empty reply)", "    ", "    "))
    return "\n".join([*parts, "", fill(comparison.note())])


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _scores(comparison: Comparison, label: str, index: int) -> dict[str, float | bool]:
    """Return what a reply scored; how it ended is shown beside that."""
    found = {measure: values[index] for measure, values in comparison.scores[label].items()}
    return {measure: value for measure, value in found.items() if measure != "stop" and value is not None}


def _ending(reply: Generation) -> str:
    return "stopped" if reply.stop_reason == "stop" else f"cut at {len(reply.token_ids)} tokens"


def _rate_text(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['mean']:.3g} (mean of {found['n']})"
    percent = [f"{100 * found[key]:.0f}" for key in ("mean", "low", "high")]
    return f"{percent[0]} % of {found['n']} ({percent[1]} to {percent[2]} %)"


def _score_text(value: float | bool) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:.3g}"
