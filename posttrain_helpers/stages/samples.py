"""Replies sampled from a stage, kept on disk: several lessons and stages train on the same ones.

Sampling a thousand prompts takes longer than training on them, so the replies are written beside the stages,
under a name that holds everything they depend on: the weights, the tokenizer with its chat template, the
prompts and the decoding settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.fetched import fetched_directory
from posttrain_helpers.environment.paths import output_root, write_json_atomic
from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.models.weights import sha256, weights_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain_helpers.generation.decoding import Generation, Prompt

_READING = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True)
class Sample:
    """One sampled reply: its text without special tokens, and whether the model ended it by itself."""

    text: str
    stopped: bool


def sample_replies(
    policy: str,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch_size: int = 64,
    profile: str | Profile | None = None,
) -> list[list[Sample]]:
    """Sample replies of a model, or read them if the same ones were sampled before.

    Args:
        policy: "base", a stage (built if it is missing), a directory, or a Hub id in the local cache.
        prompts: N prompts, as `generate` takes them.
        samples: K replies for each prompt.
        temperature, max_new_tokens, seed, batch_size: as for `sample_groups`.
        profile: what stage names refer to; None takes the profile in use.

    Returns:
        For each prompt its K replies.

    Raises:
        CourseError: one string instead of a list, fewer than one sample, or temperature 0; what loading and
            generating raise.
    """
    from posttrain_helpers.generation.rollouts import sample_groups
    from posttrain_helpers.models.manifest import model_identity
    from posttrain_helpers.stages.build import resolve_model
    from posttrain_helpers.stages.loading import load_model_and_tokenizer

    if isinstance(prompts, str):
        raise CourseError("prompts must be a list, but one string was found; write [prompt].")
    if samples < 1 or not temperature > 0:
        raise CourseError(
            f"sampling needs samples >= 1 and a temperature above 0; found samples={samples} and "
            f"temperature={temperature}."
        )
    profile = get_profile(profile)
    place = resolve_model(policy, profile)
    options = {
        "samples": samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "batch_size": batch_size,
    }
    settings = {"weights": model_identity(place), "reads": _reading(place), **options}
    text = json.dumps([settings, list(prompts)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = output_root() / profile.name / "samples" / f"{name}.json"
    if (kept := _read(path, len(prompts), samples)) is not None:
        return kept
    model, tokenizer = load_model_and_tokenizer(place, merge=True, profile=profile, verbose=False)
    draw = _in_whole_batches if profile.whole_batches else sample_groups
    drawn = [
        [Sample(reply.text, reply.stop_reason == "stop") for reply in group]
        for group in draw(model, tokenizer, prompts, **options)
    ]
    rows = [[asdict(sample) for sample in group] for group in drawn]
    write_json_atomic(path, {"policy": policy, **settings, "replies": rows})
    return drawn


def _reading(place: str) -> str:
    """Return what changes when the tokenizer of a model changes, its chat template or its end tokens."""
    directory = fetched_directory(place) or Path(place).expanduser()
    files = [directory / name for name in _READING if (directory / name).is_file()]
    return weights_identity({file.name: sha256(file) for file in files})


def _in_whole_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samples: int,
    **options: Any,
) -> list[list[Generation]]:
    from posttrain_helpers.generation.decoding import generate

    # Prompts of similar length share a batch: less padding, and replies that end at about the same time.
    order = sorted(range(len(prompts)), key=lambda index: len(str(prompts[index])))
    replies = generate(
        model, tokenizer, [prompts[index] for index in order], num_return_sequences=samples, **options
    )
    drawn: list[list[Generation]] = [[] for _ in prompts]
    for index, group in zip(order, replies, strict=True):
        drawn[index] = group if isinstance(group, list) else [group]
    return drawn


def _read(path: Path, prompts: int, samples: int) -> list[list[Sample]] | None:
    """Return what a file holds; None if there is none, or not the whole of it."""
    if not path.is_file():
        return None
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["replies"]
        drawn = [[Sample(**reply) for reply in row] for row in rows]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is damaged ({error}); delete it, and it will be sampled again.") from error
    complete = len(drawn) == prompts and all(len(group) == samples for group in drawn)
    return drawn if complete else None
