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

_CONVERSATIONS = (("messages",), ("prompt", "completion"), ("text",), ("input_ids", "labels"))
_PAIRS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))


@dataclass(frozen=True)
class Method:
    """How to build the trainer of one method.

    Attributes:
        config: "module:class" of the arguments.
        trainer: "module:class" of the trainer.
        columns: alternatives of columns that the training set may have.
        data: the form of a training row: "conversations", "pairs" (chosen and rejected), "labels" (a reply
            and whether it is desirable) or "prompts" (it samples its own replies).
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

    config: str
    trainer: str
    columns: tuple[tuple[str, ...], ...]
    data: str = "conversations"
    head: str = "language"
    arguments: dict[str, Any] = field(default_factory=dict)
    rewards: bool = False
    teacher: bool = False
    reference: str = "none"
    sampler: str | None = None
    evaluates: bool = True


METHODS: dict[str, Method] = {
    "sft": Method(
        config="trl:SFTConfig",
        trainer="trl:SFTTrainer",
        columns=_CONVERSATIONS,
    ),
    "kl_sft": Method(
        config="posttrain_helpers.training.regularized_sft_config:RegularizedSFTConfig",
        trainer="posttrain_helpers.training.regularized_sft:RegularizedSFTTrainer",
        columns=_CONVERSATIONS,
        reference="any",
    ),
    "reward": Method(
        config="trl:RewardConfig",
        trainer="trl:RewardTrainer",
        columns=(*_PAIRS, ("chosen_ids", "rejected_ids")),
        data="pairs",
        head="reward",
    ),
    "dpo": Method(
        config="trl:DPOConfig",
        trainer="trl:DPOTrainer",
        columns=_PAIRS,
        data="pairs",
        reference="any",
    ),
    "kto": Method(
        config="trl:KTOConfig",
        trainer="trl:KTOTrainer",
        # It would take pairs apart by itself, into all chosen replies and then all rejected ones.
        columns=(("prompt", "completion", "label"),),
        data="labels",
        reference="any",
    ),
    # These two collate by columns of their own and warn about the default.
    "orpo": Method(
        config="trl.experimental.orpo:ORPOConfig",
        trainer="trl.experimental.orpo:ORPOTrainer",
        columns=_PAIRS,
        data="pairs",
        arguments={"remove_unused_columns": False},
    ),
    "cpo": Method(
        config="trl.experimental.cpo:CPOConfig",
        trainer="trl.experimental.cpo:CPOTrainer",
        columns=_PAIRS,
        data="pairs",
        arguments={"remove_unused_columns": False},
    ),
    "grpo": Method(
        config="trl:GRPOConfig",
        trainer="trl:GRPOTrainer",
        columns=(("prompt",),),
        data="prompts",
        rewards=True,
        reference="parent",
        sampler="posttrain_helpers.generation.rollouts:grpo_rollouts",
    ),
    "rloo": Method(
        config="trl:RLOOConfig",
        trainer="trl:RLOOTrainer",
        columns=(("prompt",),),
        data="prompts",
        rewards=True,
        reference="parent",
    ),
    "ppo": Method(
        config="posttrain_helpers.training.ppo.config:PPOConfig",
        trainer="posttrain_helpers.training.ppo.trainer:PPOTrainer",
        columns=(("prompt",),),
        data="prompts",
        rewards=True,
        reference="any",
        evaluates=False,
    ),
    # The same divergence on replies that are given, and on replies that the student samples.
    "distill_offline": Method(
        config="trl.experimental.gkd:GKDConfig",
        trainer="trl.experimental.gkd:GKDTrainer",
        columns=(("messages",),),
        arguments={"lmbda": 0.0},
        teacher=True,
    ),
    "distill_on_policy": Method(
        config="trl:DistillationConfig",
        trainer="trl:DistillationTrainer",
        columns=(("prompt",),),
        data="prompts",
        teacher=True,
    ),
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
