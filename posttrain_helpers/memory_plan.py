"""The arithmetic of a memory plan: what a training run holds at each moment of a step.

`memory_planner` checks what is asked for and makes the plans; its text says what is added up and by whom the
formulae are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from posttrain_helpers.memory_counts import (
    QUANTIZED_BYTES,
    Activations,
    ModelCounts,
    count_activations,
    count_model,
)

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedConfig

ITEMS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "reference",
    "reward models",
    "generation cache",
    "overhead",
)
TRAINING = ("full", "lora", *QUANTIZED_BYTES)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of optimizer state for a byte of a trained parameter.
OPTIMIZERS = {"adamw": 2.0, "adamw_8bit": 0.5, "adafactor": 0.0, "sgd": 0.0}
# Of one tile of the fused output layer, which is `trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE` tokens and
# `trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE` words.
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
# Triton works in place; without it `_backward_tile` holds eight float32 tiles and a boolean one at a time.
_TILES = {"cuda": 1.0, "cpu": 8.25}
# Where all logits exist: they, their log-probabilities, and the gradients of both.
_WHOLE_LOGITS = 4
# While a token is drawn: logits, log-probabilities, probabilities and their running sum.
_SAMPLING_LOGITS = 4
# While the backward pass is in an MLP: gradients as wide as its widest layer.
_WIDE_GRADIENTS = 3
# Blocks of torch and the C library that are free and not given back, as a share, and what a run needs besides
# tensors: on a GPU a CUDA context, on a CPU the trainer and its data. Measured (see the benchmark).
_FRAGMENTATION = {"cuda": 0.03, "cpu": 0.03}
_FIXED = {"cuda": 500 * 2**20, "cpu": 50 * 2**20}


@dataclass(frozen=True)
class MethodNeeds:
    """What a method keeps in memory.

    Attributes:
        rows: sequences in a batch for each row of `per_device_train_batch_size`.
        reference: "always", "if asked" (a KL penalty) or "never".
        fused: whether logits are made in tiles.
        samples: whether it samples its own replies.
        head: of the trained model.
    """

    rows: int = 1
    reference: str = "never"
    fused: bool = True
    samples: bool = False
    head: str = "language"


NEEDS = {
    "sft": MethodNeeds(),
    "reward": MethodNeeds(rows=2, head="reward"),
    "dpo": MethodNeeds(rows=2, reference="always"),
    "kto": MethodNeeds(reference="always"),
    "orpo": MethodNeeds(rows=2, fused=False),
    "cpo": MethodNeeds(rows=2, fused=False),
    "grpo": MethodNeeds(reference="if asked", samples=True),
    "rloo": MethodNeeds(reference="if asked", samples=True),
    "ppo": MethodNeeds(reference="always", fused=False, samples=True),
}


@dataclass(frozen=True)
class Request:
    """What a plan is asked for: the arguments of `plan_memory`, complete and checked."""

    method: str
    batch_size: int
    sequence_length: int
    completion_length: int
    gradient_accumulation_steps: int
    dtype: str
    autocast: str | None
    training: str
    lora: dict[str, Any] | None
    activation_checkpointing: bool
    optimizer: str
    reference: bool
    sampled_rows: int
    reward_models: int
    device: str

    @property
    def rows(self) -> int:
        """Sequences that go through the model at once."""
        return self.batch_size * NEEDS[self.method].rows


@dataclass(frozen=True)
class MemoryPlan:
    """An estimate of the peak of a training run.

    Attributes:
        request: what was asked for.
        counts: of the model.
        moments: for each moment of a step, bytes of each item of `ITEMS`.
        limit: bytes that the run may take, None if unknown.
        limit_source: where the limit comes from.
        config: of the model, for plans with other settings.
    """

    request: Request
    counts: ModelCounts
    moments: dict[str, dict[str, int]]
    limit: int | None
    limit_source: str
    config: PreTrainedConfig

    @property
    def peak(self) -> str:
        """The moment at which most memory is held."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.moments[self.peak].values())

    @property
    def fits(self) -> bool | None:
        """Whether the estimate is within the limit; None if there is no limit."""
        return None if self.limit is None else self.total <= self.limit

    def __getitem__(self, item: str) -> int:
        """Return the bytes of one of `ITEMS` at the peak."""
        return self.moments[self.peak][item]

    def largest(self, count: int = 3) -> list[tuple[str, int]]:
        """Return the largest items at the peak, largest first."""
        items = sorted(self.moments[self.peak].items(), key=lambda pair: -pair[1])
        return [pair for pair in items if pair[1]][:count]

    def table(self) -> pandas.DataFrame:
        """Return a table in MB (2**20 bytes): a row for each item, a column for each moment."""
        import pandas

        used = [item for item in ITEMS if any(items[item] for items in self.moments.values())]
        frame = pandas.DataFrame(
            {moment: [items[item] / 2**20 for item in used] for moment, items in self.moments.items()},
            index=used,
        )
        frame.loc["total"] = frame.sum()
        return frame.round(1)

    def sentence(self) -> str:
        """Return the estimate, its largest items and the limit in one sentence."""
        request = self.request
        items = ", ".join(f"{item} {readable(size)}" for item, size in self.largest())
        against = ""
        if self.limit is not None:
            verdict = "it fits" if self.fits else "it does not fit"
            against = f"; {verdict} into {readable(self.limit)} ({self.limit_source})"
        return (
            f"{request.method} ({request.training}) on {self.counts.parameters / 1e6:,.1f} M parameters, "
            f"{request.batch_size} x {request.sequence_length} tokens: about {readable(self.total)} at the "
            f"peak, in {self.peak} ({items}){against}."
        )

    def advice(self) -> list[Advice]:
        """Return changes that save memory, those that change least about the training first.

        Each is planned anew, so its number is what it saves by itself. Those that save less than 2 % are left
        out.
        """
        found = []
        for change, settings in _changes(self.request):
            saved = self.total - self.replace(**settings).total
            if saved > 0.02 * self.total:
                found.append(Advice(change, saved, settings))
        return found

    def replace(self, **settings: Any) -> MemoryPlan:
        """Return the plan with other settings, fields of `Request`."""
        request = replace(self.request, **settings)
        if request.training != "full":
            request = replace(request, reference=False)
        return make_plan(self.config, request, self.limit, self.limit_source)


