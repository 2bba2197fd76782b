from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain_helpers.environment import speed


def test_the_rate_is_that_of_the_products_that_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.25, 0.5, 0.5])  # start, then before each product that counts, then the end
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    made = []
    monkeypatch.setattr(torch, "mm", lambda *_: made.append(1))
    rate = speed.matmul_gflops("cpu", seconds=0.5)
    assert len(made) == 4  # one of them for warming up
    assert rate == pytest.approx(3 * 2 * speed.SIZE**3 / 0.5 / 1e9)


def test_a_real_product_has_a_rate() -> None:
    assert speed.matmul_gflops("cpu", seconds=0.0) > 0


def test_no_random_numbers_are_drawn() -> None:
    before = torch.get_rng_state()
    speed.matmul_gflops("cpu", seconds=0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("description", "fast"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512_fp16 bf16\n", False),
        (None, False),  # no such file, as on macOS and Windows
    ],
)
def test_the_flags_of_the_cpu_say_whether_it_multiplies_bfloat16_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: str | None, fast: bool
) -> None:
    path = tmp_path / "cpuinfo"
    if description is not None:
        path.write_text(description)
    monkeypatch.setattr(speed, "_CPU_DESCRIPTION", path)
    assert speed.multiplies_bfloat16_fast("cpu") is fast
