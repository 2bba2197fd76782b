"""How fast this machine multiplies matrices: the yardstick beside every time that a lesson reports.

Two "cores" may be two threads of one core, and a busy machine is a slow one; seconds of two runs can be
compared only together with this rate.
"""

from __future__ import annotations

import time

SIZE = 1024  # rows and columns; large enough to be bound by arithmetic, small enough for a cache
SECONDS = 0.1


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
