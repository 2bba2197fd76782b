"""What a training that takes minutes says meanwhile: step, loss, tokens per second, memory and time left.

A terminal and a notebook show one line that is kept up to date; a file or a pipe gets a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.progress_bars import is_live
from posttrain_helpers.wording import duration, readable_size

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_callback import TrainerState

SECONDS_LIVE = 1.0
SECONDS_IN_A_FILE = 10.0
# What tells most about a training, the best first; the loss of GRPO is near 0 whatever happens.
MEASURES = {"reward": "reward", "objective/scores": "reward", "loss": "loss"}


class Progress:
    """The lines about one training; a short one has only the line that it begins with.

    Args:
        head: how that line begins; `done` ends it.
        own_line: whether other lines come between, so that the head stands alone.
    """

    def __init__(self, head: str, own_line: bool = False) -> None:
        self._live = is_live(sys.stdout)
        self._interval = SECONDS_LIVE if self._live else SECONDS_IN_A_FILE
        self._head_is_open = not own_line
        self._shown = ""  # the line that is kept up to date
        print(head, end="\n" if own_line else " ", flush=True)

    def callback(self) -> TrainerCallback:
        """Return a callback that shows the progress of the trainer that gets it."""
        from transformers import TrainerCallback

        progress = self

        class ProgressLine(TrainerCallback):
            def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
                self.started = self.shown = time.monotonic()
                self.first_step = state.global_step

            def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
                now = time.monotonic()
                if not state.is_world_process_zero or now - self.shown < progress._interval:
                    return
                self.shown = now
                pace = (now - self.started) / (state.global_step - self.first_step)
                left = pace * (state.max_steps - state.global_step)
                speed = _speed(state, pace, self.first_step)
                progress._show(progress_text(state, left, [*speed, used_memory(args.device)]))

        return ProgressLine()

    def done(self, text: str) -> None:
        """Print how it ended."""
        if self._live and self._shown:
            text = "\r" + text.ljust(len(self._shown))
        print(text, flush=True)

    def _show(self, text: str) -> None:
        if self._head_is_open:
            print()
            self._head_is_open = False
        if self._live:
            print("\r" + text.ljust(len(self._shown)), end="", flush=True)
            self._shown = text
        else:
            print(text, flush=True)


def used_memory(device: torch.device) -> str:
    """Return the memory that this process uses: on a GPU its peak, else what it holds now."""
    import torch

    if device.type == "cuda":
        return f"{readable_size(torch.cuda.max_memory_reserved(device))} of GPU memory"
    import psutil

    return readable_size(psutil.Process().memory_info().rss)


def _speed(state: TrainerState, pace: float, first_step: int) -> list[str]:
    """Return the tokens per second between the latest two logs, of trainers that count tokens."""
    # Not every trainer goes on counting where a training was interrupted: only logs since then are compared.
    counts = [] if first_step else [(0, 0)]
    counts += [
        (log["step"], log["num_tokens"])
        for log in state.log_history
        if "num_tokens" in log and log["step"] > first_step
    ]
    if len(counts) < 2 or pace <= 0:
        return []
    (before, first), (step, last) = counts[-2:]
    return [f"{(last - first) / (step - before) / pace:,.0f} tokens/s"] if step > before else []


def progress_text(state: TrainerState, seconds_left: float, more: Sequence[str] = ()) -> str:
    """Return step, latest loss or reward, and time left in words.

    Args:
        state: of the trainer; what it has not logged yet is left out.
        seconds_left: an estimate.
        more: what else to say.
    """
    parts = [f"  step {state.global_step:,} of {state.max_steps:,}"]
    for prefix, rows in (("", ""), ("eval_", "dev ")):
        for key, name in MEASURES.items():
            values = [log[prefix + key] for log in state.log_history if log.get(prefix + key) is not None]
            if values:
                parts.append(f"{rows}{name} {values[-1]:.3f}")
                break
    return ", ".join([*parts, *more, f"about {duration(seconds_left)} left"])
