"""A suite: items of one kind, how replies to them are scored, and what a set of suites must be."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from posttrain_helpers.comparison.scores import Item, Score
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import closest

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
    """Check what an evaluation relies on.

    Raises:
        CourseError: two suites of one name, a suite without items, ids that are missing or not different, or
            a measure that is not among the scores.
    """
    for number, suite in enumerate(suites):
        if suite.name in {other.name for other in suites[:number]}:
            raise CourseError(f"two suites are called {suite.name!r}; name each of them once.")
        if not suite.items:
            raise CourseError(f"the suite {suite.name!r} is empty; it needs at least one item.")
        if suite.measure not in suite.scores:
            raise CourseError(
                f"the suite {suite.name!r} is measured by {suite.measure!r}, but its scores are "
                f"{', '.join(suite.scores)}; {closest(suite.measure, suite.scores)}choose one of them."
            )
        ids = [item.get("id") for item in suite.items]
        if not all(isinstance(identifier, str) for identifier in ids):
            raise CourseError(
                f"an item of the suite {suite.name!r} has no 'id'; give each item a text as id."
            )
        identifier, count = max(Counter(ids).items(), key=itemgetter(1))
        if count > 1:
            raise CourseError(
                f"the suite {suite.name!r} has {count} items with the id {identifier!r}; scores are paired "
                "by id, so give each item its own."
            )
