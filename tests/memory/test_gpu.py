"""GPU figures of `MemoryMonitor`, with stand-ins for `torch.cuda` and NVML: no GPU is needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pandas
import pytest

from posttrain_helpers.memory import readings as memory_readings
from posttrain_helpers.memory.monitor import MB, MemoryMonitor

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def private_output(output_root: Path) -> None:
    """No test writes to the repository's own output."""


class FakeCuda:
    """The functions of `torch.cuda` that are read, with one peak counter per device as the real one has."""

    def __init__(self, *allocated_mb: int, initialized: bool = True) -> None:
        self.now = [size * MB for size in allocated_mb]
        self.peak = list(self.now)
        self.initialized = initialized

    def take(self, device: int, megabytes: int) -> None:
        self.now[device] += megabytes * MB
        self.peak[device] = max(self.peak[device], self.now[device])

    def is_initialized(self) -> bool:
        return self.initialized

    def current_device(self) -> int:
        assert self.initialized, "would create a CUDA context"
        return 0

    def device_count(self) -> int:
        return len(self.now)

    def memory_stats(self, device: int) -> dict[str, int]:
        assert self.initialized, "would create a CUDA context"
        now, peak = self.now[device], self.peak[device]
        return {
            "allocated_bytes.all.current": now,
            "allocated_bytes.all.peak": peak,
            "reserved_bytes.all.current": 2 * now,
            "reserved_bytes.all.peak": 2 * peak,
        }

    def reset_peak_memory_stats(self, device: int) -> None:
        assert self.initialized, "would create a CUDA context"
        self.peak[device] = self.now[device]

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"uuid-{device}")


class FakeNvml:
    """An NVML that numbers its devices the other way round and refuses those in `silent`."""

    class NVMLError(Exception):
        pass

    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self, silent: tuple[int, ...] = ()) -> None:
        self.silent = silent

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return int(uuid.removeprefix("GPU-uuid-"))

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:
        if handle in self.silent:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(used=(handle + 1) * 1000 * MB, total=80_000 * MB)


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, nvml: FakeNvml | None = None) -> FakeCuda:
    monkeypatch.setattr(memory_readings, "torch_cuda", lambda: cuda)
    monkeypatch.setattr(memory_readings, "nvml", lambda: nvml)
    return cuda


def test_without_a_gpu_the_figures_are_missing_not_zero(tmp_path, capsys):
    with MemoryMonitor("cpu", csv_path=tmp_path / "cpu.csv") as memory:
        pass
    assert memory.peak_gpu_mb is None
    assert memory.summary()["gpus"] == []
    assert "GPU" not in capsys.readouterr().out
    rows = pandas.read_csv(tmp_path / "cpu.csv")
    assert rows[["gpu_allocated_mb", "gpu_peak_mb", "gpu_device_mb"]].isna().all(axis=None)


def test_gpu_figures_and_the_report_line(monkeypatch, capsys):
    cuda = install(monkeypatch, FakeCuda(10), FakeNvml())
    with MemoryMonitor("sft") as memory:
        cuda.take(0, 2000)
        cuda.take(0, -1500)
    assert memory.peak_gpu_mb == 2010
    assert memory.summary()["gpus"] == [
        {
            "index": 0,
            "allocated_before_mb": 10,
            "allocated_after_mb": 510,
            "allocated_peak_mb": 2010,
            "reserved_after_mb": 1020,
            "reserved_peak_mb": 4020,
            "device_after_mb": 1000,
            "device_total_mb": 80_000,
        }
    ]
    line = capsys.readouterr().out
    assert line.startswith("sft: CPU ")
    assert "GPU allocated 10 -> 510 MB, peak 2,010 MB, reserved 4,020 MB, device 1,000 of 80,000 MB" in line
    assert line.count("\n") == 1
    json.dumps(memory.summary(), allow_nan=False)


@pytest.mark.parametrize("nvml", [None, FakeNvml(silent=(0,))], ids=["no NVML", "NVML refuses"])
def test_what_the_driver_does_not_tell_is_missing_not_zero(monkeypatch, capsys, tmp_path, nvml):
    install(monkeypatch, FakeCuda(10), nvml)
    with MemoryMonitor("sft", csv_path=tmp_path / "sft.csv") as memory:
        pass
    gpu = memory.summary()["gpus"][0]
    assert gpu["device_after_mb"] is None
    assert gpu["device_total_mb"] is None
    assert gpu["allocated_after_mb"] == 10
    assert "device unknown" in capsys.readouterr().out
    assert pandas.read_csv(tmp_path / "sft.csv")["gpu_device_mb"].isna().all()


def test_nested_blocks_keep_their_own_gpu_peaks(monkeypatch):
    cuda = install(monkeypatch, FakeCuda(0))
    with MemoryMonitor("outer") as outer:
        cuda.take(0, 900)
        cuda.take(0, -900)
        with MemoryMonitor("inner") as inner:
            cuda.take(0, 100)
            cuda.take(0, -100)
    assert (outer.peak_gpu_mb, inner.peak_gpu_mb) == (900, 100)


def test_measuring_creates_no_cuda_context(monkeypatch):
    cuda = install(monkeypatch, FakeCuda(0, initialized=False), FakeNvml())
    with MemoryMonitor("load") as memory:
        assert memory.peak_gpu_mb == 0  # known: a process without a context holds nothing
        cuda.initialized = True
        cuda.take(0, 300)
    assert memory.peak_gpu_mb == 300


def test_devices_are_told_apart(monkeypatch, capsys):
    cuda = install(monkeypatch, FakeCuda(0, 0, 0), FakeNvml())
    with MemoryMonitor("all") as every:
        cuda.take(0, 100)
        cuda.take(1, 50)
    # The third device is visible but not in use.
    assert [gpu["index"] for gpu in every.summary()["gpus"]] == [0, 1]
    assert [gpu["device_after_mb"] for gpu in every.summary()["gpus"]] == [1000, 2000]
    assert every.peak_gpu_mb == 150
    assert [gpu["allocated_peak_mb"] for gpu in every.summary()["gpus"]] == [100, 50]
    assert "GPU 1 allocated 0 -> 50 MB" in capsys.readouterr().out


def test_the_figure_of_a_training_shows_its_steps(monkeypatch):
    cuda = install(monkeypatch, FakeCuda(100), FakeNvml())
    with MemoryMonitor("sft") as memory:
        callback, state = memory.callback(), SimpleNamespace(global_step=0)
        callback.on_train_begin(None, state, None)
        for state.global_step in (1, 2, 3):
            cuda.take(0, 10)
            monkeypatch.setattr(memory, "_next_row", 0.0)
            callback.on_step_end(None, state, None)
    _, ax = plt.subplots()
    assert memory.plot(ax) is ax
    plt.close("all")
    assert "sft" in ax.get_title()
    allocated = next(line for line in ax.get_lines() if line.get_label() == "GPU allocated")
    assert list(allocated.get_xdata()) == [0, 1, 2, 3]
    assert list(allocated.get_ydata()) == [100, 110, 120, 130]
