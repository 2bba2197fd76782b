"""Load a model by its name: ready-made, a stage that is built if it is missing, a directory, or a Hub id.

model, tokenizer = load_model_and_tokenizer("base")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.profiles import Profile, get_profile
from posttrain_helpers.environment.runtime import current_runtime, display_path
from posttrain_helpers.models.loading import describe_model, load_repaired
from posttrain_helpers.stages.build import resolve_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model_and_tokenizer(
    name_or_path: str | Path,
    use_gpu: bool = True,
    *,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    lora: dict[str, Any] | None = None,
    merge: bool = False,
    quantization: str | None = None,
    head: str | None = None,
    profile: str | Profile | None = None,
    default_chat_template: bool = True,
    verbose: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode on its device, and its tokenizer.

    Args:
        name_or_path: "base" or another ready-made model of the profile ("instruct", "ready_made_sft"), the
            name of a stage (built if it is missing), a directory, a GGUF file, or a Hub id. A directory with
            a LoRA adapter loads the base model and the adapter.
        use_gpu: False keeps the model on the CPU. True uses the GPU that the profile wants, if there is one.
        dtype: of the weights; None takes the profile's.
        revision: commit, branch or tag of a Hub id; None takes the one that the profile pins for it, if any.
        lora: arguments of `peft.LoraConfig`; adds a fresh adapter to train. An adapter that the model has is
            merged into its weights before.
        merge: merge an adapter that the model has into its weights also without a fresh one, so that a plain
            model answers: quicker, and what some trainers take as a reference model.
        quantization: "4bit" or "8bit" loads the weights through bitsandbytes.
        head: "language" or "reward"; None takes what the directory holds. "reward" gives a language model a
            fresh score head in place of its language head, drawn from torch's random state; an adapter of it
            is merged before.
        profile: what "base" and stage names refer to; None takes the profile in use.
        default_chat_template: give a model that has no chat template plain ChatML; False refuses it.
        verbose: print one line about the model and one for each repair.

    Returns:
        Model and tokenizer.

    Raises:
        CourseError: nothing there, unreachable, no model, pickled, corrupt, incomplete or not finite weights,
            too little GPU memory, or a reward model where a language model is asked for.
    """
    profile = get_profile(profile)
    place = resolve_model(str(name_or_path), profile)
    device = current_runtime(profile).device if use_gpu else "cpu"
    if verbose and use_gpu and device == "cpu" and profile.device == "cuda":
        print(f"no GPU was found, so {display_path(place)} is loaded on the CPU.")
    model, tokenizer, repairs = load_repaired(
        place,
        device,
        dtype=dtype,
        revision=revision,
        lora=lora,
        merge=merge,
        quantization=quantization,
        head=head,
        profile=profile,
        default_chat_template=default_chat_template,
    )
    if verbose:
        print(describe_model(model, display_path(name_or_path)))
        for repair in repairs:
            print(f"  repaired: {repair}")
    return model, tokenizer