@dataclass(frozen=True)
class Advice:
    """One change that saves memory.

    Attributes:
        change: what to set, in the words of a recipe.
        saved: bytes.
        settings: the same as fields of `Request`.
    """

    change: str
    saved: int
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.change} (saves about {readable(self.saved)})"


def make_plan(config: PreTrainedConfig, request: Request, limit: int | None, source: str) -> MemoryPlan:
    """Return the plan for a request that has been checked.

    Args:
        config: of the model.
        request: what is asked for.
        limit: bytes that the run may take, None if unknown.
        source: where the limit comes from.
    """
    import torch

    dtype = getattr(torch, request.dtype)
    head = NEEDS[request.method].head
    counts = count_model(config, dtype, request.lora, head)
    activations = count_activations(
        config,
        request.rows,
        request.sequence_length,
        dtype,
        autocast=getattr(torch, request.autocast) if request.autocast else None,
        lora=request.lora,
        head=head,
    )
    moments = _moments(request, counts, activations)
    for items in moments.values():
        items["overhead"] = _FIXED[request.device] + int(_FRAGMENTATION[request.device] * sum(items.values()))
    return MemoryPlan(request, counts, moments, limit, source, config)


def _moments(request: Request, counts: ModelCounts, kept: Activations) -> dict[str, dict[str, int]]:
    """Return what is held at each moment of a step, without overhead."""
    needs, width = NEEDS[request.method], BYTES[request.dtype]
    compute = BYTES[request.autocast or request.dtype]
    # peft keeps adapters in float32 whatever the base has.
    trained_width = width if request.training == "full" else BYTES["float32"]
    tokens = request.rows * request.sequence_length
    scored = request.rows * request.completion_length
    base = (counts.parameters - counts.trained if request.lora else counts.parameters) * width
    if request.training in QUANTIZED_BYTES:
        base -= int(counts.linear * (width - QUANTIZED_BYTES[request.training]))
    adapters = counts.trained * trained_width if request.lora else 0
    every_gradient = counts.trained * trained_width
    always = {
        "weights": base + adapters,
        "optimizer": int(every_gradient * OPTIMIZERS[request.optimizer]),
        "reference": counts.parameters * width if request.reference else 0,
        "reward models": request.reward_models * counts.parameters * width,
    }
    before = every_gradient if request.gradient_accumulation_steps > 1 else 0
    head_gradient = counts.vocabulary * counts.hidden * 4 if counts.head_trained else 0
    checkpointing = request.activation_checkpointing
    stack = kept.rest + counts.layers * (kept.residual if checkpointing else kept.layer)
    wide = _WIDE_GRADIENTS * tokens * counts.intermediate * compute
    moments: dict[str, dict[str, int]] = {}
    if needs.samples:
        rows = request.sampled_rows
        prompt = request.sequence_length - request.completion_length
        cache = rows * request.sequence_length * kept.cache_token
        moments["sampling"] = {
            # The cache grows by copying, one layer at a time.
            "generation cache": cache + cache // counts.layers,
            "logits": _SAMPLING_LOGITS * rows * counts.vocabulary * 4,
            "activations": _WIDE_GRADIENTS * rows * prompt * counts.intermediate * compute,
        }
    moments["the loss"] = {
        "gradients": before + head_gradient,
        "activations": stack,
        "logits": _logits(needs, request.device, scored, counts, compute),
    }
    moments["the backward pass"] = {
        "gradients": before + head_gradient,
        "activations": stack + wide + (kept.layer if checkpointing else 0),
    }
    # Two gradients of a tied embedding meet at the end: that of the output and that of the input.
    meeting = counts.embedding * trained_width if counts.tied and counts.head_trained else 0
    moments["the end of the backward pass"] = {"gradients": every_gradient + meeting}
    moments["the optimizer step"] = {"gradients": every_gradient}
    return {
        moment: {item: int({**always, **items}.get(item, 0)) for item in ITEMS}
        for moment, items in moments.items()
    }


