"""Helpers of a notebook course on post-training language models.

    from posttrain_helpers import compare_generations, load_recipe, setup

The public names are imported when they are first used, so that this import takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain_helpers.comparison import Comparison, compare_generations
    from posttrain_helpers.data import load_data
    from posttrain_helpers.errors import CourseError
    from posttrain_helpers.evaluation.runner import evaluate
    from posttrain_helpers.generation import Generation, generate
    from posttrain_helpers.manifest import stage_path
    from posttrain_helpers.memory import MemoryMonitor
    from posttrain_helpers.ppo import PPOConfig, PPOTrainer
    from posttrain_helpers.profiles import Profile, get_profile
    from posttrain_helpers.recipes import Recipe, load_recipe
    from posttrain_helpers.results import save_figure, write_results
    from posttrain_helpers.runtime import Runtime, setup
    from posttrain_helpers.stage_loading import load_model_and_tokenizer
    from posttrain_helpers.stage_saving import save_stage
    from posttrain_helpers.stages import build_stage, load_stage, resolve_model
    from posttrain_helpers.statistics import Claim
    from posttrain_helpers.training import make_trainer, train

_MODULES = {
    "Claim": "statistics",
    "Comparison": "comparison",
    "CourseError": "errors",
    "Generation": "generation",
    "MemoryMonitor": "memory",
    "PPOConfig": "ppo",
    "PPOTrainer": "ppo",
    "Profile": "profiles",
    "Recipe": "recipes",
    "Runtime": "runtime",
    "build_stage": "stages",
    "compare_generations": "comparison",
    "evaluate": "evaluation.runner",
    "generate": "generation",
    "get_profile": "profiles",
    "load_data": "data",
    "load_model_and_tokenizer": "stage_loading",
    "load_recipe": "recipes",
    "load_stage": "stages",
    "make_trainer": "training",
    "resolve_model": "stages",
    "save_figure": "results",
    "save_stage": "stage_saving",
    "setup": "runtime",
    "stage_path": "manifest",
    "train": "training",
    "write_results": "results",
}

__all__ = [
    "Claim",
    "Comparison",
    "CourseError",
    "Generation",
    "MemoryMonitor",
    "PPOConfig",
    "PPOTrainer",
    "Profile",
    "Recipe",
    "Runtime",
    "build_stage",
    "compare_generations",
    "evaluate",
    "generate",
    "get_profile",
    "load_data",
    "load_model_and_tokenizer",
    "load_recipe",
    "load_stage",
    "make_trainer",
    "resolve_model",
    "save_figure",
    "save_stage",
    "setup",
    "stage_path",
    "train",
    "write_results",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
