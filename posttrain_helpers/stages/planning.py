"""`plan_recipe`: how much memory a recipe will take, before a stage is built or weights are loaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import MemoryEstimate, estimate_memory, measure_model
from posttrain_helpers.models.loading import model_directory
from posttrain_helpers.models.manifest import BASE, STAGE_NAME, stage_path
from posttrain_helpers.models.weights import loading_errors
from posttrain_helpers.recipes import load_recipe, stage_recipes
from posttrain_helpers.recipes.methods import METHODS, config_class
from posttrain_helpers.rewards.verifiers import reward_models

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedConfig

    from posttrain_helpers.recipes import Recipe


def plan_recipe(recipe: Recipe, config: PreTrainedConfig | None = None) -> MemoryEstimate:
    """Estimate the peak memory of a recipe.

    Args:
        recipe: as `load_recipe` returns it.
        config: of a model in place of the one that the recipe names.

    Raises:
        CourseError: the model's config makes no model that the estimate knows, the recipe sets no length, or
            its optimizer is unknown.
    """
    from transformers import AutoConfig

    head = METHODS[recipe.method].head
    arguments = {item.name: item.default for item in fields(config_class(recipe.method))} | recipe.args
    dtype = get_profile(recipe.profile).dtype
    try:
        config = config or AutoConfig.from_pretrained(_architecture(recipe.model, recipe.profile))
        model = empty_model(config, dtype, head, recipe.lora)
    except CourseError:
        raise
    except (ImportError, *loading_errors()) as error:
        reason = " ".join(str(error).split())[:200]
        raise CourseError(
            f"no {head} model can be made from the config of {recipe.model!r} and the recipe's lora "
            f"({reason}); choose another model, or correct lora."
        ) from error
    size = measure_model(model)
    if recipe.quantization:
        size = size.quantized(recipe.quantization)
    return estimate_memory(size, recipe.method, arguments, len(reward_models(recipe.rewards)))


def empty_model(
    config: PreTrainedConfig,
    dtype: str = "float32",
    head: str = "language",
    lora: Mapping[str, Any] | None = None,
) -> Module:
    """Build a model whose weights have shapes and no memory.

    Args:
        config: of the model.
        dtype: of the weights.
        head: "language" or "reward".
        lora: arguments of `peft.LoraConfig`; the base is then frozen.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForCausalLM
    if head == "reward":
        auto, config = AutoModelForSequenceClassification, deepcopy(config)
        config.num_labels = 1
    with init_empty_weights(include_buffers=True):
        model = auto.from_config(config, dtype=getattr(torch, dtype))
        model.tie_weights()
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    task = "SEQ_CLS" if head == "reward" else "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        return get_peft_model(model, LoraConfig(**{"task_type": task, **lora}), low_cpu_mem_usage=True)


def _architecture(name: str, profile: str) -> Path:
    """Return a directory with the config of what a recipe starts from; no missing stage is built."""
    known = get_profile(profile)
    recipes = stage_recipes()
    if name == BASE:
        directory = model_directory(known.base_model, None, known)
    elif name in recipes or name in recipes.values():
        recipe = load_recipe(recipes.get(name, name), profile)
        directory = stage_path(recipe.stage, profile)
        if not (directory / "config.json").is_file():  # a model of the same shape, unless the stage is there
            return _architecture(recipe.model, profile)
    elif STAGE_NAME.fullmatch(name) and stage_path(name, profile).is_dir():
        directory = stage_path(name, profile)
    else:
        directory = model_directory(name, None, known)
    adapter = directory / "adapter_config.json"
    if adapter.is_file() and not (directory / "config.json").is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        return _architecture(settings["base_model_name_or_path"], profile)
    return directory
