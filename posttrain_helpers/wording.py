"""Parts of sentences that tables, pages and error messages use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: `1 suite`, `2 suites`; the plural is made with "s"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def closest(name: object, known: Iterable[str]) -> str:
    """Return 'did you mean ...? ' with the known name nearest to `name`, or an empty text if none is near."""
    names = {other.casefold(): other for other in known}
    found = get_close_matches(str(name).casefold(), list(names), n=1, cutoff=0.6)
    return f"did you mean {names[found[0]]!r}? " if found else ""


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return what ends a sentence about an unknown name: `closest` where a name is near, and a full stop."""
    near = closest(name, known)
    return f"; {near}" if near else ". "


def duration(seconds: float) -> str:
    """Return a time for readers, such as `48 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def readable_size(size: float) -> str:
    """Return a number of bytes as a reader wants to see it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
