"""The methods of the course: which classes train each, what its rows hold, and what it trains.

The classes are named here and imported when they are asked for, so that reading a recipe loads no trainer.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from typing import Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import suggestion

# Alternatives of columns that a training set of each form may have.
_PAIRS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
_COLUMNS = {
    "conversations": (("messages",), ("prompt", "completion"), ("text",), ("input_ids", "labels")),
    "pairs": _PAIRS,
    # KTO would take pairs apart by itself, into all chosen replies and then all rejected ones.
    "labels": (("prompt", "completion", "label"),),
    "prompts": (("prompt",),),
}


@dataclass(frozen=True)
class Method:
    """How to build the trainer of one method.

    Attributes:
        trainer: "module:class" of the trainer.
        data: the form of a training row: "conversations", "pairs" (chosen and rejected), "labels" (a reply
            and whether it is desirable) or "prompts" (it samples its own replies).
        own_config: "module:class" of the arguments, where that is not the trainer's with "Config" for
            "Trainer".
        own_columns: alternatives of columns that the training set may have, if others than those of the form.
        head: the head of the model that it trains: "language" or "reward".
        arguments: of the config, where the trainer needs another value than the default; a recipe may
            overrule them.
        rewards: whether it learns from reward functions, which the recipe names.
        teacher: whether it learns from the distributions of another model, which the recipe names.
        reference: what its reference model may be: "any" that the recipe names, the "parent" alone (TRL's
            trainer takes no other), or "none".
        sampler: "module:function" that the trainer may sample with.
        evaluates: whether the trainer can look at dev rows while it trains.
    """

    trainer: str
    data: str
    own_config: str = ""
    own_columns: tuple[tuple[str, ...], ...] = ()
    head: str = "language"
    arguments: dict[str, Any] = field(default_factory=dict)
    rewards: bool = False
    teacher: bool = False
    reference: str = "none"
    sampler: str | None = None
    evaluates: bool = True

    @property
    def config(self) -> str:
        """The class of the arguments as "module:class"."""
        return self.own_config or self.trainer.replace("Trainer", "Config")

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Alternatives of columns that the training set may have."""
        return self.own_columns or _COLUMNS[self.data]


_TRL, _OWN = "trl.experimental", "posttrain_helpers.training"
# ORPO and CPO collate by columns of their own and warn about the default.
_ALL_COLUMNS = {"remove_unused_columns": False}
METHODS: dict[str, Method] = {
    "sft": Method("trl:SFTTrainer", "conversations"),
    "kl_sft": Method(
        f"{_OWN}.regularized_sft:RegularizedSFTTrainer",
        "conversations",
        own_config=f"{_OWN}.regularized_sft_config:RegularizedSFTConfig",
        reference="any",
    ),
    "reward": Method(
        "trl:RewardTrainer", "pairs", own_columns=(*_PAIRS, ("chosen_ids", "rejected_ids")), head="reward"
    ),
    "dpo": Method("trl:DPOTrainer", "pairs", reference="any"),
    "kto": Method("trl:KTOTrainer", "labels", reference="any"),
    "orpo": Method(f"{_TRL}.orpo:ORPOTrainer", "pairs", arguments=_ALL_COLUMNS),
    "cpo": Method(f"{_TRL}.cpo:CPOTrainer", "pairs", arguments=_ALL_COLUMNS),
    "grpo": Method(
        "trl:GRPOTrainer",
        "prompts",
        rewards=True,
        reference="parent",
        sampler="posttrain_helpers.generation.rollouts:grpo_rollouts",
    ),
    "rloo": Method("trl:RLOOTrainer", "prompts", rewards=True, reference="parent"),
    "ppo": Method(
        f"{_OWN}.ppo.trainer:PPOTrainer",
        "prompts",
        own_config=f"{_OWN}.ppo.config:PPOConfig",
        rewards=True,
        reference="any",
        evaluates=False,
    ),
    # The same divergence on replies that are given, and on replies that the student samples.
    "distill_offline": Method(
        f"{_TRL}.gkd:GKDTrainer",
        "conversations",
        own_columns=(("messages",),),
        arguments={"lmbda": 0.0},
        teacher=True,
    ),
    "distill_on_policy": Method("trl:DistillationTrainer", "prompts", teacher=True),
}


def method_named(name: str) -> Method:
    """Return a method.

    Raises:
        CourseError: no method has this name.
    """
    if name not in METHODS:
        raise CourseError(
            f"the method {name!r} does not exist{suggestion(name, METHODS)}The methods are "
            f"{', '.join(METHODS)}."
        )
    return METHODS[name]


def config_class(method: str) -> type:
    """Return the config class of a method, such as `trl.SFTConfig`."""
    return imported(method_named(method).config)


def trainer_class(method: str) -> type:
    """Return the trainer class of a method, such as `trl.SFTTrainer`."""
    return imported(method_named(method).trainer)


def imported(reference: str) -> Any:
    """Return what "module:name" refers to."""
    module, name = reference.split(":")
    if module.startswith("trl.experimental"):
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # which methods are experimental is known here
    return getattr(importlib.import_module(module), name)