def _logits(needs: MethodNeeds, device: str, tokens: int, counts: ModelCounts, compute: int) -> int:
    """Return what the output layer and the loss hold besides gradients of weights."""
    if needs.head == "reward":
        return 0
    if not needs.fused:
        return _WHOLE_LOGITS * tokens * counts.vocabulary * 4
    words = _TILE_WORDS if device == "cuda" else min(_TILE_WORDS, counts.vocabulary)
    tile = min(tokens, _TILE_TOKENS) * words * compute
    # The scored hidden states are copied, and their gradient is summed up in float32.
    return int(_TILES[device] * tile) + tokens * counts.hidden * (compute + 4)


def _changes(request: Request) -> list[tuple[str, dict[str, Any]]]:
    """Return what could be changed, the mildest changes first."""
    changes: list[tuple[str, dict[str, Any]]] = []
    if not request.activation_checkpointing:
        changes.append(("set args.activation_checkpointing=true", {"activation_checkpointing": True}))
    if request.batch_size > 1:
        half = request.batch_size // 2
        steps = request.gradient_accumulation_steps * (request.batch_size // half)
        text = f"set args.per_device_train_batch_size={half} args.gradient_accumulation_steps={steps}"
        changes.append((text, {"batch_size": half, "gradient_accumulation_steps": steps}))
    if request.training == "full":
        lora = {"r": 16, "target_modules": "all-linear"}
        text = "train an adapter: lora.r=16 lora.target_modules=all-linear"
        changes.append((text, {"training": "lora", "lora": lora}))
        if request.optimizer == "adamw" and request.device == "cuda":
            changes.append(
                ("set args.optim=adamw_bnb_8bit (needs bitsandbytes)", {"optimizer": "adamw_8bit"})
            )
    if request.training == "lora" and request.device == "cuda":
        changes.append(("store the base in 4 bits: quantization=4bit", {"training": "4bit"}))
    if request.sequence_length > 128:
        changes.append(_shorter(request))
    return changes


def _shorter(request: Request) -> tuple[str, dict[str, Any]]:
    if NEEDS[request.method].samples:
        half = max(request.completion_length // 2, 1)
        length = request.sequence_length - request.completion_length + half
        return (
            f"set args.max_completion_length={half}",
            {"sequence_length": length, "completion_length": half},
        )
    half = request.sequence_length // 2
    completion = min(request.completion_length, half)
    return f"set args.max_length={half}", {"sequence_length": half, "completion_length": completion}


def readable(size: float) -> str:
    """Return a number of bytes as a reader wants to see it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
