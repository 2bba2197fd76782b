"""What the operating system and the GPU driver say about memory, in bytes, and how peaks are kept apart.

A figure that cannot be had is `None`, never 0. Nothing here loads torch: while the caller has not imported
it, this process holds no GPU memory.

The kernel and CUDA each keep one high-water mark per process. Two measured blocks that overlap would reset it
for each other, so every reading goes through one `PeakTracker`, which adds the mark to every open scope and
then resets it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

SAMPLING_PERIOD_S = 0.005


@dataclass(frozen=True)
class GpuReading:
    """Memory of one CUDA device, in bytes; `index` is the one that torch uses."""

    index: int
    allocated: int
    reserved: int
    peak_allocated: int
    peak_reserved: int
    device_used: int | None
    device_total: int | None


@dataclass(frozen=True)
class Reading:
    """Memory of this process at one moment, in bytes."""

    rss: int
    gpus: tuple[GpuReading, ...]


@dataclass
class Peaks:
    """The highest figures seen over a stretch of time, in bytes."""

    rss: int = 0
    exact: bool = True
    gpus: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add_rss(self, rss: int, exact: bool) -> None:
        """Raise the CPU peak; `exact` says that the kernel recorded `rss`, not that a sample met it."""
        if rss > self.rss:
            self.rss, self.exact = rss, exact
        elif rss == self.rss:
            self.exact = self.exact or exact

    def add_gpu(self, index: int, allocated: int, reserved: int) -> None:
        """Raise the peaks of one device."""
        seen = self.gpus.get(index, (0, 0))
        self.gpus[index] = (max(seen[0], allocated), max(seen[1], reserved))


@dataclass(eq=False)
class Scope:
    """A measured block: its peaks since it opened (`total`) and since its last row (`window`)."""

    total: Peaks = field(default_factory=Peaks)
    window: Peaks = field(default_factory=Peaks)

    def take_window(self) -> Peaks:
        """Return the peaks since the previous call and start a new window."""
        window, self.window = self.window, Peaks()
        return window


def resident_and_high_water() -> tuple[int, int | None]:
    """Return the resident memory of this process and, where the kernel records it, its high-water mark."""
    if sys.platform != "linux":
        return _process(os.getpid()).memory_info().rss, None
    # One read of one file: the two figures belong to the same moment.
    status = Path("/proc/self/status").read_bytes()
    rss, mark = _status_bytes(status, b"VmRSS:"), _status_bytes(status, b"VmHWM:")
    return _process(os.getpid()).memory_info().rss if rss is None else rss, mark


def _status_bytes(status: bytes, key: bytes) -> int | None:
    _, found, rest = status.partition(key)
    return int(rest.split(None, 1)[0]) * 1024 if found else None


@lru_cache(maxsize=1)
def _process(pid: int) -> psutil.Process:
    return psutil.Process(pid)


def reset_high_water() -> bool:
    """Set the kernel's high-water mark to the present resident memory; False where that is not possible."""
    try:
        with open("/proc/self/clear_refs", "wb") as file:
            file.write(b"5")
    except OSError:  # macOS and Windows have no such file, some containers refuse the write
        return False
    return True


def lifetime_peak() -> int:
    """Return the peak resident memory of this process since it started, in bytes."""
    if sys.platform == "win32":
        return _process(os.getpid()).memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def torch_cuda() -> ModuleType | None:
    """Return `torch.cuda` if the caller has imported torch and a CUDA device is there."""
    if "torch" not in sys.modules:
        return None
    import torch  # waits where another thread is in the middle of importing it

    return torch.cuda if torch.cuda.is_available() else None


