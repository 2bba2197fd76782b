"""`MemoryMonitor`: how much CPU and GPU memory a block, a notebook cell or a training run takes, and when.

    with MemoryMonitor("sft") as memory:
        trainer = SFTTrainer(model, args=args, train_dataset=train, callbacks=[memory.callback()])
        trainer.train()
    memory.plot()

On leaving the block one line is printed:

    sft: CPU 412 -> 655 MB, peak 912 MB (limit 24.0 GB) · 31.2 s

`%load_ext posttrain_helpers.memory.monitor` adds the cell magic `%%memory [name]`. 1 MB is 2**20 bytes, as in
nvidia-smi. CPU figures are the resident memory of this process alone; the workers of a data loader or an
inference server have their own.
"""

from __future__ import annotations

import csv
import os
import re
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from posttrain_helpers.environment.limits import memory_limit
from posttrain_helpers.environment.paths import output_root
from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory import readings as memory_readings
from posttrain_helpers.memory.plot import plot_memory
from posttrain_helpers.memory.readings import Peaks, Reading

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from transformers import TrainerCallback

MB = 2**20
OVERHEAD_SHARE = 0.01
COLUMNS = (
    "time",
    "seconds",
    "event",
    "step",
    "cpu_mb",
    "cpu_peak_mb",
    "gpu_allocated_mb",
    "gpu_reserved_mb",
    "gpu_peak_mb",
    "gpu_device_mb",
)

_files_being_written: set[Path] = set()


