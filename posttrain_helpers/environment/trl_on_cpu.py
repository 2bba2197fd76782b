"""What makes TRL's trainers quick on a CPU: no untrained positions, and attention in plain products.

Untrained positions

TRL's trainers do not build the logits of a whole batch: `trl.trainer.utils.add_fused_lm_head` projects hidden
states to the vocabulary in tiles. On a GPU it projects only the positions whose label is not -100. Elsewhere
it projects all of them, padding and questions included, because a varying number of rows would make compiled
devices (Neuron) recompile at every batch. A CPU in eager mode compiles nothing, so there the extra rows are
waste: on the tiny profile's conversations (58 % of the tokens untrained, 46 % of a random batch padding) the
projection, which the backward pass repeats, made a training step take 1.2 to 1.25 times as long.

The condition is one private function, `_use_triton`, that `add_fused_lm_head` asks at every forward pass;
nothing else in that module uses it. Loss, gradients and metrics stay the same to rounding, and no model is
changed: saving, copying and generating are untouched.

Attention
The backward pass of torch's fused attention is slow in bfloat16 on a CPU: for 8 rows of 48 tokens and the 9
heads of SmolLM2 forward and backward took 12 ms, and 3.4 ms as two products with a softmax between them; a
whole training step with an adapter took 1.87 s and 1.50 s (one thread). The products keep a matrix of all
pairs of positions, so long texts stay with the fused kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHORT_TEXT = 256  # tokens


def skip_untrained_positions() -> bool:
    """Project only positions with a label in the TRL trainers of this process, whenever they run on a CPU.

    Call it at any time before training; calling it again does nothing. Other devices keep TRL's own choice.

    Returns:
        True if it holds now; False if this version of TRL has no such choice, which is then left as it is.
    """
    import trl.trainer.utils as trl_utils

    original = getattr(trl_utils, "_use_triton", None)
    if original is None or not hasattr(trl_utils, "add_fused_lm_head"):
        return False
    if hasattr(original, "without_cpu"):
        return True

    def compact_on_cpu(device: torch.device) -> bool:
        return device.type == "cpu" or original(device)

    compact_on_cpu.without_cpu = original
    trl_utils._use_triton = compact_on_cpu
    return True


def attend_in_products() -> None:
    """Let models that this process trains on short texts in bfloat16 on a CPU go without fused attention.

    Call it before a trainer is built; calling it again does nothing. The attention of a model stays changed
    after its training; what it computes is the same to rounding.
    """
    from transformers import PreTrainedModel, TrainerCallback, trainer

    if any(callback.__name__ == "AttentionInProducts" for callback in trainer.DEFAULT_CALLBACKS):
        return

    class AttentionInProducts(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            lengths = (getattr(args, name, None) for name in ("max_length", "max_completion_length"))
            longest = max(filter(None, lengths), default=None)
            if not (args.use_cpu and args.bf16) or longest is None or longest > SHORT_TEXT:
                return
            for part in kwargs["model"].modules():  # the model inside an adapter, or beside a critic
                if isinstance(part, PreTrainedModel):
                    part.set_attn_implementation("eager")

    trainer.DEFAULT_CALLBACKS.append(AttentionInProducts)
