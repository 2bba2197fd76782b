"""What `MemoryMonitor` promises: true peaks, honest gaps, a report that survives the process, little cost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pandas
import pytest

from posttrain_helpers.errors import CourseError
from posttrain_helpers.memory import readings as memory_readings
from posttrain_helpers.memory.monitor import COLUMNS, MB, MemoryMonitor, plot_memory

BLOCK_MB = 200
SLACK_MB = 40
# Python may give back a little of what it held when the block began, so the peak may rise by a little less.
AT_LEAST_MB = BLOCK_MB - 5


@pytest.fixture(autouse=True)
def private_output(output_root: Path) -> None:
    """No test writes to the repository's own output."""


def take_and_free(megabytes: int, seconds: float = 0.0) -> None:
    block = numpy.ones(megabytes * MB, dtype=numpy.uint8)  # `ones`, because untouched pages are not resident
    time.sleep(seconds)
    del block


# CPU peaks


def test_a_block_that_is_freed_before_the_end_is_in_the_peak():
    with MemoryMonitor("freed") as memory:
        take_and_free(BLOCK_MB)
    figures = memory.summary()
    assert AT_LEAST_MB <= memory.peak_cpu_mb - figures["cpu_before_mb"] <= BLOCK_MB + SLACK_MB
    assert figures["cpu_delta_mb"] < SLACK_MB
    assert memory.peak_cpu_mb == figures["cpu_peak_mb"]


def test_the_peak_before_a_block_is_not_its_own():
    take_and_free(BLOCK_MB)
    with MemoryMonitor("later") as memory:
        pass
    assert memory.peak_cpu_mb - memory.summary()["cpu_before_mb"] < SLACK_MB


def test_nested_blocks_keep_their_own_peaks():
    with MemoryMonitor("outer") as outer:
        before = outer.summary()["cpu_before_mb"]
        take_and_free(2 * BLOCK_MB)
        with MemoryMonitor("first") as first:
            take_and_free(BLOCK_MB)
        with MemoryMonitor("second") as second:
            pass
    assert outer.peak_cpu_mb - before >= 2 * AT_LEAST_MB
    assert AT_LEAST_MB <= first.peak_cpu_mb - before < 1.5 * BLOCK_MB
    assert second.peak_cpu_mb - before < BLOCK_MB


def test_the_peak_of_an_inner_block_is_part_of_the_outer_one():
    with MemoryMonitor("outer") as outer, MemoryMonitor("inner") as inner:
        take_and_free(BLOCK_MB)
    assert outer.peak_cpu_mb >= inner.peak_cpu_mb >= outer.summary()["cpu_before_mb"] + AT_LEAST_MB


def test_the_peak_can_be_read_while_the_block_is_open():
    with MemoryMonitor("open") as memory:
        take_and_free(BLOCK_MB)
        assert memory.peak_cpu_mb >= memory.summary()["cpu_before_mb"] + AT_LEAST_MB
        assert memory.seconds > 0
        first = memory.seconds
        assert memory.seconds > first
    assert memory.seconds == memory.seconds


# The report file


def rows_of(memory: MemoryMonitor) -> pandas.DataFrame:
    return pandas.read_csv(memory.csv_path)


def test_rows_are_on_disk_while_the_block_is_open(tmp_path):
    path = tmp_path / "deep" / "report.csv"
    with MemoryMonitor("live", csv_path=path):
        assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
        assert list(pandas.read_csv(path)["event"]) == ["start"]
    assert list(pandas.read_csv(path)["event"]) == ["start", "end"]


def test_a_plain_block_writes_no_file(output_root):
    with MemoryMonitor("plain") as memory:
        pass
    assert memory.csv_path is None
    assert not output_root.exists()


def test_rows_of_an_inner_block_take_no_peak_from_the_outer_one(tmp_path):
    with MemoryMonitor("outer", csv_path=tmp_path / "outer.csv") as outer:
        take_and_free(BLOCK_MB)
        with MemoryMonitor("inner", csv_path=tmp_path / "inner.csv"):
            pass
    last = rows_of(outer).iloc[-1]
    assert last["event"] == "end"
    assert last["cpu_peak_mb"] >= outer.summary()["cpu_before_mb"] + AT_LEAST_MB


