"""Limits of control groups, and peaks where the kernel does not record them."""

from __future__ import annotations

import threading
import time

import numpy
import pytest

from posttrain_helpers.memory import readings as memory_readings
from posttrain_helpers.memory.monitor import MB, MemoryMonitor

BLOCK_MB = 200
SLACK_MB = 40
AT_LEAST_MB = BLOCK_MB - 5


def take_and_free(megabytes: int, seconds: float) -> None:
    block = numpy.ones(megabytes * MB, dtype=numpy.uint8)
    time.sleep(seconds)
    del block


# Peaks by samples


@pytest.fixture
def no_kernel_peak(monkeypatch: pytest.MonkeyPatch) -> memory_readings.PeakTracker:
    """A machine whose kernel does not let its high-water mark be reset, as macOS or a locked container."""
    monkeypatch.setattr(memory_readings, "reset_high_water", lambda: False)
    tracker = memory_readings.PeakTracker()
    monkeypatch.setattr(memory_readings, "TRACKER", tracker)
    return tracker


def test_without_the_kernels_mark_samples_find_the_peak(no_kernel_peak, monkeypatch, capsys):
    # A life that had a higher peak before says nothing about this block.
    monkeypatch.setattr(memory_readings, "lifetime_peak", lambda: 2**40)
    with MemoryMonitor("sampled") as memory:
        take_and_free(BLOCK_MB, seconds=0.3)
    figures = memory.summary()
    assert AT_LEAST_MB <= figures["cpu_peak_mb"] - figures["cpu_before_mb"] <= BLOCK_MB + SLACK_MB
    assert figures["cpu_peak_exact"] is False
    assert "peak at least" in capsys.readouterr().out


def test_a_kernel_that_records_no_mark(no_kernel_peak, monkeypatch, capsys):
    # gVisor's /proc/self/status has a line for the resident memory and none for its high-water mark.
    monkeypatch.setattr(memory_readings, "reset_high_water", lambda: True)
    monkeypatch.setattr(memory_readings, "lifetime_peak", lambda: 2**40)
    status = memory_readings._status_bytes

    def without_mark(text: bytes, key: bytes) -> int | None:
        return status(b"".join(line for line in text.splitlines(True) if b"VmHWM" not in line), key)

    monkeypatch.setattr(memory_readings, "_status_bytes", without_mark)
    with MemoryMonitor("sampled") as memory:
        take_and_free(BLOCK_MB, seconds=0.3)
    figures = memory.summary()
    assert figures["cpu_peak_mb"] - figures["cpu_before_mb"] >= AT_LEAST_MB
    assert figures["cpu_peak_exact"] is False
    assert "peak at least" in capsys.readouterr().out


def test_without_the_kernels_mark_a_grown_lifetime_peak_is_exact(no_kernel_peak, monkeypatch):
    life = [2**40]
    monkeypatch.setattr(memory_readings, "lifetime_peak", lambda: life[0])
    with MemoryMonitor("outer") as outer:
        with MemoryMonitor("inner") as inner:
            life[0] = 2**40 + MB
        with MemoryMonitor("after") as after:
            pass
    for memory in (outer, inner):
        assert memory.peak_cpu_mb == (2**40 + MB) / MB
        assert memory.summary()["cpu_peak_exact"] is True
    assert after.peak_cpu_mb < 2**20


def test_the_sampling_thread_ends_with_the_last_block(no_kernel_peak):
    wait_for_samplers(0)  # those of the tests before
    with MemoryMonitor("outer"):
        with MemoryMonitor("inner"):
            wait_for_samplers(1)
        time.sleep(0.05)
        wait_for_samplers(1)
    wait_for_samplers(0)


def wait_for_samplers(expected: int) -> None:
    deadline = time.monotonic() + 5
    while (found := sum(thread.name == "memory-samples" for thread in threading.enumerate())) != expected:
        assert time.monotonic() < deadline, f"{found} sampling threads instead of {expected}"
        time.sleep(0.01)


# The limit of the memory
