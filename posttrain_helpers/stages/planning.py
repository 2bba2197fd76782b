"""What a recipe will do and how much memory it will take, before a stage is built or weights are loaded."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from math import ceil, floor
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.fetched import FETCHABLE
from posttrain_helpers.environment.processes import process_count, shared_state_kept
from posttrain_helpers.environment.profiles import get_profile
from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import NEEDS, MemoryEstimate, ModelSize, estimate_memory, measure_model
from posttrain_helpers.models.hub import cached_model
from posttrain_helpers.models.loading import model_directory
from posttrain_helpers.models.manifest import BASE, STAGE_NAME, is_complete, stage_path
from posttrain_helpers.models.weights import loading_errors
from posttrain_helpers.recipes import load_recipe, stage_recipes
from posttrain_helpers.recipes.methods import METHODS, config_class
from posttrain_helpers.rewards.verifiers import reward_models
from posttrain_helpers.training.trainer import checked_config
from posttrain_helpers.wording import readable_size

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedConfig

    from posttrain_helpers.recipes import Recipe

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def plan_recipe(recipe: Recipe, config: PreTrainedConfig | None = None) -> MemoryEstimate:
    """Estimate the peak memory of a recipe.

    Args:
        recipe: as `load_recipe` returns it.
        config: of a model in place of the one that the recipe names.

    Raises:
        CourseError: the model's config makes no model that the estimate knows, the recipe sets no length, or
            its optimizer is unknown.
    """
    arguments = {item.name: item.default for item in fields(config_class(recipe.method))} | recipe.args
    size = _planned_size(recipe.model, recipe, config, METHODS[recipe.method].head, recipe.lora)
    if recipe.quantization:
        size = size.quantized(recipe.quantization)
    beside = recipe.reference or recipe.teacher  # whole, whatever the policy is
    frozen = _planned_size(beside, recipe, config).weights if beside else None
    return estimate_memory(size, recipe.method, arguments, len(reward_models(recipe.rewards)), frozen)


def _planned_size(
    name: str,
    recipe: Recipe,
    config: PreTrainedConfig | None,
    head: str = "language",
    lora: Mapping[str, Any] | None = None,
) -> ModelSize:
    """Return the size of a model that a recipe names, from its config alone."""
    from transformers import AutoConfig

    profile = get_profile(recipe.profile)
    try:
        if config is None:
            place = _architecture(name, recipe.profile)
            config = AutoConfig.from_pretrained(place, revision=profile.revision_of(str(place)))
        model = empty_model(config, "float32", head, lora)
    except CourseError:
        raise
    except (ImportError, *loading_errors()) as error:
        raise CourseError(
            f"no {head} model can be made from the config of {name!r} and the recipe's lora "
            f"({shorten(str(error), 200, placeholder=' …')}); choose another model, or correct lora."
        ) from error
    return measure_model(model)


def plan_training(recipe: Recipe) -> list[tuple[str, str]]:
    """Return what a training would do, after checks of the recipe, its model, its data and its arguments.

    Nothing is trained, sampled or downloaded but the config of a model: rows that a model has to sample
    first, or that are on the Hub, are not counted.

    Returns:
        Pairs of a heading and a sentence.

    Raises:
        CourseError: whatever is wrong with model, data or arguments, in one sentence.
    """
    estimate = plan_recipe(recipe)
    with shared_state_kept():
        config = checked_config(recipe)
    rows = _training_rows(recipe)
    replies = process_count() * config.per_device_train_batch_size * config.gradient_accumulation_steps
    samples = METHODS[recipe.method].data == "prompts"
    steps = config.max_steps if config.max_steps > 0 else _steps(config, rows, replies, samples)
    tokens = replies * NEEDS[recipe.method].rows * estimate.length  # a pair is two rows
    most = f"; at most {steps * tokens:,} tokens" if steps else ""
    plan = [("from", _with_state(recipe.model, recipe))]
    if recipe.reference:
        weights = readable_size(estimate.reference)
        plan.append(("reference", f"{_with_state(recipe.reference, recipe)}, {weights} of weights"))
    return [
        *plan,
        ("data", f"{recipe.data.get('source')}: {'not counted yet' if rows is None else f'{rows:,} rows'}"),
        ("steps", f"{f'{steps:,}' if steps else 'not known yet'}, {replies} rows or replies in each{most}"),
        ("memory", estimate.sentence()),
        ("stage", str(stage_path(recipe.stage, recipe.profile))),
    ]


def _with_state(name: str, recipe: Recipe) -> str:
    missing = name in stage_recipes() and not is_complete(stage_path(name, recipe.profile))
    return f"{name} (to be built first)" if missing else name


def _training_rows(recipe: Recipe) -> int | None:
    from posttrain_helpers.data.loading import check_source, load_data

    if check_source(recipe) or "policy" in recipe.data or recipe.data.get("replay"):  # these need a model
        return None
    return len(load_data(recipe, verbose=False)[0])


def _steps(config: Any, rows: int | None, replies: int, samples: bool) -> int | None:
    """Return the steps of all epochs; None where they depend on rows that are not counted."""
    if hasattr(config, "steps_for"):  # PPO
        return None if rows is None and config.total_episodes is None else config.steps_for(rows or 0)
    if rows is None or getattr(config, "packing", False):  # how many rows are packed into one is not known
        return None
    copies = getattr(config, "num_generations", 1) * getattr(config, "num_iterations", 1)
    batches = rows * copies / replies
    # TRL leaves out prompts that fill no batch; a last batch of rows is a step however small it is.
    whole = floor(batches) if samples or config.dataloader_drop_last else ceil(batches)
    return ceil(config.num_train_epochs * max(1, whole))


def empty_model(
    config: PreTrainedConfig,
    dtype: str = "float32",
    head: str = "language",
    lora: Mapping[str, Any] | None = None,
) -> Module:
    """Build a model whose weights have shapes and no memory; with `lora` its base is frozen."""
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


def _architecture(name: str, profile: str) -> Path | str:
    """Return where the config of a recipe's model is: a directory, or a Hub id; no stage is built."""
    known = get_profile(profile)
    recipes = stage_recipes()
    if name == BASE:
        return _architecture(known.base_model, profile)
    if name in recipes or name in recipes.values():
        recipe = load_recipe(recipes.get(name, name), profile)
        directory = stage_path(recipe.stage, profile)
        if not (directory / "config.json").is_file():  # a model of the same shape, unless the stage is there
            return _architecture(recipe.model, profile)
    elif STAGE_NAME.fullmatch(name) and stage_path(name, profile).is_dir():
        directory = stage_path(name, profile)
    elif (
        not (Path(name).expanduser().exists() or name in FETCHABLE)
        and _HUB_ID.fullmatch(name)
        and cached_model(name, known.revision_of(name)) is None
    ):
        return name  # it would be downloaded from the Hub
    else:
        directory = model_directory(name, None, known)
    adapter = directory / "adapter_config.json"
    if adapter.is_file() and not (directory / "config.json").is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        return _architecture(settings["base_model_name_or_path"], profile)
    return directory