def test_every_rank_has_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with MemoryMonitor("sft", csv_path=tmp_path / "sft.csv"):
        pass
    assert [path.name for path in tmp_path.glob("*.csv")] == ["sft.rank3.csv"]


KILLED_TRAINING = """
import sys
import torch
from transformers import Trainer, TrainingArguments
from posttrain_helpers.memory.monitor import MemoryMonitor

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}

args = TrainingArguments(sys.argv[2], use_cpu=True, max_steps=10**6, save_strategy="no", disable_tqdm=True)
rows = [{"x": torch.ones(4), "labels": torch.ones(1)}] * 64
with MemoryMonitor("killed", csv_path=sys.argv[1]) as memory:
    Trainer(Line(), args, train_dataset=rows, callbacks=[memory.callback()]).train()
"""


@pytest.mark.slow
def test_the_report_survives_a_killed_training(tmp_path):
    report = tmp_path / "killed.csv"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED_TRAINING, str(report), str(tmp_path / "run")]
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (report.exists() and report.read_text(encoding="utf-8").count(",step,") > 20):
                assert child.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "no rows in time"
                time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
    rows = pandas.read_csv(report)
    assert tuple(rows.columns) == COLUMNS
    assert "end" not in set(rows["event"])
    steps = rows[rows["event"] == "step"]
    assert len(steps) >= 20
    assert steps["step"].is_monotonic_increasing
    assert (rows["cpu_peak_mb"] >= rows["cpu_mb"] - SLACK_MB).all()
    assert rows[["seconds", "cpu_mb", "cpu_peak_mb"]].notna().all(axis=None)
    assert plot_memory(rows).get_xlabel() == "training step"


# The callback


def sft_trainer(model_directory: Path, output: Path, memory: MemoryMonitor, steps: int):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(
        str(output),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
        max_steps=steps,
        per_device_train_batch_size=2,
    )
    rows = Dataset.from_list([{"prompt": "A cow says", "completion": " moo."}] * 8)
    return SFTTrainer(str(model_directory), args, train_dataset=rows, callbacks=[memory.callback()])


def test_the_callback_records_a_training(random_model_dir, tmp_path, output_root):
    with MemoryMonitor("sft") as memory:
        sft_trainer(random_model_dir, tmp_path / "run", memory, steps=6).train()
    rows = rows_of(memory)
    assert memory.csv_path == output_root / "memory" / "sft.csv"
    assert list(rows["event"])[:2] == ["start", "train_begin"]
    assert list(rows["event"])[-2:] == ["train_end", "end"]
    steps = rows.loc[rows["event"] == "step", "step"]
    assert steps.iloc[0] == 1
    assert set(steps) <= set(range(1, 7))
    assert rows.loc[rows["event"] == "train_end", "step"].item() == 6
    assert rows["cpu_peak_mb"].max() == memory.peak_cpu_mb
    assert rows["seconds"].is_monotonic_increasing


def test_a_row_holds_the_peak_since_the_row_before(monkeypatch):
    with MemoryMonitor("a b/c") as memory:
        callback, state = train_begin(memory)
        for state.global_step in (1, 2):
            take_and_free(BLOCK_MB if state.global_step == 1 else 1)
            monkeypatch.setattr(memory, "_next_row", 0.0)
            callback.on_step_end(None, state, None)
    assert memory.csv_path.name == "a_b_c.csv"
    peaks = rows_of(memory).set_index("event")["cpu_peak_mb"]
    first, second = peaks["step"]
    assert first == memory.peak_cpu_mb
    assert second < first - BLOCK_MB + SLACK_MB


def train_begin(memory: MemoryMonitor):
    callback, state = memory.callback(), SimpleNamespace(global_step=0)
    callback.on_train_begin(None, state, None)
    return callback, state


def test_training_outside_the_block_is_not_recorded_and_says_so():
    memory = MemoryMonitor("late")
    with memory:
        pass
    before = len(memory.history())
    with pytest.warns(UserWarning, match=r"'late' is not open.*inside its `with` block"):
        callback, state = train_begin(memory)
    callback.on_step_end(None, state, None)
    callback.on_train_end(None, state, None)
    assert len(memory.history()) == before


