"""Whether the values of a recipe are of the types that the libraries declare, and in the ranges that matter.

The types are those of the config classes' fields and of the parameters of the built-in data sources, so a new
argument of a library is checked without a change here. TRL itself accepts `learning_rate="fast"` and fails
with a traceback in the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from posttrain_helpers.environment.runtime import LARGEST_SEED
from posttrain_helpers.environment.schemas import checked

_NAME = Annotated[str, Field(min_length=1)]
VALUE_TYPES = {
    **dict.fromkeys(("description", "model", "teacher"), str),
    "models": Annotated[list[_NAME], Field(min_length=1)],
    "reference": _NAME,
    "seed": int,
    "early_stopping": Annotated[int, Field(ge=1)],
    "quantization": Literal["4bit", "8bit"],
}

# What the libraries take beyond what they declare.
_ALSO_TAKEN = {
    "fsdp": bool | list[str],
    "init_lora_weights": Annotated[str, Field(pattern=r"^pissa_niter_\d+$")],
}
# Losses of the trainers that find out while they train; the configs of the others declare their choices.
_DPO_LOSSES = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
_GRPO_LOSSES = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
LOSSES = {"DPOConfig": list[_DPO_LOSSES] | _DPO_LOSSES, "GRPOConfig": _GRPO_LOSSES}
_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("gradient_accumulation_steps", "max_length", "max_completion_length"), 1),
    **dict.fromkeys(("max_steps", "num_iterations", "r", "lora_alpha"), 1),
    **dict.fromkeys(("learning_rate", "num_train_epochs", "seed", "data_seed"), 0),
    **dict.fromkeys(("weight_decay", "warmup_steps", "max_grad_norm", "beta", "lora_dropout"), 0),
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps"), 0),
    **dict.fromkeys(("max_samples", "held_out_samples", "length_groups"), 1),
    **dict.fromkeys(("n_train", "steps", "comparisons", "n_pairs"), 1),
    **dict.fromkeys(("n_prompts", "draw", "identity", "replay", "kl_beta"), 0),
    **dict.fromkeys(("samples", "num_generations"), 2),
    **dict.fromkeys(("smallest", "largest"), 3),
}
_BELOW = {"replay": 1, "lora_dropout": 1}
_ABOVE = dict.fromkeys(("temperature", "label_temperature", "sampling_temperature"), 0)
# A number out of the range that the libraries read as "not set".
_NOT_SET = ("max_steps", -1)
_MOST = dict.fromkeys(("seed", "data_seed"), LARGEST_SEED)


def argument_types(config: type) -> dict[str, Any]:
    """Return the declared type of each field of a config class, a choice of values where it declares one."""
    types = get_type_hints(config)
    for item in fields(config):
        if choices := item.metadata.get("choices"):
            named = Literal[tuple(choices)]
            types[item.name] = named | None if item.default is None else named
    if losses := LOSSES.get(config.__name__):
        types["loss_type"] = losses
    return {key: kind | _ALSO_TAKEN[key] if key in _ALSO_TAKEN else kind for key, kind in types.items()}


def check_values(found: Mapping[str, Any], types: Mapping[str, Any], prefix: str, where: str) -> None:
    """Check values against their declared types, and against the ranges that matter.

    Args:
        found: the values by key; keys without a type are not looked at.
        prefix: what to write before a key, such as "args.".
        where: what to call the recipe in an error.

    Raises:
        CourseError: the sentence names the key, what it must be, and what it is.
    """
    for key, value in found.items():
        if key in types and (key, value) != _NOT_SET:
            limits = Field(ge=_LEAST.get(key), gt=_ABOVE.get(key), le=_MOST.get(key), lt=_BELOW.get(key))
            checked(Annotated[_narrowed(types[key]), limits], value, where, f"{prefix}{key}")


def _narrowed(kind: Any) -> Any:
    """Return an annotation in which text beside an enumeration means one of its values."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    options = get_args(kind)
    if any(isinstance(option, type) and issubclass(option, Enum) for option in options):
        options = tuple(option for option in options if option is not str)
    return Union[options]  # noqa: UP007 (an enumeration and its like cannot be joined by "|" here)
