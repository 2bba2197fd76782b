"""How fast this machine multiplies matrices, and in which precision.

Two "cores" may be two threads of one core, and a busy machine is a slow one; seconds of two runs can be
compared only together with the rate: the yardstick beside every time that a lesson reports.
"""

from __future__ import annotations

import time
from pathlib import Path

SIZE = 1024  # rows and columns; large enough to be bound by arithmetic, small enough for a cache
SECONDS = 0.1
# Instructions that multiply bfloat16; a CPU without them takes longer over it than over float32.
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
_CPU_DESCRIPTION = Path("/proc/cpuinfo")


def matmul_gflops(device: str, seconds: float = SECONDS) -> float:
    """Measure the rate of float32 matrix products, with torch's present number of threads.

    Args:
        device: "cpu" or "cuda".
        seconds: how long to measure; one product is made beforehand and not counted.

    Returns:
        Billions of floating-point operations a second; a product of n x n matrices takes 2 n^3.
    """
    import torch

    matrix = torch.full((SIZE, SIZE), 1 / SIZE, device=device)

    def multiply() -> None:
        torch.mm(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()

    multiply()
    products, elapsed, started = 0, 0.0, time.perf_counter()
    while products == 0 or elapsed < seconds:
        multiply()
        products, elapsed = products + 1, time.perf_counter() - started
    return products * 2 * SIZE**3 / elapsed / 1e9


def multiplies_bfloat16_fast(device: str) -> bool:
    """Say whether products of bfloat16 matrices are faster than those of float32 ones.

    Args:
        device: "cpu" or "cuda".

    Returns:
        What the GPU's generation or the CPU's flags say; False for a CPU that does not list its flags in the
        way of Linux.
    """
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not _CPU_DESCRIPTION.is_file():
        return False
    flags = _CPU_DESCRIPTION.read_text(encoding="utf-8").split()
    return any(flag in flags for flag in _BFLOAT16_FLAGS)
