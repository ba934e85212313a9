"""SIGTERM, which schedulers send before they kill: it ends a session as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType


class Termination:
    """The plugin that turns SIGTERM into ``KeyboardInterrupt`` while experiments run.

    pytest then ends the session in order: the interrupted experiment has no result, those that are finished are saved.
    """

    def __init__(self) -> None:
        self._deaf = False
        self._previous: Any = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Begin to listen; where signals cannot be handled, or SIGTERM is ignored on purpose, nothing changes."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        """Once all is judged, let nothing interrupt the saving of results, which takes a moment."""
        self._deaf = True
        return (yield)

    def pytest_unconfigure(self) -> None:
        """Put the handler back that was there before."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._deaf:
            raise KeyboardInterrupt("SIGTERM")
