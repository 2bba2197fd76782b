"""The gold score: how good a reply truly is, known because the world is ours.

Lessons on preferences see it only through noisy comparisons; lessons on evaluation compare every proxy with
it. It adds up what a reader values: a right answer, a whole sentence, a friendly manner, a happy ending, and
nothing superfluous.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from posttrain_helpers.metrics import lenient_match, repetition_rate
from posttrain_helpers.tinyworld.replies import core_of, is_polite, is_rude
from posttrain_helpers.tinyworld.stories import has_bad_ending, has_good_ending

CORRECT = 2.0
COMPLETE = 0.5
POLITE = 1.0
RUDE = -1.5
GOOD_ENDING = 2.0
BAD_ENDING = -1.0
ON_TOPIC = 0.5
UNFINISHED = -1.0
REPETITION = -2.0
SURPLUS_PER_WORD = -0.05
ROOM_FOR_MANNERS = 8


@dataclass(frozen=True)
class GoldScore:
    """The parts of a gold score; `total` is their sum."""

    correctness: float
    completeness: float
    manner: float
    ending: float
    topic: float
    finish: float
    repetition: float
    brevity: float

    @property
    def total(self) -> float:
        """The gold score."""
        return sum(asdict(self).values())


def gold_score(item: dict[str, Any], reply: str, *, stopped: bool = True) -> GoldScore:
    """Score a reply.

    Args:
        item: what was asked (`task`, `answer`, `accepted`; stories: `entity` and `thing`).
        reply: the text of the reply.
        stopped: whether the model stopped by itself.
    """
    text = reply.strip()
    words = text.split()
    is_story = item["task"] == "stories"
    core = core_of(text)
    ending = found = 0.0
    if is_story:
        allowed = 70
        named = [item[key] for key in ("entity", "thing") if key in item]
        found = sum(bool(re.search(rf"\b{re.escape(word)}\b", text)) for word in named)
        if has_good_ending(text):
            ending = GOOD_ENDING
        elif has_bad_ending(text):
            ending = BAD_ENDING
    else:
        longest = max(len(accepted.split()) for accepted in item.get("accepted") or [core])
        allowed = ROOM_FOR_MANNERS + longest
    return GoldScore(
        correctness=CORRECT if lenient_match(text, item) else 0.0,
        completeness=COMPLETE if not is_story and len(core.split()) >= 3 and core.endswith(".") else 0.0,
        manner=(POLITE if is_polite(text) else 0.0) + (RUDE if is_rude(text) else 0.0),
        ending=ending,
        topic=ON_TOPIC * found,
        finish=0.0 if stopped else UNFINISHED,
        repetition=REPETITION * repetition_rate(text),
        brevity=SURPLUS_PER_WORD * max(0, len(words) - allowed),
    )


def gold(reply: str, item: dict[str, Any]) -> float:
    """Return the gold score of a reply as a number, for `compare_generations(..., score=gold)`."""
    return gold_score(item, reply).total