class MemoryMonitor:
    """Measure the memory and the time of a block, and of each training step inside it.

    Monitors may be nested: each keeps its own peaks. On Linux the CPU peak is the kernel's own and misses
    nothing.

    Args:
        name: what the report line and the report file are called.
        csv_path: where the rows go, each as soon as it is measured, so that a killed process leaves a report.
            None: `<output>/memory/<name>.csv`, written only if `callback()` is used. In a distributed run
            every process but the first adds its rank to the file name.

    Raises:
        CourseError: the file cannot be written.
    """

    def __init__(self, name: str = "block", *, csv_path: str | os.PathLike[str] | None = None) -> None:
        self.name = name
        self.csv_path: Path | None = None
        self._target = Path(csv_path) if csv_path is not None else None
        self._write_csv = csv_path is not None
        self._open = False
        self._started: float | None = None

    # The block

    def __enter__(self) -> Self:
        if self._open:
            raise CourseError(
                f"The memory monitor {self.name!r} is open already; "
                "make a second MemoryMonitor for a block inside this one."
            )
        self._rows: list[tuple[Any, ...]] = []
        self._file: TextIO | None = None
        self.csv_path = None
        self._next_row = 0.0
        self._limit, self._limit_source = memory_limit()
        self._scope, self._before = memory_readings.TRACKER.open()
        self._after: Reading | None = None
        self._started, self._seconds = time.perf_counter(), None
        self._open = True
        try:
            self._record("start")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        try:
            self._record("end")
        finally:
            self._close()
        stopped = f" · stopped by {error_type.__name__}" if error_type else ""
        print(self.report() + stopped)

    def _close(self) -> None:
        self._after = memory_readings.TRACKER.close(self._scope)
        self._open = False
        if self._file is not None:
            self._file.close()
            _files_being_written.discard(self.csv_path)

    # Rows

    def callback(self) -> TrainerCallback:
        """Return a callback for a TRL or transformers trainer that writes a row at every optimizer step.

        Where steps are so short that rows would take more than 1 % of the time, a row covers several steps
        and their common peak. Train inside the `with` block; the callback may be made before it.
        """
        from transformers import TrainerCallback

        monitor = self

        class MemoryCallback(TrainerCallback):
            """Write a row of the memory report when training begins, at every step and when it ends."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                monitor._record_training("train_begin", state.global_step)

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                monitor._record_training("step", state.global_step)

            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                monitor._record_training("train_end", state.global_step)

        return MemoryCallback()

    def _record_training(self, event: str, step: int) -> None:
        if not self._open:
            if event == "train_begin":
                warnings.warn(
                    f"The memory monitor {self.name!r} is not open, so this training run is not recorded; "
                    "call trainer.train() inside its `with` block.",
                    stacklevel=2,
                )
            return
        begun = time.perf_counter()
        if event == "step" and begun < self._next_row:
            return
        self._write_csv = True
        self._record(event, step)
        if event == "step":
            finished = time.perf_counter()
            self._next_row = finished + (finished - begun) / OVERHEAD_SHARE

    def _record(self, event: str, step: int | None = None) -> None:
        with memory_readings.TRACKER.lock:
            reading, window = memory_readings.TRACKER.read(), self._scope.take_window()
        gpus = reading.gpus
        row = (
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            round(time.perf_counter() - self._started, 4),
            event,
            step,
            _mb(reading.rss),
            _mb(window.rss),
            _mb(_total([gpu.allocated for gpu in gpus])),
            _mb(_total([gpu.reserved for gpu in gpus])),
            _mb(_total([window.gpus[gpu.index][0] for gpu in gpus])),
            _mb(_total([gpu.device_used for gpu in gpus])),
        )
        self._rows.append(row)
        if self._write_csv:
            self._write(row)

    def _write(self, row: tuple[Any, ...]) -> None:
        try:
            if self._file is None:
                self.csv_path = self._csv_target()
                if self.csv_path in _files_being_written:
                    raise CourseError(
                        f"An open memory monitor writes to {self.csv_path} already; "
                        f"give the monitor {self.name!r} another name or another csv_path."
                    )
                self.csv_path.parent.mkdir(parents=True, exist_ok=True)
                # Line buffering: every row reaches the operating system at once and outlives this process.
                self._file = open(self.csv_path, "w", encoding="utf-8", newline="", buffering=1)  # noqa: SIM115
                _files_being_written.add(self.csv_path)
                csv.writer(self._file, lineterminator="\n").writerows([COLUMNS, *self._rows])
            else:
                csv.writer(self._file, lineterminator="\n").writerow(row)
        except OSError as error:
            raise CourseError(
                f"The memory report {self.csv_path} cannot be written ({error.strerror}); "
                "make room, or give MemoryMonitor another csv_path."
            ) from error

    def _csv_target(self) -> Path:
        file_name = re.sub(r"[^\w.-]+", "_", self.name)
        path = self._target or output_root() / "memory" / f"{file_name}.csv"
        rank = os.environ.get("RANK", "0")
        return (path if rank == "0" else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")).absolute()

    # Results

    @property
    def seconds(self) -> float:
        """Seconds from the start of the block to its end, or to now."""
        self._require_started()
        return time.perf_counter() - self._started if self._seconds is None else self._seconds

    @property
    def peak_cpu_mb(self) -> float:
        """Peak resident memory of this process during the block, in MB."""
        return _mb(self._peaks().rss)

    @property
    def peak_gpu_mb(self) -> float | None:
        """Peak of the GPU memory that tensors took, in MB, summed over devices; None without a GPU."""
        peaks = self._peaks()
        return _mb(_total([peaks.gpus[gpu.index][0] for gpu in self._latest().gpus]))

    def summary(self) -> dict[str, Any]:
        """Return the figures of the block, memory in MB, as a dictionary that JSON can hold.

        Returns:
            `cpu_peak_exact` is False where the CPU peak was sampled and the truth may be higher. `gpus` has
            one entry per device: what tensors take (allocated), what torch holds for them (reserved) and what
            all processes together use (device). A figure that this machine cannot give is None.
        """
        latest, peaks = self._latest(), self._peaks()
        before = {gpu.index: gpu.allocated for gpu in self._before.gpus}
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "cpu_before_mb": _mb(self._before.rss),
            "cpu_after_mb": _mb(latest.rss),
            "cpu_delta_mb": _mb(latest.rss - self._before.rss),
            "cpu_peak_mb": _mb(peaks.rss),
            "cpu_peak_exact": peaks.exact,
            "cpu_limit_mb": _mb(self._limit),
            "cpu_limit_source": self._limit_source,
            "gpus": [
                {
                    "index": gpu.index,
                    # A device that was not in use before the block held nothing of this process.
                    "allocated_before_mb": _mb(before.get(gpu.index, 0)),
                    "allocated_after_mb": _mb(gpu.allocated),
                    "allocated_peak_mb": _mb(peaks.gpus[gpu.index][0]),
                    "reserved_after_mb": _mb(gpu.reserved),
                    "reserved_peak_mb": _mb(peaks.gpus[gpu.index][1]),
                    "device_after_mb": _mb(gpu.device_used),
                    "device_total_mb": _mb(gpu.device_total),
                }
                for gpu in latest.gpus
            ],
        }

    def report(self) -> str:
        """Return the line that is printed at the end of the block."""
        figures = self.summary()
        bound = "" if figures["cpu_peak_exact"] else "at least "
        parts = [
            f"{self.name}: CPU {figures['cpu_before_mb']:,.0f} -> {figures['cpu_after_mb']:,.0f} MB",
            f", peak {bound}{figures['cpu_peak_mb']:,.0f} MB (limit {figures['cpu_limit_mb'] / 1024:.1f} GB)",
        ]
        for gpu in figures["gpus"]:
            number = f" {gpu['index']}" if len(figures["gpus"]) > 1 else ""
            device = "unknown"
            if gpu["device_after_mb"] is not None:
                device = f"{gpu['device_after_mb']:,.0f} of {gpu['device_total_mb']:,.0f} MB"
            parts += [
                f" · GPU{number} allocated {gpu['allocated_before_mb']:,.0f} -> ",
                f"{gpu['allocated_after_mb']:,.0f} MB, peak {gpu['allocated_peak_mb']:,.0f} MB",
                f", reserved {gpu['reserved_peak_mb']:,.0f} MB, device {device}",
            ]
        return "".join([*parts, f" · {figures['seconds']:.1f} s"])

    def history(self) -> pandas.DataFrame:
        """Return the rows so far, columns as in the CSV file."""
        import pandas

        self._require_started()
        return pandas.DataFrame(self._rows, columns=list(COLUMNS))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw memory over the training steps, or over time if nothing was trained; see `plot_memory`."""
        return plot_memory(self.history(), ax=ax, title=f"Memory of {self.name}")

    def _require_started(self) -> None:
        if self._started is None:
            raise CourseError(
                f"The memory monitor {self.name!r} has measured nothing yet; "
                "put the code inside `with MemoryMonitor(...)`."
            )

    def _latest(self) -> Reading:
        self._require_started()
        return self._after if self._after is not None else memory_readings.TRACKER.read()

    def _peaks(self) -> Peaks:
        self._latest()  # while the block is open, this brings the peaks up to date
        return self._scope.total


def load_ipython_extension(ipython: Any) -> None:
    """Add the cell magic `%%memory [name]` to IPython or a notebook."""

    def memory(line: str, cell: str) -> None:
        with MemoryMonitor(line.strip() or "cell"):
            ipython.run_cell(cell, store_history=False).raise_error()

    ipython.register_magic_function(memory, "cell")


def _mb(size: int | None) -> float | None:
    return None if size is None else round(size / MB, 1)


def _total(sizes: list[int | None]) -> int | None:
    """Add sizes up; None if there are none or one is unknown."""
    return sum(sizes) if sizes and None not in sizes else None
