"""One line that says how far a long measurement is; only where a person watches a terminal."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_LEAST_SECONDS = 0.2


class ProgressLine:
    """Rewrites one line of the terminal between the windows of a measurement; erased when it is over.

    Silent when the output is no terminal or the session is quiet: a log of carriage returns helps nobody.
    """

    def __init__(self, config: pytest.Config, experiment: str) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        watched = reporter is not None and reporter.isatty and config.get_verbosity() >= 0
        self._reporter: pytest.TerminalReporter | None = reporter if watched else None
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._experiment = experiment
        self._shown = False

    def __call__(self, phase: str, done: int, total: int, window_s: float) -> None:
        """Say what is done.

        Args:
            phase: what runs, such as ``warm-up`` or ``round``.
            done: windows that are over; ``total``: of how many, at most.
            window_s: how long the last one took with its waiting, in seconds.
        """
        if self._reporter is None or window_s * total < _LEAST_SECONDS:
            return
        left_s = (total - done) * window_s
        self._write(f" {self._experiment}: {phase} {done} of {total}, about {_duration(left_s)} left")

    def erase(self) -> None:
        """Leave the line empty, for what comes next."""
        if self._shown:
            self._write("")
            self._shown = False

    def _write(self, text: str) -> None:
        # While a test runs, what is written to the terminal would be taken for the test's own output.
        uncaptured = nullcontext() if self._capture is None else self._capture.global_and_fixture_disabled()
        if self._reporter is None:
            return
        with uncaptured:
            if not self._shown:
                self._reporter.ensure_newline()
                self._shown = True
            self._reporter.rewrite(text, erase=True)
            self._reporter.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
