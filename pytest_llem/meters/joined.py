"""Windows one after the other without a rest between them, and what they come to together."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_llem.meters.base import Window


class JoinedWindows:
    """What :meth:`pytest_llem.meters.base.Meter.joined_windows` hands out.

    Attributes:
        total: the sum of the windows; filled in when the outer ``with`` block ends. Its ``joules`` and ``seconds`` are
            those of the windows, without what lies between them.
        windows: those that have ended, in their order. Their joules may be refined when the outer block ends.
    """

    def __init__(self, total: Window, open_window: Callable[[], AbstractContextManager[Window]]) -> None:
        """Hand out what ``open_window`` opens."""
        self.total = total
        self.windows: list[Window] = []
        self._open = open_window

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Measure the body of the ``with`` block: one window. Its joules are known when the block ends.

        What lies between two windows belongs to neither. Windows are not nested.
        """
        with self._open() as window:
            yield window
        self.windows.append(window)


def sum_up(total: Window, windows: Sequence[Window]) -> None:
    """Make ``total`` the sum of windows that were each read at their own edges.

    Half-widths add as their errors do: as the root of the sum of their squares where these differ by chance
    (``errors_average_out``), else linearly (JCGM 100:2008, 5.2.2). A sum with an unknown term is unknown.
    """
    total.seconds = math.fsum(window.seconds for window in windows)
    total.errors_average_out = all(window.errors_average_out for window in windows)
    for window in windows:
        total.valid &= window.valid
        total.disturbances += [found for found in window.disturbances if found not in total.disturbances]
        total.labels += [label for label in window.labels if label not in total.labels]
        total.warnings += [text for text in window.warnings if text not in total.warnings]
    reasons = [window.reason or "no reason given" for window in windows if window.joules is None]
    if reasons or not windows:
        total.reason = reasons[0] if reasons else "there was no window"
        return
    total.joules = math.fsum(window.joules or 0.0 for window in windows)
    for name in windows[0].boards_j:
        total.boards_j[name] = math.fsum(window.boards_j.get(name, 0.0) for window in windows)
    widths_j = [window.uncertainty_j for window in windows if window.uncertainty_j is not None]
    if len(widths_j) == len(windows):
        total.uncertainty_j = math.hypot(*widths_j) if total.errors_average_out else math.fsum(widths_j)
