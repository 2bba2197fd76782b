"""The figure of a memory report, of a live monitor or of the file that a killed process left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


def plot_memory(history: pandas.DataFrame, ax: Axes | None = None, title: str = "Memory") -> Axes:
    """Draw the rows of a memory report; `plot_memory(pandas.read_csv(path))` draws that of a killed process.

    Args:
        history: rows with the columns of the report file.
        ax: where to draw; None makes a figure of a size that a projector shows well.
        title: the heading.

    Returns:
        The axes. Solid lines are the memory in use at the end of a step, dashed lines the peak within it.

    Raises:
        CourseError: fewer than two rows.
    """
    steps = history[history["event"].isin(["train_begin", "step"])]
    trained = len(steps) >= 2 and steps["step"].is_monotonic_increasing  # of one training, not of two
    rows, x, label = (steps, "step", "training step") if trained else (history, "seconds", "seconds")
    if len(rows) < 2:
        raise CourseError(
            f"The memory report has {len(rows)} row(s), and a line needs two; pass callback() to a trainer."
        )
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(10, 5.5), layout="constrained")
    lines = (
        ("cpu_mb", "CPU in use", "#0072B2", "-"),
        ("cpu_peak_mb", "CPU peak", "#000000", "--"),
        ("gpu_reserved_mb", "GPU reserved", "#009E73", "-"),
        ("gpu_allocated_mb", "GPU allocated", "#D55E00", "-"),
        ("gpu_peak_mb", "GPU peak", "#CC79A7", "--"),
    )
    for column, name, color, style in lines:
        if rows[column].notna().any():
            ax.plot(rows[x], rows[column], style, color=color, linewidth=2.5, label=name)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel(label, fontsize=16)
    ax.set_ylabel("memory (MB)", fontsize=16)
    ax.set_title(title, fontsize=18)
    ax.tick_params(labelsize=14)
    ax.legend(fontsize=14, loc="best")
    ax.grid(alpha=0.3)
    return ax
