"""Profiles: the one switch between the tiny offline world and a real model on a GPU.

A profile says which base model a course runs on and what that model needs. The notebook's `parameters` cell
or the environment variable `POSTTRAIN_PROFILE` names it; what is trained, and how, stands in the recipes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from posttrain_helpers.errors import CourseError
from posttrain_helpers.suggestions import closest

PROFILE_VARIABLE = "POSTTRAIN_PROFILE"
DEFAULT_PROFILE = "tiny"


@dataclass(frozen=True)
class Profile:
    """One world to run the course in.

    Attributes:
        name: what `POSTTRAIN_PROFILE` and `setup()` take.
        base_model: a directory or a Hub id.
        description: one line for readers.
        device: where the base model is at home, "cpu" or "cuda".
        dtype: of the weights. On a GPU bfloat16 is autocast over float32 weights: a step of 2e-5 would be
            rounded away in bfloat16 weights.
        offline: whether everything that the profile needs is in the repository.
        min_gpu_gb: GPU memory for full fine-tuning in GB, 0 if no GPU is needed.
        licence: of the base model.
        download: what the first run fetches.
        revision: the commit of the base model on the Hub, None for a directory.
        chat_template: "chatml" replaces the template that the base model ships with plain ChatML, which has
            no thinking block and marks what the assistant says; None keeps the model's own.
        notes: what else a reader should know.
    """

    name: str
    base_model: str
    description: str
    device: str
    dtype: str
    offline: bool
    min_gpu_gb: float
    licence: str
    download: str
    revision: str | None = None
    chat_template: str | None = None
    notes: str = ""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="tiny",
            base_model=str(Path(__file__).resolve().parent / "tinyworld" / "base"),
            description="a small Qwen3 of the tiny world, shipped with the course",
            device="cpu",
            dtype="float32",
            offline=True,
            min_gpu_gb=0,
            licence="MIT",
            download="nothing",
            notes="Every lesson takes one to two minutes on two cores.",
        ),
        Profile(
            name="qwen3",
            base_model="Qwen/Qwen3-0.6B-Base",
            description="Qwen3 with 0.6 billion parameters and public data sets",
            device="cuda",
            dtype="float32",
            offline=False,
            min_gpu_gb=16,
            licence="Apache-2.0",
            download="1.2 GB from the Hugging Face Hub, once",
            revision="da87bfb608c14b7cf20ba1ce41287e8de496c0cd",
            chat_template="chatml",
            notes="A CPU can load and generate; training needs a GPU.",
        ),
    )
}


def get_profile(name: str | Profile | None = None) -> Profile:
    """Return a profile by name.

    Args:
        name: a key of `PROFILES`; None reads `POSTTRAIN_PROFILE` and falls back to "tiny"; a profile is
            returned as it is.

    Returns:
        The profile.

    Raises:
        CourseError: no profile has this name.
    """
    if isinstance(name, Profile):
        return name
    origin = "profile"
    if name is None:
        name = os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
        origin = f"{PROFILE_VARIABLE}: profile"
    if name not in PROFILES:
        raise CourseError(
            f"{origin} {name!r} does not exist; {closest(name, PROFILES)}The profiles are "
            f"{', '.join(PROFILES)}; for another model keep the profile and override the recipe with "
            "'model=<directory or Hub id>'."
        )
    return PROFILES[name]
