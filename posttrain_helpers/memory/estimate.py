"""How much memory a training run takes at its peak: textbook arithmetic, nothing is run.

    estimate = estimate_memory(measure_model(model), "sft", vars(SFTConfig(...)))
    print(estimate.sentence())

The model may have empty weights (device "meta"). A step has moments that may each be the peak; at each the
estimate adds up what is held. For P parameters of which T train, of b bytes each:

- weights: P b; in 4 bits 0.516 bytes for each parameter of a linear layer (Dettmers et al. 2023, "QLoRA");
- gradients: T b; AdamW: 2 T b for its two moments (Rajbhandari et al. 2020, "ZeRO", section 3.1);
- activations: for each token and layer what its operations keep for the backward pass, counted in the way of
  Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models", section 4.1); with
  checkpointing one hidden state (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost");
- logits: the vocabulary for each token. Of a small model they are most of it. TRL makes them in tiles of 4096
  tokens and 32768 words (`trl.kernels.chunked_logprob`), ORPO, CPO and PPO all at once, and a KL term
  `KL_LOGITS` of each of two models at a time;
- generation cache: a key and a value for each token, layer and key-value head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.processes import process_count
from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import readable_size

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedConfig

FLOAT32_BYTES, HALF_BYTES = 4, 2
QUANTIZED_BYTES = {"4bit": (4 + 0.127) / 8, "8bit": 1.0}  # 0.127 bits: constants, quantized themselves
# Bytes of optimizer state for a byte of trained parameters.
OPTIMIZER_STATE = {
    "adamw_torch": 2.0,
    "adamw_torch_fused": 2.0,
    "adamw_bnb_8bit": 0.5,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "adafactor": 0.0,
    "sgd": 0.0,
}
PROMPT_LENGTH = 256  # assumed of methods that sample: TRL does not cut prompts, so no argument says it
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
# Triton works in place; without it the loss holds eight float32 tiles and a boolean one at a time.
_TILES = {"cuda": 1.0, "cpu": 8.25}
# All logits at once: they, their log-probabilities and the gradients of both; while a token is drawn, logits,
# log-probabilities, probabilities and their running sum.
_WHOLE_LOGITS = 4
# Of two models logits, log-probabilities and probabilities, and the gradients of the policy's.
KL_LOGITS, _KL_COPIES = 2**24, 8.25
# Memory that is free and not given back, as a share, and what a run needs besides tensors: on a GPU a CUDA
# context, on a CPU the trainer and its data.
_FRAGMENTATION = 0.03
_FIXED = {"cuda": 500 * 2**20, "cpu": 50 * 2**20}


@dataclass(frozen=True)
class MethodNeeds:
    """What a method keeps in memory."""

    rows: int = 1  # sequences in a batch for each row of `per_device_train_batch_size`
    reference: str = "never"  # or "always", or "if beta" (the weight of the KL divergence is not 0)
    teacher: bool = False  # a second model of its own, which an adapter does not save
    logits: str = "tiles"  # or "whole", or "none" (a reward model)
    kl: bool = False  # a KL divergence over the whole vocabulary is trained
    samples: bool = False  # it samples its own replies


NEEDS = {
    "sft": MethodNeeds(),
    "kl_sft": MethodNeeds(reference="always", kl=True),
    "reward": MethodNeeds(rows=2, logits="none"),
    "dpo": MethodNeeds(rows=2, reference="always"),
    "kto": MethodNeeds(reference="always"),
    "orpo": MethodNeeds(rows=2, logits="whole"),
    "cpo": MethodNeeds(rows=2, logits="whole"),
    "grpo": MethodNeeds(reference="if beta", samples=True),
    "rloo": MethodNeeds(reference="if beta", samples=True),
    "ppo": MethodNeeds(reference="always", logits="whole", samples=True),
    "distill_offline": MethodNeeds(teacher=True, logits="whole", kl=True),
    "distill_on_policy": MethodNeeds(teacher=True, samples=True),
}


@dataclass(frozen=True)
class ModelSize:
    """What the estimate has to know of a model."""

    parameters: int  # how many, adapters included
    weights: int  # their bytes
    trained: int  # bytes of those that train
    adapter: bool  # whether only an adapter trains
    width: int  # bytes of a parameter that is not quantized
    linear: int  # parameters of the model's own linear layers inside its stack of layers
    linear_ends: int  # inputs and outputs of these layers, the parameters of a LoRA adapter of rank 1
    head_norms: bool  # whether queries and keys are normalized in each head
    config: PreTrainedConfig

    def quantized(self, bits: str) -> ModelSize:
        """Return the size with the linear layers stored in "4bit" or "8bit"."""
        return replace(self, weights=self.weights - int(self.linear * (self.width - QUANTIZED_BYTES[bits])))


@dataclass(frozen=True)
class MemoryEstimate:
    """The peak of a training run, estimated."""

    size: ModelSize
    method: str
    arguments: Mapping[str, Any]  # of the trainer
    length: int  # tokens of the longest row
    reference: int | None  # bytes of a teacher, or of a reference model that is not the parent
    moments: dict[str, dict[str, int]]  # for each moment of a step the bytes of each item that is held

    @property
    def peak(self) -> str:
        """The moment at which most memory is held."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.moments[self.peak].values())

    def largest(self) -> str:
        """Return the three largest items at the peak in words."""
        items = sorted(self.moments[self.peak].items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {readable_size(size)}" for name, size in items[:3])

    def sentence(self) -> str:
        """Return the estimate, its largest items and whether there is so much here, in one sentence."""
        limit, source = free_memory(_device(self.arguments))
        against = ""
        if limit is not None:
            verdict = "it fits" if self.total <= limit else "it does not fit"
            against = f"; {verdict} into {readable_size(limit)} ({source})"
        return (
            f"{self.method} ({'adapter' if self.size.adapter else 'full'}) on "
            f"{self.size.parameters / 1e6:,.1f} M parameters, "
            f"{self.arguments['per_device_train_batch_size']} x {self.length} tokens: about "
            f"{readable_size(self.total)} at the peak, in {self.peak} ({self.largest()}){against}."
        )


def measure_model(model: Module) -> ModelSize:
    """Read off a model what the estimate has to know.

    Raises:
        CourseError: it is no transformer of dense layers.
    """
    config = model.config.get_text_config()
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if getattr(config, name, None) is None]
    if missing or getattr(config, "num_experts_per_tok", None):
        raise CourseError(
            f"the estimate knows dense transformers only, and a {type(model).__name__} is none; measure a "
            "step with MemoryMonitor instead."
        )
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # In the stack layers are numbered, "model.layers.0.mlp.up_proj"; GPT-2 calls its linear layers Conv1D. An
    # adapter wraps a layer in another that has the same weight: a set counts it once.
    linear = {
        module.weight
        for name, module in model.named_modules()
        if type(module).__name__.startswith(("Linear", "Conv1D"))
        and any(part.isdigit() for part in name.split("."))
        and "lora_" not in name
    }
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in parameters),
        weights=_bytes(parameters),
        trained=_bytes(trained),
        adapter=len(trained) < len(parameters),
        width=next(weight.element_size() for weight in parameters if weight.is_floating_point()),
        linear=sum(weight.numel() for weight in linear),
        linear_ends=sum(sum(weight.shape) for weight in linear),
        head_norms=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        config=config,
    )


