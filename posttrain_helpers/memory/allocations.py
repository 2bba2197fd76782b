"""How many bytes of tensors a piece of work holds at its peak: what the memory estimate counts, and no more.

`MemoryMonitor` measures the process, with its libraries and what the C library keeps; this counts tensors
alone, as PyTorch's profiler records them, and so gives the same number on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate


def peak_allocation(work: Callable[[], object]) -> int:
    """Return by how many bytes the tensors in memory grow at most while `work` runs."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0)