def test_rows_that_cost_too_much_are_left_out_but_not_their_peak(monkeypatch):
    def slow(*_: object) -> tuple:
        time.sleep(0.005)
        return ()

    monkeypatch.setattr(memory_readings, "read_gpus", slow)
    with MemoryMonitor("busy") as memory:
        callback, state = train_begin(memory)
        begun = time.perf_counter()
        for step in range(1, 101):
            state.global_step = step
            take_and_free(BLOCK_MB if step == 50 else 1)
            callback.on_step_end(None, state, None)
        seconds = time.perf_counter() - begun
        callback.on_train_end(None, state, None)
    rows = memory.history()
    # A row takes 5 ms, so one each half a second is the most that 1 % allows.
    assert (rows["event"] == "step").sum() <= 1 + seconds / 0.4
    assert rows["cpu_peak_mb"].max() >= rows["cpu_mb"].iloc[0] + AT_LEAST_MB


# Use as a block and a cell


def test_the_report_line(capsys):
    with MemoryMonitor("sft"):
        pass
    pattern = r"sft: CPU [\d,]+ -> [\d,]+ MB, peak (at least )?[\d,]+ MB \(limit [\d.]+ GB\) · \d+\.\d s\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_an_error_is_reported_and_passed_on(capsys, tmp_path):
    with pytest.raises(KeyError), MemoryMonitor("broken", csv_path=tmp_path / "broken.csv") as memory:
        raise KeyError("x")
    assert capsys.readouterr().out.rstrip().endswith("stopped by KeyError")
    assert list(rows_of(memory)["event"]) == ["start", "end"]


def test_a_monitor_can_be_used_again_and_starts_afresh():
    memory = MemoryMonitor("again")
    with memory:
        take_and_free(BLOCK_MB)
    first = memory.peak_cpu_mb
    with memory:
        pass
    assert memory.peak_cpu_mb < first - BLOCK_MB + SLACK_MB
    assert list(memory.history()["event"]) == ["start", "end"]


@pytest.fixture
def shell(tmp_path: Path):
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config, ipython_dir=str(tmp_path / "ipython"))
    shell.run_line_magic("load_ext", "posttrain_helpers.memory.monitor")
    return shell


def test_the_cell_magic_measures_a_cell(shell, capsys):
    shell.run_cell("%%memory my cell\nanswer = 6 * 7").raise_error()
    assert shell.user_ns["answer"] == 42
    assert "my cell: CPU" in capsys.readouterr().out


def test_an_error_in_a_measured_cell_is_an_error(shell):
    result = shell.run_cell("%%memory\n1 / 0")
    assert isinstance(result.error_in_exec, ZeroDivisionError)


# Guards


def test_an_open_monitor_is_not_opened_twice():
    with (
        MemoryMonitor("twice") as memory,
        pytest.raises(CourseError, match="'twice' is open already; make a second"),
        memory,
    ):
        pass


def test_two_open_monitors_do_not_share_a_file(tmp_path):
    path = tmp_path / "same.csv"
    with MemoryMonitor("one", csv_path=path):
        with (
            pytest.raises(CourseError, match=r"writes to .*same\.csv already"),
            MemoryMonitor("two", csv_path=path),
        ):
            pass
        # The refused monitor leaves nothing open behind it.
        assert len(memory_readings.TRACKER._scopes) == 1
    with MemoryMonitor("two", csv_path=path):
        pass


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    with (
        pytest.raises(CourseError, match=r"report .* cannot be written .*another csv_path"),
        MemoryMonitor("x", csv_path=tmp_path),
    ):
        pass
    assert memory_readings.TRACKER._scopes == []


def test_figures_of_a_monitor_that_never_ran_are_refused():
    memory = MemoryMonitor("idle")
    for figure in (
        memory.summary,
        memory.history,
        memory.plot,
        lambda: memory.peak_cpu_mb,
        lambda: memory.seconds,
    ):
        with pytest.raises(CourseError, match="'idle' has measured nothing yet"):
            figure()


def test_importing_the_module_loads_nothing_heavy():
    code = (
        "import sys, posttrain_helpers.memory.monitor as m\n"
        "with m.MemoryMonitor(): pass\n"
        "print({'torch', 'transformers', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules) or 'light')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.splitlines()[-1] == "light"
