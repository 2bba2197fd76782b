"""When memory runs out during training: free what the run held, and say with numbers what to change."""

from __future__ import annotations

import gc
import re
from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory_plan import readable
from posttrain_helpers.memory_planner import plan_trainer

if TYPE_CHECKING:
    from transformers import Trainer


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

    trainer.model.zero_grad(set_to_none=True)
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
    text = (
        f"{'the GPU is out of memory' if on_gpu else 'memory ran out'} at per_device_train_batch_size={size}"
    )
    text += f" ({', '.join(numbers)})" if numbers else ""
    length = "max_completion_length" if hasattr(trainer.args, "max_completion_length") else "max_length"
    planned = ""
    advice = [
        "lower it and raise gradient_accumulation_steps",
        f"set activation_checkpointing=true, or lower {length}",
    ]
    try:
        plan = plan_trainer(trainer, method) if method else None
    except CourseError as error:
        planned = f" (there is no estimate: {str(error).rstrip('.')})"
    else:
        if plan is not None:
            items = ", ".join(f"{item} {readable(size)}" for item, size in plan.largest())
            planned = f"; by the estimate this run takes {readable(plan.total)} ({items})"
            advice = [str(item) for item in plan.advice()[:2]] or advice
    return (
        f"{text}{planned}: {', or '.join(advice)}; gradients, optimizer and cache are freed, so a new "
        "trainer can start in this kernel."
    )
