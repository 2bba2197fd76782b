"""The three splits of the tiny world: what methods learn from, what settings are chosen on, what is reported.

- `train`: what lessons train on;
- `dev`: held out; recipes and settings are chosen on it;
- `test`: held out; lessons and the board report it, and nothing is ever chosen on it.

Entities, phrasings, calculations, pairs of a name and a thing, and words to repeat belong to one split each;
problems and sampled replies of each split come from seeds of their own. The base model was trained before
there was a test split: its chats keep clear of dev, but have met questions about test (see `documents`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Literal

from posttrain_helpers.environment.paths import output_root
from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError

Split = Literal["train", "dev", "test"]
# What each held-out split is for.
USES: dict[Split, str] = {"dev": "settings are chosen on it", "test": "what lessons report"}
HELD_OUT_SPLITS: tuple[Split, ...] = tuple(USES)
# Part of the identity of whatever is trained on the tiny world's data: 2 since there is a test split.
WORLD = 2
SPLIT_VARIABLE = "POSTTRAIN_SPLIT"
DEFAULT_SPLIT: Split = "test"
DEV_SHARE = 0.2
TEST_SHARE = 0.2


def reported_split(split: str | None = None) -> Split:
    """Return the held-out split to measure on.

    Args:
        split: "dev" or "test"; None reads `POSTTRAIN_SPLIT` and falls back to "test".

    Raises:
        CourseError: any other name.
    """
    name = split or os.environ.get(SPLIT_VARIABLE) or DEFAULT_SPLIT
    if name not in HELD_OUT_SPLITS:
        raise CourseError(
            f"{name!r} is no held-out split; choose 'test', which lessons report, or 'dev', on which "
            f"settings are chosen (--split, or {SPLIT_VARIABLE})."
        )
    return name


def drawn_split(key: str) -> Split:
    """Return the split of something that is its own key, such as "12+7": a fifth is dev, a fifth is test."""
    draw = random.Random(key).random()
    return "dev" if draw < DEV_SHARE else "test" if draw < DEV_SHARE + TEST_SHARE else "train"


def split_seed(text: str, split: Split) -> str:
    """Return the seed text of a held-out suite: each split draws from a seed of its own."""
    return text if split == "dev" else f"{split}/{text}"


def results_directory(profile: str | None = None) -> Path:
    """Return the directory of what is measured under a profile on the reported split; it need not exist.

    Args:
        profile: a profile's name; None is the default profile.

    Returns:
        `<output>/<profile>`, and `<output>/<profile>/dev` for the split "dev".

    Raises:
        CourseError: for an unknown profile or split.
    """
    directory, split = output_root() / get_profile(profile).name, reported_split()
    return directory if split == DEFAULT_SPLIT else directory / split
