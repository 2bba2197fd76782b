"""What a model has to hold in memory, counted without its weights: parameters, kept activations, cache.

`plan_memory` adds these counts up. Parameters are counted on the model class itself, with empty weights
(device "meta"). Activations are counted the same way: PyTorch's fake tensors, which have shapes but no
memory, go through the model, and autograd says which of them it keeps for the backward pass. So a count holds
for every architecture that transformers can build, for adapters and under autocast, and needs no formula of
its own. (The formula for one classical layer is that of Korthikanti et al. 2022, "Reducing Activation
Recomputation in Large Transformer Models", equation 1.)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.weights import loading_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# Bytes of a parameter. QLoRA (Dettmers et al. 2023, section 3): 4 bits and, with double quantization, 0.127
# bits of constants.
QUANTIZED_BYTES = {"4bit": (4 + 0.127) / 8, "8bit": 1.0}


@dataclass(frozen=True)
class ModelCounts:
    """Counts of one model.

    Attributes:
        name: the model's class.
        parameters: of the model, adapters included.
        trained: those that train.
        linear: frozen parameters of linear layers, which quantization stores in 4 bits.
        vocabulary: entries of the output layer; 1 for a reward model's score head.
        hidden: width of the hidden states.
        intermediate: the widest output of a linear layer inside the stack of layers.
        layers: how many.
        embedding: parameters of the input embedding that train.
        head_trained: whether the output layer trains.
        tied: whether the output layer is the input embedding.
    """

    name: str
    parameters: int
    trained: int
    linear: int
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    embedding: int
    head_trained: bool
    tied: bool


@dataclass(frozen=True)
class Activations:
    """What autograd keeps of a forward pass through the layers, in bytes.

    Attributes:
        layer: of one layer.
        rest: of what is before and after the layers, and what all of them share, such as the mask.
        residual: the hidden state between two layers, all that checkpointing keeps of a layer.
        cache_token: what the key-value cache holds for one token of one row, all layers together.
    """

    layer: int
    rest: int
    residual: int
    cache_token: int


def read_config(model: PreTrainedConfig | Mapping[str, Any] | str | Path) -> PreTrainedConfig:
    """Return the config of a model: as it is, from a dictionary like config.json, or from a directory.

    Raises:
        CourseError: there is none, or transformers does not know its architecture.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if isinstance(model, PreTrainedConfig):
        return model
    try:
        if isinstance(model, Mapping):
            settings = dict(model)
            return AutoConfig.for_model(settings.pop("model_type"), **settings)
        directory = Path(model).expanduser()
        if not (directory / "config.json").is_file():
            raise CourseError(f"{directory} holds no config.json; give a model's directory or its config.")
        return AutoConfig.from_pretrained(directory)
    except CourseError:
        raise
    except loading_errors() as error:
        raise CourseError(
            f"the model config cannot be read ({_first_line(error)}); give the config.json of a model that "
            "this version of transformers knows."
        ) from error