def estimate_memory(
    size: ModelSize,
    method: str,
    arguments: Mapping[str, Any],
    reward_models: int = 0,
    reference: int | None = None,
) -> MemoryEstimate:
    """Estimate what a run holds at each moment of a step, and so its peak.

    Args:
        size: of the model.
        method: a key of `NEEDS`.
        arguments: the fields of the trainer's config.
        reward_models: how many models of the policy's size give rewards.
        reference: as in `MemoryEstimate`. It is held beside an adapter too, and with log-probabilities that
            are computed in advance.

    Raises:
        CourseError: there is no length, a number is below 1, or the optimizer is unknown.
    """
    needs, config = NEEDS[method], size.config
    length, completion = _lengths(method, arguments, config)
    batch, accumulation = arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]
    optimizer = str(getattr(arguments["optim"], "value", arguments["optim"]))
    if optimizer not in OPTIMIZER_STATE:
        raise CourseError(
            f"the estimate does not know what optim={optimizer!r} holds in memory; it knows "
            f"{', '.join(OPTIMIZER_STATE)}."
        )
    checkpointing = arguments["activation_checkpointing"]
    autocast = arguments["bf16"] or arguments["fp16"]
    compute = HALF_BYTES if autocast else size.width
    with_reference = {
        "always": not arguments.get("precompute_ref_log_probs"),
        "if beta": bool(arguments.get("beta")),
        "never": False,
    }[needs.reference]
    with_critic = bool(arguments.get("value_model"))
    tokens = batch * needs.rows * length
    layer = tokens * _kept_per_token(size, compute)
    hidden = tokens * config.hidden_size * size.width
    activations = hidden + config.num_hidden_layers * (hidden if checkpointing else layer)
    if autocast and not checkpointing:
        activations += size.linear * compute  # autocast's copies of the weights
    embedding = config.vocab_size * config.hidden_size * FLOAT32_BYTES
    head_trains = needs.logits != "none" and not size.adapter
    gradients = (embedding if head_trains else 0) + (size.trained if accumulation > 1 else 0)
    scored = batch * needs.rows * completion
    moments = {
        "the loss": {
            "gradients": gradients,
            "activations": activations,
            "logits": _logits(needs, config, scored, compute, _device(arguments)),
        },
        "the backward pass": {
            "gradients": gradients,
            "activations": activations + (layer if checkpointing else 0),
        },
        # The gradients of a tied embedding, as the output layer and as the input, are added at the end.
        "the update": {
            "gradients": size.trained + (embedding if head_trains and config.tie_word_embeddings else 0)
        },
    }
    if needs.samples:
        rows = _sampled_rows(method, arguments)
        cache = rows * length * 2 * _attention_widths(config)[1] * size.width
        moments["sampling"] = {
            "generation cache": (config.num_hidden_layers + 1) * cache,  # it grows by copies of one layer
            "logits": _WHOLE_LOGITS * rows * config.vocab_size * FLOAT32_BYTES,
            "activations": 3 * rows * (length - completion) * _mlp_width(config) * compute,
        }
    parents = size.weights if needs.teacher or (with_reference and not size.adapter) else 0
    always = {
        "weights": size.weights,
        "optimizer": int(size.trained * OPTIMIZER_STATE[optimizer]),
        # Without its adapter a model is its own reference.
        "reference": parents if reference is None else reference,
        "reward models": reward_models * size.parameters * size.width,
        # Weights, gradients and the optimizer's numbers of another model.
        "critic": int(size.parameters * size.width * (2 + OPTIMIZER_STATE[optimizer])) * with_critic,
    }
    for moment, items in moments.items():
        held = {**always, **items}
        share = int(_FRAGMENTATION * sum(held.values()))
        moments[moment] = {**held, "overhead": _FIXED[_device(arguments)] + share}
    return MemoryEstimate(size, method, arguments, length, reference, moments)


