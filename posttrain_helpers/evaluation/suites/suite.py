"""A suite: items of one kind, how replies to them are scored, and what a set of suites must be."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain_helpers.comparison.scores import Item, Score
from posttrain_helpers.errors import CourseError

SHORT_REPLY, LONG_REPLY = 48, 72


@dataclass(frozen=True)
class Suite:
    """Held-out prompts of one skill.

    Attributes:
        name: in tables and records.
        skill: what is asked for, for readers.
        items: each with "id" and "prompt" (a text that is continued, or messages), and what its scores need.
        measure: the key of `scores` that stands for the suite.
        scores: functions of reply and item that return yes/no, a number, or None where nothing can be scored.
            The item that they get also has "stopped": whether the model ended the reply by itself.
        max_new_tokens: the most tokens of a reply.
        kind: "correctness" or "preference" (better or worse, not right or wrong).
    """

    name: str
    skill: str
    items: tuple[Item, ...]
    measure: str
    scores: Mapping[str, Score]
    max_new_tokens: int = SHORT_REPLY
    kind: str = "correctness"

    @property
    def hash(self) -> str:
        """Identity of what is asked and scored: equal suites have equal hashes on every machine."""
        content = [list(self.items), self.max_new_tokens, self.kind, self.measure, sorted(self.scores)]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def asks_messages(self) -> bool:
        """Whether any prompt goes through the model's chat template."""
        return any(not isinstance(item["prompt"], str) for item in self.items)


def check_limit(limit: int | None) -> None:
    """Raise a CourseError unless a limit on the items is a whole number of at least 1, or None for all."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise CourseError(
            f"limit must be a whole number of at least 1, or None for all, but it is {limit!r}."
        )


def check_suites(suites: Sequence[Suite]) -> None:
    """Check what an evaluation relies on: names of suites, and ids of their items, that differ.

    Raises:
        CourseError: two suites of one name, one without items, or two items of a suite with one id.
    """
    for suite in suites:
        if [other.name for other in suites].count(suite.name) > 1:
            raise CourseError(f"two suites are called {suite.name!r}; name each of them once.")
        if not suite.items:
            raise CourseError(f"the suite {suite.name!r} is empty; it needs at least one item.")
        identifier, count = Counter(item["id"] for item in suite.items).most_common(1)[0]
        if count > 1:
            raise CourseError(
                f"the suite {suite.name!r} has {count} items with the id {identifier!r}; scores are paired "
                "by id, so give each item its own."
            )
