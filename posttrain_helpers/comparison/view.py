"""How a comparison looks: an HTML table for notebooks and a plain one for terminals.

The HTML carries its styles inline and takes its colours from the page (transparent tints, no fixed text or
background colour), so that it reads well in light and dark themes. Replies stand side by side, and below each
other on a narrow screen; without styles a plain table is left. All text of models and data is escaped.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from posttrain_helpers.environment.rendering import html_environment, visible

_HEADINGS = {"stop": "stopped by itself"}


@dataclass(frozen=True)
class ShownVerdict:
    """The sentence behind a verdict; `equal` where both models have the same weights, which is a warning."""

    sentence: str
    verdict: str | None
    equal: bool


@dataclass(frozen=True)
class ShownReply:
    """One reply with its scores by measure, and how it ended."""

    label: str
    text: str
    scores: Mapping[str, float | bool]
    stopped: bool
    tokens: int

    @property
    def ending(self) -> str:
        """How the reply ended."""
        return "stopped" if self.stopped else f"cut at {self.tokens} tokens"


@dataclass(frozen=True)
class ShownItem:
    """One prompt with the replies of all models, those of the first model first."""

    name: str
    prompt: str
    answer: str | None
    replies: Sequence[ShownReply]


@dataclass(frozen=True)
class ComparisonView:
    """What the tables of a comparison show.

    Attributes:
        title: heading of the table.
        verdicts: one for each model but the first.
        rates: for each model and measure what `scores.rate` returns.
        items: the items to show.
        note: what was compared, and how.
    """

    title: str
    verdicts: Sequence[ShownVerdict]
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]]
    items: Sequence[ShownItem]
    note: str


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


def to_html(view: ComparisonView) -> str:
    """Return a comparison as one self-contained HTML fragment."""
    templates = html_environment(Path(__file__).parent)
    templates.globals.update(changed_words=changed_words, rate_text=_rate_text, headings=_HEADINGS)
    return templates.get_template("comparison.html").render(view=view)


def to_text(view: ComparisonView, width: int | None = None) -> str:
    """Return a comparison as plain text.

    Args:
        view: what to show.
        width: columns of the text; None is the width of the terminal.
    """
    width = max(40, width or shutil.get_terminal_size((100, 24)).columns)

    def fill(text: str, indent: str = "", hanging: str = "") -> str:
        flat = re.sub(r"\s*\n\s*", r" \\n ", visible(text).strip())
        return textwrap.fill(flat, width, initial_indent=indent, subsequent_indent=hanging)

    parts = [fill(view.title), "=" * min(width, len(view.title))]
    parts += [fill("WARNING: " * verdict.equal + verdict.sentence) for verdict in view.verdicts]
    parts.append("")
    for label, rates in view.rates.items():
        texts = [f"{_HEADINGS.get(measure, measure)} {_rate_text(found)}" for measure, found in rates.items()]
        parts.append(fill(f"{label}: {'; '.join(texts)}", "", "    "))
    for item in view.items:
        parts += ["", "-" * width, fill(item.prompt)]
        if item.answer is not None:
            parts.append(fill(f"expected: {item.answer}"))
        for reply in item.replies:
            facts = [f"{measure} {_score_text(value)}" for measure, value in reply.scores.items()]
            parts.append(fill(f"{reply.label} ({', '.join([*facts, reply.ending])})", "  ", "    "))
            parts.append(fill(reply.text or "(empty reply)", "    ", "    "))
    return "\n".join([*parts, "", fill(view.note)])


def _rate_text(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['mean']:.3g} (mean of {found['n']})"
    percent = [f"{100 * found[key]:.0f}" for key in ("mean", "low", "high")]
    return f"{percent[0]} % of {found['n']} ({percent[1]} to {percent[2]} %)"


def _score_text(value: float | bool) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:.3g}"