def _lengths(method: str, arguments: Mapping[str, Any], config: PreTrainedConfig) -> tuple[int, int]:
    """Return the tokens of the longest row, and those of them that the loss counts."""
    samples = NEEDS[method].samples
    completion = arguments["max_completion_length" if samples else "max_length"]
    if completion is None:
        raise CourseError("max_length is not set, so a row may have any length; set args.max_length.")
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    for name, number in [("the length", completion), *((name, arguments[name]) for name in names)]:
        if number is None or number < 1:
            raise CourseError(f"{name} must be a whole number of at least 1, but it is {number!r}.")
    length = completion + (PROMPT_LENGTH if samples else 0)
    length = min(length, getattr(config, "max_position_embeddings", None) or length)
    return length, min(completion, length)


def _kept_per_token(size: ModelSize, compute: int) -> int:
    """Return the bytes that a layer keeps of a token for the backward pass."""
    # Attention weights are computed anew in it (Dao et al. 2022, "FlashAttention").
    hidden, intermediate = size.config.hidden_size, _mlp_width(size.config)
    queries, keys = _attention_widths(size.config)
    normalized = 2 * hidden + (queries + keys if size.head_norms else 0)
    # A norm keeps its input and the normalized input, in float32 under autocast too.
    norms = 2 * normalized * FLOAT32_BYTES
    # Of attention its input, queries, keys and values of all heads, and output; of the MLP its input, gate,
    # activated gate, up, and the product of the two.
    return norms + (hidden + 4 * queries + hidden + 4 * intermediate) * compute


def _logits(needs: MethodNeeds, config: PreTrainedConfig, tokens: int, compute: int, device: str) -> int:
    """Return what the output layer and the loss hold besides gradients of weights."""
    if needs.logits == "none":
        return 0
    if needs.logits == "whole":
        return _WHOLE_LOGITS * tokens * config.vocab_size * FLOAT32_BYTES
    words = _TILE_WORDS if device == "cuda" else min(_TILE_WORDS, config.vocab_size)
    tiles = int(_TILES[device] * min(tokens, _TILE_TOKENS) * words * compute)
    if needs.kl:  # after the loss of TRL, and more than its tiles
        held = min(tokens * config.vocab_size, KL_LOGITS)
        tiles = max(tiles, int(_KL_COPIES * held * FLOAT32_BYTES))
    # The scored hidden states are copied, and their gradient is summed up in float32.
    return tiles + tokens * config.hidden_size * (compute + FLOAT32_BYTES)


def _sampled_rows(method: str, arguments: Mapping[str, Any]) -> int:
    """Return how many replies are sampled together."""
    batch, accumulation = arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]
    if method == "ppo":
        return min(batch * accumulation * arguments["num_mini_batches"], arguments["rollout_batch_size"])
    steps, of_all_processes = arguments.get("steps_per_generation"), arguments.get("generation_batch_size")
    if of_all_processes and not steps:
        return of_all_processes // process_count()
    return batch * (steps or accumulation)


def _attention_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the widths of queries and of keys, all heads together."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * width, (getattr(config, "num_key_value_heads", None) or heads) * width


def _mlp_width(config: PreTrainedConfig) -> int:
    """Return the width inside the MLP, whatever the architecture calls it."""
    widths = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next(filter(None, widths), 4 * config.hidden_size)


def _bytes(parameters: list[Any]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _device(arguments: Mapping[str, Any]) -> str:
    """Return "cpu" or "cuda", where a trainer with these arguments works."""
    return "cpu" if arguments["use_cpu"] else "cuda"


def free_memory(device: str) -> tuple[int | None, str]:
    """Return how much memory this process can still take on a device, in bytes, and how that is known."""
    import psutil

    from posttrain_helpers.environment.limits import memory_limit

    if device == "cpu":
        limit, source = memory_limit()
        left = max(limit - psutil.Process().memory_info().rss, 0)
        available = psutil.virtual_memory().available
        return min((left, f"what the {source} limit leaves"), (available, "what the machine has available"))
    import torch

    if not torch.cuda.is_available():
        return None, "no GPU here"
    free, _ = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + unused, "what the GPU has free"