def empty_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    lora: Mapping[str, Any] | None = None,
    head: str = "language",
    layers: int | None = None,
) -> PreTrainedModel:
    """Build a model whose weights have shapes and no memory.

    Args:
        config: of the model.
        dtype: of the weights.
        lora: arguments of `peft.LoraConfig`; the base is then frozen.
        head: "language" or "reward".
        layers: another number of layers than the config's.

    Raises:
        CourseError: transformers has no such model for this config, or peft refuses the adapter.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = deepcopy(config)
    if head == "reward":
        config.num_labels = 1
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # the config of a loaded model; `linear` counts what it would store
    if config._attn_implementation not in (None, "eager", "sdpa"):
        config._attn_implementation = "sdpa"  # kernels that need a GPU keep what this one keeps
    if layers is not None:
        types = getattr(config, "layer_types", None)
        config.num_hidden_layers = layers
        if types:
            config.layer_types = types[:layers]
    auto = AutoModelForSequenceClassification if head == "reward" else AutoModelForCausalLM
    try:
        with init_empty_weights(include_buffers=True):
            model = auto.from_config(config, dtype=dtype)
            model.tie_weights()
    except (ImportError, *loading_errors()) as error:
        raise CourseError(
            f"transformers has no {head} model for a {type(config).__name__} ({_first_line(error)}); give "
            "the config of a text model."
        ) from error
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    task = "SEQ_CLS" if head == "reward" else "CAUSAL_LM"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            adapted = get_peft_model(model, LoraConfig(**{"task_type": task, **lora}), low_cpu_mem_usage=True)
    except (TypeError, ValueError) as error:
        raise CourseError(
            f"the LoRA settings {dict(lora)} do not fit {type(model).__name__}: {error}"
        ) from error
    return adapted.get_base_model()


def count_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    lora: Mapping[str, Any] | None = None,
    head: str = "language",
) -> ModelCounts:
    """Count a model that is not loaded.

    Args:
        config: of the model.
        dtype: of the weights.
        lora: arguments of `peft.LoraConfig`; None trains every weight.
        head: "language" or "reward".
    """
    model = empty_model(config, dtype, lora, head)
    text = config.get_text_config()
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings() if head == "language" else None
    parameters = list(model.parameters())  # a tied weight comes once
    inside = [
        module
        for name, module in model.named_modules()
        if _is_linear(module) and module is not output and not name.endswith("score")
    ]
    frozen = [module.weight for module in inside if lora is not None and not module.weight.requires_grad]
    widths = [max(module.weight.shape) for module in inside] or [text.hidden_size]
    return ModelCounts(
        name=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        linear=sum(weight.numel() for weight in frozen),
        vocabulary=1 if output is None else output.weight.shape[0],
        hidden=text.hidden_size,
        intermediate=max(widths),
        layers=text.num_hidden_layers,
        embedding=embedding.numel() if embedding.requires_grad else 0,
        head_trained=output is not None and output.weight.requires_grad,
        tied=output is not None and output.weight is embedding,
    )


def count_activations(
    config: PreTrainedConfig,
    rows: int,
    length: int,
    dtype: torch.dtype,
    *,
    autocast: torch.dtype | None = None,
    lora: Mapping[str, Any] | None = None,
    head: str = "language",
) -> Activations:
    """Count what autograd keeps of a forward pass through the layers, without the output layer.

    Two passes, with one layer and with two, tell a layer from the rest. The casts of the weights that
    autocast makes are kept with the activations and counted here.

    Args:
        config: of the model.
        rows: of the batch.
        length: of its rows, in tokens, padding included.
        dtype: of the weights.
        autocast: the data type of autocast, None without it.
        lora: arguments of `peft.LoraConfig`; None trains every weight.
        head: "language" or "reward".

    Raises:
        CourseError: the model computes what its weights say, as a mixture of experts does.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # it logs a traceback for what is caught here
    try:
        logger.disabled = True
        one, residual, cache = _kept(empty_model(config, dtype, lora, head, 1), rows, length, autocast)
        two, _, _ = _kept(empty_model(config, dtype, lora, head, 2), rows, length, autocast)
    except CourseError:
        raise
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        # What a mixture of experts computes depends on its weights, and a few models want other inputs.
        raise CourseError(
            f"the activations of a {type(config).__name__} cannot be counted without weights "
            f"({_first_line(error)}); measure a step with MemoryMonitor instead."
        ) from error
    finally:
        logger.disabled = False
    layers = config.get_text_config().num_hidden_layers
    return Activations(
        layer=two - one,
        rest=2 * one - two,
        residual=residual,
        cache_token=layers * cache // (rows * length),
    )


def _kept(
    model: PreTrainedModel, rows: int, length: int, autocast: torch.dtype | None
) -> tuple[int, int, int]:
    """Return the bytes that autograd keeps of one pass, those of the last hidden state and of the cache."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # the object too: a freed address may come again
        return tensor

    body = model.base_model
    body.train()
    with FakeTensorMode(), ExitStack() as stack:
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
            for name, tensor in (*body.named_parameters(), *body.named_buffers())
        }
        weights = {tensor.untyped_storage()._cdata for tensor in state.values()}
        ids = torch.zeros(rows, length, dtype=torch.long)
        # As it comes out of a padded batch. A mask of two dimensions would be looked at, and has no values.
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        if autocast is not None:
            stack.enter_context(torch.autocast("cpu", autocast))
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = torch.func.functional_call(body, state, kwargs={**inputs, "use_cache": False})[0]
        kept_bytes = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
        with torch.no_grad():
            output = torch.func.functional_call(body, state, kwargs={**inputs, "use_cache": True})
        cached = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        cache_bytes = sum(tensor.numel() * tensor.element_size() for pair in cached for tensor in pair)
        return kept_bytes, hidden.numel() * hidden.element_size(), cache_bytes


def _is_linear(module: Any) -> bool:
    """Say whether a module is a linear layer; GPT-2 calls its own Conv1D."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
