"""Which keys the data section of a recipe may have, and of which type their values are.

What a built-in source takes is written here as well as in the function that makes it, so that reading a
recipe loads no data. A test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import suggestion

_EVERYWHERE = {"source": str, "seed": int, "length_groups": int, "dev": int | str}
# Where in a source the rows are and how they are read: another source has other places and columns.
PLACE_KEYS = {
    **dict.fromkeys(("split", "subset", "revision", "adapter"), str),
    "answer_format": Literal["gsm8k"],
    "columns": Annotated[dict[str, str], Field(min_length=1)],
}
_PUBLIC = {**_EVERYWHERE, **PLACE_KEYS, "max_samples": int, "held_out_samples": int, "system_prompt": str}
_REPLIES = {"n_prompts": int, "policy": str, "samples": int, "sampling_temperature": float}
_SAMPLED = {**_REPLIES, "label_temperature": float}
# The sources that the tiny world makes itself.
BUILT_IN: dict[str, dict[str, Any]] = {
    "tinyworld/sft": {"n_train": int, "replay": float, "formats": list[str] | None},
    "tinyworld/preferences": {**_SAMPLED, "identity": int},
    "tinyworld/judgements": {**_SAMPLED, "comparisons": int, "position_bias": float},
    "tinyworld/best_of_k": {
        **_REPLIES,
        "scorer": str,
        "steps": int | None,
        **dict.fromkeys(("draw", "smallest", "largest"), int),
    },
    "tinyworld/ai_feedback": {**_REPLIES, "labeller": str, "n_pairs": int, "draw": int},
    "tinyworld/prompts": {"n_prompts": int},
    "tinyworld/distillation": {
        **dict.fromkeys(("n_prompts", "steps", "largest", "smallest"), int),
        **dict.fromkeys(("policy", "student"), str | None),
        "sampling_temperature": float,
    },
    "tinyworld/word_problems": {"n_train": int, "steps": int, "largest": int, "smallest": int},
}


def is_built_in(source: object) -> bool:
    """Say whether a source is made by the tiny world itself."""
    return isinstance(source, str) and source.startswith("tinyworld/")


def data_types(source: object) -> dict[str, Any]:
    """Return the keys that a recipe's data section may have for a source, with the types of their values.

    Raises:
        CourseError: a built-in source that does not exist.
    """
    if not is_built_in(source):
        return dict(_PUBLIC)
    if source not in BUILT_IN:
        raise CourseError(
            f"the built-in source {source!r} does not exist{suggestion(source, BUILT_IN)}Built in: "
            f"{', '.join(BUILT_IN)}."
        )
    return {**_EVERYWHERE, "held_out": str | list[str], **BUILT_IN[source]}
