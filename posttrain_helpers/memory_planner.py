"""`plan_memory`: how much memory a training run will take, before anything is loaded, and what to change.

    plan = plan_memory("models/Qwen3-0.6B-Base", method="sft", batch_size=8, sequence_length=1024)
    print(plan.sentence())
    plan.table()
    plan.advice()

A step has moments that may each be the peak: sampling (methods that sample), the loss, the backward pass, its
end, and the optimizer's step. The plan adds up what is held at each; the largest sum is the estimate. What is
added up, in bytes, for P parameters of which T train, and b bytes each:

- weights: P b; in 4 bits 0.516 bytes for each parameter of a linear layer (Dettmers et al. 2023, "QLoRA");
- gradients: T b; AdamW: 2 T b for its two moments (Kingma and Ba 2015; Rajbhandari et al. 2020, "ZeRO",
  section 3.1, counts the same);
- activations: what autograd keeps (see `memory_counts`); checkpointing keeps one hidden state of each layer
  and recomputes one layer at a time (Chen et al. 2016);
- logits: TRL projects at most 4096 tokens and 32768 words at a time (`trl.kernels.chunked_logprob`);
- cache: two vectors for each token, layer and key-value head.

`tests/benchmarks/bench_memory_planner.py` compares the estimates of SFT, DPO and GRPO with measured peaks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory_counts import QUANTIZED_BYTES, read_config
from posttrain_helpers.memory_plan import (
    BYTES,
    NEEDS,
    OPTIMIZERS,
    TRAINING,
    MemoryPlan,
    Request,
    make_plan,
)
from posttrain_helpers.profiles import get_profile
from posttrain_helpers.verifiers import reward_models
from posttrain_helpers.wording import closest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, Trainer

    from posttrain_helpers.recipes import Recipe

_OPTIMIZER_NAMES = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def plan_memory(
    model: PreTrainedConfig | Mapping[str, Any] | str | Path,
    *,
    method: str = "sft",
    batch_size: int,
    sequence_length: int,
    completion_length: int | None = None,
    gradient_accumulation_steps: int = 1,
    dtype: str = "float32",
    autocast: str | None = None,
    training: str = "full",
    lora: Mapping[str, Any] | None = None,
    activation_checkpointing: bool = False,
    optimizer: str = "adamw",
    reference: bool | None = None,
    sampled_rows: int | None = None,
    reward_models: int = 0,
    device: str | None = None,
    limit: int | None = None,
) -> MemoryPlan:
    """Estimate the peak memory of a training run from the model's config alone.

    Args:
        model: a config, a dictionary like config.json, or a directory that holds one.
        method: a key of `NEEDS`.
        batch_size: `per_device_train_batch_size`; for pairs the number of pairs, for sampled replies that of
            replies.
        sequence_length: tokens of a row, prompt, reply and padding together.
        completion_length: tokens of a row that the loss counts; None takes all of them.
        gradient_accumulation_steps: micro-batches in an optimizer step.
        dtype: of the weights, "float32", "bfloat16" or "float16".
        autocast: the data type of autocast (`bf16=True` is "bfloat16"), None without it.
        training: "full", "lora", or "4bit" and "8bit": adapters on a base whose linear layers are stored in
            so many bits.
        lora: arguments of `peft.LoraConfig`; None with adapters takes rank 16 on all linear layers.
        activation_checkpointing: as in the recipe.
        optimizer: "adamw", "adamw_8bit", "adafactor" or "sgd".
        reference: whether a reference model is held; None takes what the method needs by itself. Adapters
            need none: without them the model is its own reference.
        sampled_rows: replies that are sampled together; None takes those of one optimizer step.
        reward_models: how many reward models of the policy's size are held.
        device: "cpu" or "cuda"; None takes CUDA where there is one.
        limit: bytes that the run may take; None reads what this machine has left.

    Returns:
        The plan.

    Raises:
        CourseError: an argument makes no sense, or the model's config cannot be read.
    """
    _choice("method", method, NEEDS)
    _choice("dtype", dtype, BYTES)
    _choice("training", training, TRAINING)
    _choice("optimizer", optimizer, OPTIMIZERS)
    if autocast is not None:
        _choice("autocast", autocast, ("bfloat16", "float16"))
    if device is None:
        device = _default_device()
    _choice("device", device, ("cpu", "cuda"))
    completion_length = sequence_length if completion_length is None else completion_length
    sampled = batch_size * gradient_accumulation_steps if sampled_rows is None else sampled_rows
    for name, value in {
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "completion_length": completion_length,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "sampled_rows": sampled,
    }.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CourseError(f"{name} must be a whole number of at least 1, but it is {value!r}.")
    if completion_length > sequence_length:
        raise CourseError(
            f"completion_length is {completion_length}, but a row has only {sequence_length} tokens; "
            "sequence_length counts prompt and reply together."
        )
    if training == "full" and lora:
        raise CourseError("lora was given, but training is 'full'; set training='lora' or leave lora out.")
    if training != "full":
        lora = dict(lora or {"r": 16, "target_modules": "all-linear"})
    needs = NEEDS[method]
    wanted = needs.reference == "always" if reference is None else reference
    if wanted and needs.reference == "never":
        raise CourseError(f"{method} has no reference model; leave out reference=True.")
    request = Request(
        method=method,
        batch_size=batch_size,
        sequence_length=sequence_length,
        completion_length=completion_length,
        gradient_accumulation_steps=gradient_accumulation_steps,
        dtype=dtype,
        autocast=autocast,
        training=training,
        lora=lora or None,
        activation_checkpointing=activation_checkpointing,
        optimizer=optimizer,
        reference=wanted and training == "full",
        sampled_rows=sampled if needs.samples else 0,
        reward_models=reward_models,
        device=device,
    )
    source = "as given"
    if limit is None:
        limit, source = free_memory(device)
    return make_plan(read_config(model), request, limit, source)


def plan_recipe(
    recipe: Recipe,
    *,
    model: PreTrainedConfig | Mapping[str, Any] | str | Path | None = None,
    prompt_length: int = 256,
    sequence_length: int | None = None,
    completion_length: int | None = None,
    device: str | None = None,
    limit: int | None = None,
) -> MemoryPlan:
    """Estimate the peak memory of a recipe; no stage is built and no weights are loaded.

    Args:
        recipe: as `load_recipe` returns it.
        model: its config or directory, in place of the one that the recipe names; a Hub id that is not in
            the cache would be downloaded otherwise.
        prompt_length: tokens of the longest prompt, for methods that sample; TRL does not cut prompts.
        sequence_length: tokens of the longest row, padding included; None takes all that the recipe allows.
        completion_length: as in `plan_memory`.
        device: "cpu" or "cuda", to plan for another than the recipe would use here; on a GPU training runs
            under autocast to bfloat16.
        limit: as in `plan_memory`.

    Raises:
        CourseError: the recipe sets no length, or an optimizer that the plan does not know.
    """
    from posttrain_helpers.recipes.methods import config_class

    arguments = {item.name: item.default for item in fields(config_class(recipe.method))} | recipe.args
    if device is not None:
        _choice("device", device, ("cpu", "cuda"))
        arguments |= {"use_cpu": device == "cpu", "bf16": device == "cuda", "fp16": False}
    config = read_config(_architecture(recipe.model, recipe.profile) if model is None else model)
    settings = _settings(recipe.method, arguments, config, prompt_length, sequence_length)
    if completion_length is not None:
        settings["completion_length"] = completion_length
    return plan_memory(
        config,
        **settings,
        dtype=get_profile(recipe.profile).dtype,
        training=recipe.quantization or ("lora" if recipe.lora else "full"),
        lora=recipe.lora,
        reward_models=len(reward_models(recipe.rewards)),
        limit=limit,
    )


def plan_trainer(trainer: Trainer, method: str) -> MemoryPlan:
    """Estimate the peak memory of a trainer that exists, from the config of its model and its arguments.

    Args:
        trainer: as `make_trainer` returns it.
        method: its method.
    """
    from peft import PeftModel

    model, arguments = trainer.model, vars(trainer.args)
    parameter = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    config = model.config
    adapter = model.active_peft_config.to_dict() if isinstance(model, PeftModel) else None
    if adapter is not None:
        adapter = {key: adapter[key] for key in ("r", "target_modules", "modules_to_save") if key in adapter}
    bits = next((bits for bits in QUANTIZED_BYTES if getattr(model, f"is_loaded_in_{bits}", False)), None)
    return plan_memory(
        config,
        **_settings(method, arguments, config, prompt_length=256, sequence_length=None),
        dtype=str(parameter.dtype).removeprefix("torch."),
        training=bits or ("lora" if adapter else "full"),
        lora=adapter,
    )


def _settings(
    method: str,
    arguments: Mapping[str, Any],
    config: PreTrainedConfig,
    prompt_length: int,
    sequence_length: int | None,
) -> dict[str, Any]:
    """Return what trainer arguments say, as arguments of `plan_memory`."""
    accumulation = arguments["gradient_accumulation_steps"]
    batch = arguments["per_device_train_batch_size"]
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    settings: dict[str, Any] = {}
    needs = NEEDS[method]
    if needs.samples:
        completion = arguments["max_completion_length"]
        settings["completion_length"] = completion
        length = sequence_length or prompt_length + completion
        rows = batch * (arguments.get("steps_per_generation") or accumulation)
        rows = arguments.get("generation_batch_size") or rows
        if method == "ppo":
            rows = batch * accumulation * arguments["num_mini_batches"]
        settings["sampled_rows"] = min(rows, arguments.get("rollout_batch_size", 256))
    else:
        length = sequence_length or arguments.get("max_length")
        if length is None:
            raise CourseError(
                "max_length is not set, so a row may have any length; give sequence_length, the tokens of "
                "the longest row."
            )
    if positions and not sequence_length:
        length = max(min(length, positions), settings.get("completion_length", 1))
    if needs.reference == "if asked":
        settings["reference"] = bool(arguments.get("beta"))
    elif needs.reference == "always":
        settings["reference"] = not arguments.get("precompute_ref_log_probs", False)
    optimizer = str(getattr(arguments["optim"], "value", arguments["optim"]))
    if optimizer not in _OPTIMIZER_NAMES:
        raise CourseError(
            f"the plan does not know what optim={optimizer!r} holds in memory; it knows "
            f"{', '.join(_OPTIMIZER_NAMES)}."
        )
    autocast = "bfloat16" if arguments.get("bf16") else "float16" if arguments.get("fp16") else None
    return {
        "method": method,
        "batch_size": batch,
        "sequence_length": length,
        "gradient_accumulation_steps": accumulation,
        "autocast": autocast,
        "activation_checkpointing": bool(arguments.get("activation_checkpointing")),
        "optimizer": _OPTIMIZER_NAMES[optimizer],
        "device": "cpu" if arguments.get("use_cpu") else "cuda",
        **settings,
    }


def _architecture(name: str, profile: str) -> Path:
    """Return a directory with the config of what a recipe starts from; no missing stage is built."""
    from posttrain_helpers.manifest import BASE, stage_path
    from posttrain_helpers.models import model_directory
    from posttrain_helpers.recipes import load_recipe, stage_recipes

    known = get_profile(profile)
    if name == BASE:
        directory = model_directory(known.base_model, None, known)
    elif name in (recipes := stage_recipes()) or name in recipes.values():
        recipe = load_recipe(recipes.get(name, name), profile)
        directory = stage_path(recipe.stage, profile)
        if not (directory / "config.json").is_file():  # a model of the same shape, unless the stage is there
            return _architecture(recipe.model, profile)
    elif "/" not in name and stage_path(name, profile).is_dir():
        directory = stage_path(name, profile)
    else:
        directory = model_directory(name, None, known)
    adapter = directory / "adapter_config.json"
    if adapter.is_file() and not (directory / "config.json").is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        return _architecture(settings["base_model_name_or_path"], profile)
    return directory


def free_memory(device: str) -> tuple[int | None, str]:
    """Return how much memory this process can still take on a device, in bytes, and how that is known.

    On a CPU it is the limit of the control group or of the machine, less what this process takes, and never
    more than what the machine has available. On a GPU it is what the driver calls free and what torch holds
    without using it.
    """
    import psutil

    from posttrain_helpers.memory_readings import memory_limit

    if device == "cpu":
        limit, source = memory_limit()
        own = psutil.Process().memory_info().rss
        available = psutil.virtual_memory().available
        if limit - own <= available:
            return max(limit - own, 0), f"what the {source} limit leaves"
        return available, "what the machine has available"
    import torch

    if not torch.cuda.is_available():
        return None, "no GPU here"
    free, _ = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + unused, "what the GPU has free"


def _choice(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise CourseError(
            f"{name} {value!r} is not known; {closest(value, known)}It may be {', '.join(known)}."
        )


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
