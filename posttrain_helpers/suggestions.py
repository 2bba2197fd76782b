"""The second half of a good error message: which of the known names was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: object, known: Iterable[str]) -> str:
    """Return 'did you mean ...? ' with the known name nearest to `name`, or an empty text if none is near."""
    found = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}? " if found else ""
