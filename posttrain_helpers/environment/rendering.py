"""HTML of this package: templates whose values are always escaped."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from posttrain_helpers.wording import counted, listed


def html_environment(directory: Path) -> Any:
    """Return a Jinja environment for the templates of a directory.

    Every value that a template shows is escaped, and control characters, which a browser drops, are visible.

    Args:
        directory: where the templates lie.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(directory, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # markup is a subclass
    )
    templates.filters.update(
        listed=listed,
        counted=counted,
        lines=lambda text: Markup("<br>").join(visible(text).split("\n")),
    )
    return templates


def visible(text: str, keep: str = "\n\t") -> str:
    """Replace control characters, which a browser drops and a terminal obeys, but those to keep."""
    hidden = {c for c in text if unicodedata.category(c) == "Cc" and c not in keep}
    return "".join("\N{REPLACEMENT CHARACTER}" if c in hidden else c for c in text)
