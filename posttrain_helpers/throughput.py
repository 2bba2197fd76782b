"""How fast a run trains: tokens per second, and which share of the device's arithmetic they make up.

    speed = Throughput()
    trainer = make_trainer(recipe, model, tokenizer, rows, callbacks=[speed.callback()])
    train(trainer)
    print(speed.sentence(model.config, context_length=400))

Model FLOPs utilisation (MFU) counts the arithmetic that the model needs, not what was done: activations that
are computed a second time, and padding, count for nothing. It is comparable between machines and settings
(Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, TrainerCallback

# Dense bfloat16 tensor-core rates from the makers' data sheets, in FLOP/s (float16 where a card has no
# bfloat16). The first name that occurs in the device's own counts, so the longer names come first.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L4": 121e12,
    "T4": 65e12,
    "V100": 125e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Forms of a card, and parts of one, that are slower than its name says.
_SLOWER = {"Laptop", "Mobile", "MIG"}


@dataclass(frozen=True)
class Measurement:
    """The speed of a run, its first steps left out.

    Attributes:
        steps: optimizer steps that were measured.
        seconds: that they took.
        tokens: that the trainer counted in them, without padding; None where a trainer counts none.
    """

    steps: int
    seconds: float
    tokens: int | None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of prompts and replies, in every sequence that is trained on."""
        return None if self.tokens is None else self.tokens / self.seconds


class Throughput:
    """Measure the steps of a run between the first log after the warm-up and the last log.

    Set `args.logging_steps` to 1, or to few steps: what comes after the last log is not measured.

    Args:
        warmup_steps: optimizer steps that do not count: memory is reserved in them, and kernels are compiled.

    Raises:
        CourseError: fewer than one step.
    """

    def __init__(self, warmup_steps: int = 2) -> None:
        if warmup_steps < 1:
            raise CourseError(f"warmup_steps must be at least 1, but it is {warmup_steps}.")
        self.warmup_steps = warmup_steps
        self._points: list[tuple[int, float, int | None]] = []

    def callback(self) -> TrainerCallback:
        """Return a callback that notes the time and the tokens so far at every log of a run."""
        from transformers import TrainerCallback

        points, warmup_steps = self._points, self.warmup_steps

        class ThroughputCallback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                points.clear()

            def on_log(
                self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
            ) -> None:
                # The last entry of a run sums it up, and comes long after its last step.
                if state.global_step < warmup_steps or "train_runtime" in logs:
                    return
                tokens = logs.get("num_tokens")
                points.append((state.global_step, _now(), None if tokens is None else int(float(tokens))))

        return ThroughputCallback()

    @property
    def measurement(self) -> Measurement:
        """What was measured.

        Raises:
            CourseError: fewer than two logs after the warm-up.
        """
        if len(self._points) < 2:
            raise CourseError(
                f"the speed needs two logs after {self.warmup_steps} steps of warm-up, but there "
                f"{'is one' if self._points else 'is none'}; train more steps or set args.logging_steps=1."
            )
        (first, start, before), (last, end, after) = self._points[0], self._points[-1]
        tokens = None if before is None or after is None else after - before
        return Measurement(last - first, end - start, tokens)

    def sentence(
        self, config: PreTrainedConfig, context_length: float, device_name: str | None = None, **counted: Any
    ) -> str:
        """Return tokens per second and, where the device's peak is known, the utilisation.

        Args:
            config: of the model.
            context_length: see `training_flops_per_token`, which also takes what else is given.
            device_name: None asks the first GPU of this machine.
        """
        speed = self.measurement
        if speed.tokens_per_second is None:
            return f"{speed.seconds / speed.steps:.2f} s for a step; this trainer counts no tokens"
        text = f"{speed.tokens_per_second:,.0f} tokens/s"
        peak = peak_flops(device_name)
        if peak is None:
            return text
        needed = training_flops_per_token(config, context_length, **counted) * speed.tokens_per_second
        return f"{text}, {needed / peak:.0%} of the device's arithmetic (MFU)"


def training_flops_per_token(
    config: PreTrainedConfig,
    context_length: float,
    *,
    trained: bool = True,
    lora: dict[str, Any] | None = None,
    references: int = 0,
    head: str = "language",
) -> float:
    """Return how many floating-point operations a model needs for one token of training.

    A weight that a token is multiplied with costs 2 operations forward, 2 for the gradient of its input, and
    2 for its own gradient, which frozen weights do not need. Attention costs 4 for each layer, each dimension
    of all its heads and each token looked at, of which there are half the context on average, because a token
    sees only those before it; backward twice as many. The input embedding is looked up and costs nothing,
    unless it is the output layer as well.

    Args:
        config: of the model.
        context_length: tokens of a sequence; of packed rows, of a document in them.
        trained: False counts a forward pass only.
        lora: arguments of `peft.LoraConfig` where the model is frozen but for an adapter.
        references: models of the same size that only look at the same tokens, such as DPO's reference.
        head: "language" or "reward".

    Source: Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T operations; here with half the attention.
    """
    from posttrain_helpers.memory_estimate import measure_model
    from posttrain_helpers.stage_planning import empty_model

    size = measure_model(empty_model(config, head=head))
    adapter = measure_model(empty_model(config, head=head, lora=lora)).trained // 4 if lora else 0
    text = config.get_text_config()
    looked_up = 0 if text.tie_word_embeddings and head == "language" else text.vocab_size * text.hidden_size
    weights = size.parameters - looked_up + adapter
    heads = text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    attention = 4 * text.num_hidden_layers * width * context_length / 2
    forward = 2 * weights + attention
    if not trained:
        return forward
    own = adapter if lora else weights
    backward = 2 * weights + 2 * own + 2 * attention
    return forward * (1 + references) + backward


def peak_flops(device_name: str | None = None) -> float | None:
    """Return the highest rate of a GPU's dense bfloat16 arithmetic in FLOP/s, None where it is not known.

    Args:
        device_name: as torch and the maker write it; None asks the first GPU of this machine.
    """
    if device_name is None:
        import torch

        if not torch.cuda.is_available():
            return None
        device_name = torch.cuda.get_device_name()
    words = set(device_name.replace("-", " ").split())
    if words & _SLOWER:
        return None
    return next((flops for name, flops in PEAK_FLOPS.items() if set(name.split()) <= words), None)


def _now() -> float:
    """Return the time when all that was asked of the GPU is done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
