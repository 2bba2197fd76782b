"""Figures that several lessons draw: learning curves, next-token bars, marked tokens.

Sizes and fonts suit a projector, and colours can be told apart without colour vision.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain_helpers.errors import CourseError
from posttrain_helpers.wording import duration

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7f7f7f"
COLOURS = (GREY, ORANGE, BLUE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")


def new_figure(width: float = 8.0, height: float = 4.0, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its axes (one, or an array of `columns`) in the style of the course."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
    for panel in [axes] if columns == 1 else axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def display_figure(figure: Figure, alt: str, handle: Any = None) -> Any:
    """Show a figure with the text that a screen reader reads out in its place, and close it.

    Args:
        figure: of matplotlib.
        alt: what the figure shows, in a sentence or two.
        handle: of a figure that is shown already and gives way to this one.

    Returns:
        The handle of the output.
    """
    import io

    import matplotlib.pyplot as plt
    from IPython.display import display

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    data = {"image/png": picture.getvalue(), "text/plain": f"Figure: {alt}"}
    shown = {"raw": True, "metadata": {"image/png": {"alt": alt}}}
    if handle is None:
        return display(data, display_id=True, **shown)
    handle.update(data, **shown)
    return handle


def plot_intervals(
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]], xlabel: str, height: float | None = None
) -> Figure:
    """Draw values with their intervals, one line a label; each group has a colour and a marker of its own.

    Args:
        groups: for each group the labels that it has, each with (value, low, high).
        xlabel: what the values are, with their unit.
        height: of the figure in inches; None fits the number of lines.
    """
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    figure, axes = new_figure(8, height or 1.2 + 0.45 * len(labels))
    shared = any(sum(label in group for group in groups.values()) > 1 for label in labels)
    for number, (name, group) in enumerate(groups.items()):
        offset = 0.2 * (number - (len(groups) - 1) / 2) if shared else 0.0
        values, low, high = ([row[part] for row in group.values()] for part in range(3))
        ends = [[v - a for v, a in zip(values, low, strict=True)]]
        ends.append([b - v for v, b in zip(values, high, strict=True)])
        axes.errorbar(
            values,
            [labels.index(label) + offset for label in group],
            xerr=ends,
            fmt="os^Dv"[number % 5],
            color=COLOURS[(number + 1) % len(COLOURS)],
            capsize=3,
            label=name,
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(xlabel)
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_next_token(
    logits: torch.Tensor, tokenizer: PreTrainedTokenizerBase, temperatures: Sequence[float], top: int = 8
) -> Figure:
    """Draw the most likely next tokens at several temperatures.

    Args:
        logits: of the next token, shape (vocabulary,).
        tokenizer: names the tokens.
        temperatures: one panel each, above 0.
        top: tokens shown, chosen at temperature 1.

    Raises:
        CourseError: for a temperature that is not above 0.
    """
    if any(temperature <= 0 for temperature in temperatures):
        raise CourseError(
            f"A temperature must be above 0, but {min(temperatures)} was given; 0 means greedy decoding."
        )
    best = logits.topk(top).indices
    names = [repr(tokenizer.decode([token])) for token in best.tolist()]
    figure, panels = new_figure(
        width=3.4 * len(temperatures), height=0.8 + 0.36 * top, columns=len(temperatures)
    )
    for panel, temperature in zip([panels] if len(temperatures) == 1 else panels, temperatures, strict=True):
        probabilities = (logits / temperature).softmax(-1)[best].tolist()
        bars = panel.barh(range(top), probabilities, color=BLUE)
        panel.bar_label(bars, [f"{probability:.2f}" for probability in probabilities], padding=3)
        panel.set_yticks(range(top), names, family="monospace")
        panel.set(xlim=(0, 1.14), title=f"temperature {temperature:g}", xlabel="probability")
        panel.invert_yaxis()
    return figure


def _draw_training(history: Sequence[Mapping[str, float]], keys: Sequence[str], title: str) -> Figure:
    """Draw logged metrics over the optimizer steps, a panel each."""
    figure, panels = new_figure(width=4.6 * len(keys), height=3.4, columns=len(keys))
    for panel, key in zip([panels] if len(keys) == 1 else panels, keys, strict=True):
        points = [(entry["step"], entry[key]) for entry in history]
        panel.plot(*zip(*points, strict=True), color=BLUE, marker="." if len(points) < 40 else None)
        panel.set(xlabel="optimizer step", title=key.replace("_", " "))
    figure.suptitle(title)
    return figure


def live_curve(keys: Sequence[str] = ("loss",), every: int = 4) -> Any:
    """Return a trainer callback that redraws the learning curve during training, with the time left above.

    Args:
        keys: metrics to draw.
        every: redraw at every so many log entries; a redraw costs a few hundredths of a second.
    """
    from transformers import TrainerCallback

    class LiveCurve(TrainerCallback):
        """Draws into one output cell; the last picture stays."""

        def __init__(self) -> None:
            self.handle: Any = None
            self.entries = 0
            self.began: tuple[float, int] | None = None  # when, and after which step

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.entries += 1
            if self.entries % every == 0:
                self.draw(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.draw(state)

        def draw(self, state: Any) -> None:
            history = [
                entry for entry in state.log_history if all(entry.get(key) is not None for key in keys)
            ]
            if not history:
                return
            title = f"step {state.global_step:,} of {state.max_steps:,}{self.time_left(state)}"
            figure = _draw_training(history, keys, title)
            first, last = history[0], history[-1]
            courses = [f"{key.replace('_', ' ')} from {first[key]:.3g} to {last[key]:.3g}" for key in keys]
            alt = f"Learning curve over {last['step']} optimizer steps: {', '.join(courses)}."
            self.handle = display_figure(figure, alt, self.handle)

        def time_left(self, state: Any) -> str:
            if self.began is None or not self.began[1] < state.global_step < state.max_steps:
                return ""
            started, first_step = self.began
            pace = (time.monotonic() - started) / (state.global_step - first_step)
            return f", about {duration(pace * (state.max_steps - state.global_step))} left"

    return LiveCurve()


class TokenView:
    """Tokens in boxes, the supervised ones bold and underlined; in a terminal these stand in brackets."""

    def __init__(self, tokens: Sequence[str], mask: Sequence[bool]) -> None:
        if len(tokens) != len(mask):
            raise CourseError(
                f"Every token needs a mask entry, but there are {len(tokens)} tokens and {len(mask)} entries."
            )
        self.tokens, self.mask = list(tokens), [bool(entry) for entry in mask]

    def _repr_html_(self) -> str:
        box = "border-radius:3px;padding:1px 3px;margin:1px;display:inline-block;font-family:monospace"
        # Weight and line say what the colour says: some readers do not see it, and paper has none.
        styles = {
            True: f"background:rgba(0,114,178,0.28);font-weight:bold;border-bottom:3px solid {BLUE};{box}",
            False: f"background:rgba(127,127,127,0.14);border-bottom:3px solid transparent;{box}",
        }
        boxes = []
        for token, supervised in zip(self.tokens, self.mask, strict=True):
            title = "supervised: counts in the loss" if supervised else "not supervised"
            shown = html.escape(token).replace(" ", "·").replace("\n", "⏎")
            boxes.append(
                f'<span title="{title}" style="{styles[supervised]}">{shown}</span>'
                + ("<br>" if "\n" in token else "")
            )
        key = "bold and underlined: counts in the loss (supervised)"
        below = f'<div style="font-size:85%">{key}</div>' if any(self.mask) else ""
        return f'<div style="line-height:2.1">{"".join(boxes)}</div>{below}'

    def __str__(self) -> str:
        return "".join(
            f"[{token}]" if supervised else token
            for token, supervised in zip(self.tokens, self.mask, strict=True)
        )

    __repr__ = __str__


def show_tokens(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, mask: Sequence[bool] | None = None
) -> TokenView:
    """Show token ids as pieces of text, the supervised ones bold and underlined.

    Args:
        ids: token ids.
        tokenizer: decodes them one by one.
        mask: True where a token is supervised; None marks nothing.
    """
    tokens = [tokenizer.decode([token]) for token in ids]
    return TokenView(tokens, mask if mask is not None else [False] * len(tokens))