@lru_cache(maxsize=1)
def nvml() -> ModuleType | None:
    """Return the initialised NVML binding, or None where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def read_gpus(cuda: Any, nvml: Any) -> tuple[GpuReading, ...]:
    """Read the current CUDA device and every other one on which this process holds memory.

    Args:
        cuda: `torch.cuda`, or None.
        nvml: the NVML binding, or None.

    Returns:
        One reading per device; none without CUDA. `device_used` counts every process, as nvidia-smi does; it
        is None where the driver does not tell (no NVML, a MIG slice, a device with unified memory).
    """
    if cuda is None:
        return ()
    if not cuda.is_initialized():  # asking for more would create a CUDA context, some 500 MB of GPU memory
        return (GpuReading(0, 0, 0, 0, 0, None, None),)
    readings = []
    current = cuda.current_device()
    for index in range(cuda.device_count()):
        stats = cuda.memory_stats(index)
        figures = [
            int(stats.get(f"{kind}_bytes.all.{moment}", 0))
            for moment in ("current", "peak")
            for kind in ("allocated", "reserved")
        ]
        if index == current or any(figures):
            readings.append(GpuReading(index, *figures, *_device_memory(cuda, nvml, index)))
    return tuple(readings)


def _device_memory(cuda: Any, nvml: Any, index: int) -> tuple[int | None, int | None]:
    if nvml is None:
        return None, None
    # By UUID: CUDA_VISIBLE_DEVICES renumbers the devices for CUDA but not for NVML.
    uuid = f"GPU-{cuda.get_device_properties(index).uuid}"
    try:
        # Version 2 leaves the driver's reserve out of `used`, as nvidia-smi does.
        memory = nvml.nvmlDeviceGetMemoryInfo(
            nvml.nvmlDeviceGetHandleByUUID(uuid), version=nvml.nvmlMemory_v2
        )
    except nvml.NVMLError:
        return None, None
    return int(memory.used), int(memory.total)


class PeakTracker:
    """Keeps the peaks of all open scopes; one serves the whole process.

    On Linux the kernel records the CPU peak and nothing runs between two readings. Elsewhere a thread samples
    the resident memory every 5 ms while a scope is open; when the peak of the process's life grows in the
    meantime, that exact figure is used too.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._scopes: list[Scope] = []
        self._kernel: bool | None = None
        self._lifetime = 0
        self._stop: threading.Event | None = None

    def open(self) -> tuple[Scope, Reading]:
        """Open a scope and return it with the reading that it starts from."""
        with self.lock:
            reading = self.read()
            scope = Scope()
            for peaks in (scope.total, scope.window):
                peaks.add_rss(reading.rss, exact=bool(self._kernel))
                for gpu in reading.gpus:
                    peaks.add_gpu(gpu.index, gpu.allocated, gpu.reserved)
            self._scopes.append(scope)
            if not self._kernel and self._stop is None:
                self._stop = threading.Event()
                threading.Thread(
                    target=self._sample, args=(self._stop,), name="memory-samples", daemon=True
                ).start()
            return scope, reading

    def close(self, scope: Scope) -> Reading:
        """Close a scope, its peaks complete, and return the last reading."""
        with self.lock:
            reading = self.read()
            self._scopes.remove(scope)
            if not self._scopes and self._stop is not None:
                self._stop.set()
                self._stop = None
            return reading

    def read(self) -> Reading:
        """Read the memory, add the high-water marks to the peaks of every open scope and reset the marks."""
        with self.lock:
            cuda = torch_cuda()
            reading = Reading(self._read_cpu(), read_gpus(cuda, nvml() if cuda else None))
            for gpu in reading.gpus:
                for peaks in self._open_peaks():
                    peaks.add_gpu(gpu.index, gpu.peak_allocated, gpu.peak_reserved)
                if cuda.is_initialized():
                    cuda.reset_peak_memory_stats(gpu.index)
            return reading

    def _read_cpu(self) -> int:
        rss, mark = resident_and_high_water()
        if self._kernel is None:
            self._lifetime = lifetime_peak()
            self._kernel = mark is not None and reset_high_water()  # gVisor records no mark
        elif self._kernel:
            reset_high_water()
        if not self._kernel:
            # The mark of a whole life is this moment's peak only if it has grown since the last reading.
            life = lifetime_peak()
            mark = life if life > self._lifetime else None
            self._lifetime = life
        for peaks in self._open_peaks():
            peaks.add_rss(rss, exact=self._kernel)
            if mark is not None:
                peaks.add_rss(mark, exact=True)
        return rss

    def _open_peaks(self) -> Iterator[Peaks]:
        for scope in self._scopes:
            yield scope.total
            yield scope.window

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLING_PERIOD_S):
            rss, _ = resident_and_high_water()
            with self.lock:
                for peaks in self._open_peaks():
                    peaks.add_rss(rss, exact=False)


TRACKER = PeakTracker()
