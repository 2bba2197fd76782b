"""Whether the values of a recipe are of the types that the libraries declare, and in the ranges that matter.

The types of arguments are those of the config classes' fields, so a new argument of a library is checked
without a change here. TRL itself accepts `learning_rate="fast"` and fails with a traceback in the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from posttrain_helpers.annotations import described, enumerated, fits, is_number
from posttrain_helpers.errors import CourseError
from posttrain_helpers.runtime import LARGEST_SEED
from posttrain_helpers.wording import closest

VALUE_TYPES = {"description": str, "model": str, "seed": int}

# What the libraries take beyond what they declare.
_ALSO_TAKEN = {"loss_type": str, "fsdp": bool | list[str]}
_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("gradient_accumulation_steps", "max_length", "max_completion_length"), 1),
    **dict.fromkeys(("max_steps", "num_iterations", "r"), 1),
    **dict.fromkeys(("learning_rate", "num_train_epochs", "seed", "data_seed"), 0),
    **dict.fromkeys(("weight_decay", "warmup_steps", "max_grad_norm", "beta", "lora_dropout"), 0),
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps"), 0),
    **dict.fromkeys(("max_samples", "held_out_samples", "length_groups"), 1),
    **dict.fromkeys(("n_train", "steps", "comparisons"), 1),
    **dict.fromkeys(("n_prompts", "identity"), 0),
    **dict.fromkeys(("samples", "num_generations"), 2),
    "largest": 3,
}
_ABOVE = dict.fromkeys(("temperature", "label_temperature", "sampling_temperature"), 0)
# A number out of the range that the libraries read as "not set".
_NOT_SET = {"max_steps": -1}
_MOST = dict.fromkeys(("seed", "data_seed"), LARGEST_SEED)


def argument_types(config: type) -> dict[str, Any]:
    """Return the declared type of each field of a config class."""
    types = get_type_hints(config)
    return {key: kind | _ALSO_TAKEN[key] if key in _ALSO_TAKEN else kind for key, kind in types.items()}


def check_values(found: Mapping[str, Any], types: Mapping[str, Any], prefix: str, where: str) -> None:
    """Check values against their declared types, and against the ranges that matter.

    Args:
        found: the values by key; keys without a type are not looked at.
        types: annotations by key.
        prefix: what to write before a key, such as "args.".
        where: what to call the recipe in an error.

    Raises:
        CourseError: the sentence names the key, what it must be, and what it is.
    """
    for key, value in found.items():
        if key not in types:
            continue
        kind = types[key]
        if not fits(value, kind) or (is_number(value) and not _is_in_range(key, value)):
            raise CourseError(
                f"{where}: {prefix}{key} must be {_wanted(key, kind)}, but it is {_shown(value)}."
                f"{_advice(value, kind)}"
            )


def _is_in_range(key: str, value: float) -> bool:
    if key in _NOT_SET and value == _NOT_SET[key]:
        return True
    least, most = _LEAST.get(key, -math.inf), _MOST.get(key, math.inf)
    return least <= value <= most and value > _ABOVE.get(key, -math.inf)


def _wanted(key: str, kind: Any) -> str:
    """Return the type and the range of a key in words."""
    if key in _MOST:
        bounds = f" from {_LEAST[key]} to {_MOST[key]}"
    elif key in _LEAST:
        bounds = f" of at least {_LEAST[key]}"
    else:
        bounds = f" above {_ABOVE[key]}" if key in _ABOVE else ""
    if key in _NOT_SET:
        bounds += f" (or {_NOT_SET[key]}: not set)"
    if bounds and fits(None, kind):  # the bounds are those of a number
        return f"{described(kind).removesuffix(' or null')}{bounds}, or null"
    return f"{described(kind)}{bounds}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]} …"


def _advice(value: Any, kind: Any) -> str:
    """Return what most often leads to such a value."""
    choices = [str(choice) for choice in enumerated(kind)]
    if isinstance(value, bool) and (word := "yes" if value else "no") in choices:
        return f" YAML reads a bare {word} as {str(value).lower()}: write '\"{word}\"'."
    if isinstance(value, str) and choices:
        return f" {closest(value, choices).capitalize()}".rstrip()
    return ""
