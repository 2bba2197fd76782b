"""Limits of control groups, and peaks where the kernel does not record them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy
import pytest

from posttrain_helpers import memory_readings
from posttrain_helpers.memory import MB, MemoryMonitor

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


def machine(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/job\n", {"sys/fs/cgroup/job/memory.max": "1048576\n"}),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "1048576\n"}),
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/b/memory.max": "1048576\n", "sys/fs/cgroup/a/memory.max": "2097152\n"},
        ),
        ("5:cpu:/x\n4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n"}),
        ("4:memory:/docker/abc\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}),
        ("4:memory:/x\n0::/\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1048576\n"}),
    ],
    ids=["v2", "v2 parent", "v2 smallest", "v1", "v1 in a container", "hybrid"],
)
def test_the_limit_of_a_control_group_is_found(tmp_path, membership, files):
    assert memory_readings.memory_limit(machine(tmp_path, membership, files)) == (1048576, "cgroup")


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/job\n", {"sys/fs/cgroup/job/memory.max": "max\n"}),
        ("4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n"}),
        ("1:cpu:/x\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}),
    ],
    ids=["v2 without", "v1 without", "no memory controller"],
)
def test_without_a_limit_the_machine_is_the_limit(tmp_path, membership, files):
    limit, source = memory_readings.memory_limit(machine(tmp_path, membership, files))
    assert source == "host"
    assert limit > 2**28


def test_a_machine_without_control_groups_is_its_own_limit(tmp_path):
    assert memory_readings.memory_limit(tmp_path)[1] == "host"
