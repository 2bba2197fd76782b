"""Let TRL's trainers skip untrained positions on a CPU, as they do on a GPU.

TRL's trainers do not build the logits of a whole batch: `trl.trainer.utils.add_fused_lm_head` projects hidden
states to the vocabulary in tiles. On a GPU it projects only the positions whose label is not -100. Elsewhere
it projects all of them, padding and questions included, because a varying number of rows would make compiled
devices (Neuron) recompile at every batch. A CPU in eager mode compiles nothing, so there the extra rows are
waste: on the tiny profile's conversations (58 % of the tokens untrained, 46 % of a random batch padding) the
projection, which the backward pass repeats, made a training step take 1.2 to 1.25 times as long.

The condition is one private function, `_use_triton`, that `add_fused_lm_head` asks at every forward pass;
nothing else in that module uses it. Loss, gradients and metrics stay the same to rounding, and no model is
changed: saving, copying and generating are untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
