"""A progress bar that appears only where somebody watches, and only when the work takes some seconds."""

from __future__ import annotations

import sys
import time
import warnings
from types import TracebackType
from typing import Any, TextIO

SECONDS_WITHOUT_A_BAR = 5.0


def is_live(stream: TextIO | None) -> bool:
    """Say whether a stream is a terminal or a notebook, where a line can be kept up to date."""
    if stream is None:  # Python without a console
        return False
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")


class ProgressBar:
    """Counts what is done, in a `with` block, and shows a bar of tqdm when that takes more than some seconds.

    tqdm's own `delay` makes the widgets of a notebook at once and only hides them: ten milliseconds and ten
    widgets that stay, for every call that is quick.

    Args:
        total: how much there is to do.
        unit: what is counted, such as "prompt".
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._started = time.time()
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, n: int) -> None:
        """Count `n` more as done."""
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif (
            self.done < self.total
            and time.time() - self._started > SECONDS_WITHOUT_A_BAR
            and is_live(sys.stderr)
        ):
            self._bar = self._shown()

    def _shown(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text all the same
            from tqdm.auto import tqdm
        bar = tqdm(total=self.total, unit=self.unit, leave=False)
        bar.start_t = self._started  # so that the time left counts what was done before
        bar.update(self.done)
        bar.refresh()
        return bar
