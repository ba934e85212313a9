"""SIGTERM as Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def harmless() -> Iterator[list[int]]:
    """A handler of the tests' own, so that a signal that is not handled does not end them."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.001)  # let the interpreter see it


def test_it_interrupts_until_results_are_being_saved(harmless: list[int]) -> None:
    termination = Termination()
    next(termination.pytest_runtestloop())
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        terminate()
    with pytest.raises(KeyboardInterrupt):
        terminate()
    next(termination.pytest_sessionfinish())
    terminate()
    termination.pytest_unconfigure()
    assert not harmless
    terminate()
    assert harmless == [signal.SIGTERM]


def test_a_signal_that_is_ignored_on_purpose_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    termination = Termination()
    next(termination.pytest_runtestloop())
    terminate()
    termination.pytest_unconfigure()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_happens() -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=next, args=(Termination().pytest_runtestloop(),))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
