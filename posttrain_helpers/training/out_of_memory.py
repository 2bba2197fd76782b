"""When memory runs out during training: free what the run held, and say with numbers what to change."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory.estimate import (
    FLOAT32_BYTES,
    NEEDS,
    MemoryEstimate,
    ModelSize,
    estimate_memory,
    measure_model,
)
from posttrain_helpers.wording import readable_size

if TYPE_CHECKING:
    from transformers import Trainer

_LORA_RANK = 16  # of the adapter that the advice proposes


def after_out_of_memory(trainer: Trainer, method: str | None, reason: str, on_gpu: bool = True) -> str:
    """Free what a training run that ran out of memory still holds, and say in a sentence what to change.

    Gradients, the optimizer with its state and torch's cache are dropped; the model stays.

    Args:
        trainer: the trainer that failed; no frame of the failed run may be alive any more (an exception that
            is being handled keeps its frames, and they keep the activations).
        method: its method, None if it is not known.
        reason: the message of the out-of-memory error.
        on_gpu: whether it is the memory of a GPU.
    """
    import torch

    getattr(trainer, "actor_critic", trainer.model).zero_grad(set_to_none=True)  # with PPO's critic
    if trainer.optimizer is not None:
        trainer.optimizer.state.clear()  # the moments of AdamW, whoever still holds the optimizer
    trainer.optimizer = trainer.lr_scheduler = None  # the next training makes its own
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    size = trainer.args.per_device_train_batch_size
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", reason)
    capacity = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", reason)
    numbers = [f"{asked[1]} more were asked for"] if asked else []
    numbers += [f"{capacity[2]} of {capacity[1]} were free"] if capacity else []
    place = f"at per_device_train_batch_size={size}"
    text = f"the GPU is out of memory {place}" if on_gpu else f"memory ran out {place}"
    text += f" ({', '.join(numbers)})" if numbers else ""
    length = "max_completion_length" if hasattr(trainer.args, "max_completion_length") else "max_length"
    planned = ""
    advice = ["lower it and raise gradient_accumulation_steps"] if _can_halve(size, method) else []
    advice.append(f"set activation_checkpointing=true, or lower {length}")
    try:
        estimate = plan_trainer(trainer, method) if method else None
    except CourseError as error:
        planned = f" (there is no estimate: {str(error).rstrip('.')})"
    else:
        if estimate is not None:
            planned = (
                f"; by the estimate this run takes {readable_size(estimate.total)} ({estimate.largest()})"
            )
            advice = memory_advice(estimate)[:2] or advice
    return (
        f"{text}{planned}: {', or '.join(advice)}; gradients, optimizer and cache are freed, so a new "
        "trainer can start in this kernel."
    )


def plan_trainer(trainer: Trainer, method: str) -> MemoryEstimate:
    """Estimate the peak memory of a trainer of a method, as `make_trainer` returns it."""
    given = getattr(trainer, "given_reference", None)
    reference = None if given is None else measure_model(given).weights
    return estimate_memory(measure_model(trainer.model), method, vars(trainer.args), reference=reference)


def memory_advice(estimate: MemoryEstimate) -> list[str]:
    """Return what to change to save memory and how much it saves, what changes the training least first.

    Each change is estimated by itself. Those that save less than 2 % are left out.
    """
    advice = []
    for text, size, changes in _changes(estimate):
        arguments = {**estimate.arguments, **changes}
        changed = estimate_memory(size, estimate.method, arguments, reference=estimate.reference)
        saved = estimate.total - changed.total
        if saved > 0.02 * estimate.total:
            advice.append(f"{text} (saves about {readable_size(saved)})")
    return advice


def _changes(estimate: MemoryEstimate) -> Iterator[tuple[str, ModelSize, dict[str, Any]]]:
    """Yield what could be changed: in words, the model's size then, and trainer arguments."""
    size, arguments = estimate.size, estimate.arguments

    def arguments_set(note: str = "", **changes: Any) -> tuple[str, ModelSize, dict[str, Any]]:
        words = " ".join(f"args.{name}={str(value).lower()}" for name, value in changes.items())
        return f"set {words}{note}", size, changes

    if not arguments["activation_checkpointing"]:
        yield arguments_set(activation_checkpointing=True)
    batch = arguments["per_device_train_batch_size"]
    if _can_halve(batch, estimate.method):
        steps = arguments["gradient_accumulation_steps"] * (batch // (batch // 2))
        yield arguments_set(per_device_train_batch_size=batch // 2, gradient_accumulation_steps=steps)
    if not size.adapter:
        parameters = _LORA_RANK * size.linear_ends
        adapter = parameters * FLOAT32_BYTES
        text = f"train an adapter: lora.r={_LORA_RANK} lora.target_modules=all-linear"
        yield text, replace(size, weights=size.weights + adapter, trained=adapter, adapter=True), {}
        if not arguments["use_cpu"]:
            yield arguments_set(" (needs bitsandbytes)", optim="adamw_bnb_8bit")
    elif not arguments["use_cpu"] and size.weights >= size.parameters * size.width:
        yield "store the base in 4 bits: quantization=4bit", size.quantized("4bit"), {}
    name = "max_completion_length" if NEEDS[estimate.method].samples else "max_length"
    half = min(arguments[name], estimate.length) // 2
    if half >= 64:
        yield arguments_set(**{name: half})


def _can_halve(batch: int, method: str | None) -> bool:
    """Say whether half of a batch still trains: KTO compares the rows of one, so it needs two."""
    return batch // 2 >= (2 if method == "kto" else 1)
