"""A process that has imported what experiments need, and becomes a child for each order: a fresh process is cheap.

A nursery is ``pytest`` with the session's arguments, started anew. Before the first ``conftest.py`` it imports the
engines and waits; for each order it forks, and the child goes on as if it had just been started.

What is drawn when a program starts (where its memory lies, how strings are hashed) is the same in all children of one
nursery, so no experiment gets two samples of a verdict from one: each further run has a nursery of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_llem.descendants import how_it_ended
from pytest_llem.session.isolation.process import start_pytest, written_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_llem.session.isolation.process import Launch

MESSAGE_BYTES = 1 << 16
"""The longest message of a nursery and its session, in bytes."""

_EXIT_S = 10.0
# What changes while a session runs; nothing reads it when it is imported.
_MOVING = ("PYTEST_CURRENT_TEST", "PYTEST_LLEM_LOCK_TOKENS")


class NurseryError(Exception):
    """A nursery cannot be used. Says why."""


class Nursery:
    """The session's side of a nursery.

    Attributes:
        possible: whether this system knows all that a safe fork needs.
    """

    possible = sys.platform == "linux"

    def __init__(self, modules: Iterable[str], launch: Launch, *, shown: bool) -> None:
        """Start it; it imports meanwhile.

        Args:
            modules: what it is to import.
            shown: whether its output goes to the terminal at once, as with ``-s``.
        """
        self._environment = _fixed(os.environ)
        self._is_ready = False
        self._output = None if shown else tempfile.TemporaryFile()  # noqa: SIM115  (closed with it)
        # Of whole messages.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stream = None if self._output is None else self._output.fileno()
        with theirs:
            self._process = start_pytest("--llem-nursery", theirs, launch, stream)
        with suppress(OSError):  # one that ended at once is noticed when it is listened to
            self._socket.send(json.dumps(list(modules)).encode())

    @property
    def is_current(self) -> bool:
        """Whether the environment is the one in which it was started, which libraries read when they are imported."""
        return self._environment == _fixed(os.environ)

    def wait(self, until_s: float | None = None) -> bool:
        """Until all is imported.

        Args:
            until_s: how long at most, on the monotonic clock.

        Returns:
            Whether it is.

        Raises:
            NurseryError: it cannot be forked, or has ended.
        """
        if not self._is_ready:
            timeout_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not select.select([self._socket], [], [], timeout_s)[0]:
                return False
            problem = self._receive()
            if problem is not None:
                raise NurseryError(problem)
            self._is_ready = True
        return True

    def fork(self, descriptor: int, output: int | None) -> ForkedProcess:
        """Let it become a child, its only one until that has ended.

        Args:
            descriptor: the child's end of the socket to it.
            output: descriptor of its stdout and stderr; ``None`` for those of the nursery.

        Raises:
            NurseryError: it cannot be forked, or has ended.
        """
        self.wait()
        moving = {name: os.environ[name] for name in _MOVING if name in os.environ}
        descriptors = [descriptor, *([] if output is None else [output])]
        with suppress(OSError):  # one that has ended is noticed when it is listened to
            socket.send_fds(self._socket, [json.dumps(moving).encode()], descriptors)
        return ForkedProcess(self._receive(), self._socket)

    def close(self) -> None:
        """End it. Its children have ended."""
        self._socket.close()
        if self._is_ready:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._output is not None:
            self._output.close()

    def lost(self) -> NurseryError:
        """How it ended, or that it does not answer."""
        try:
            how = how_it_ended(self._process.wait(_EXIT_S))
        except subprocess.TimeoutExpired:
            how = "does not answer"
        last = written_to(self._output).rpartition("\n")[2]
        return NurseryError(f"it {how}{last and f': {last}'}")

    def _receive(self) -> Any:
        message = _receive(self._socket)
        if not message:
            raise self.lost()
        return json.loads(message)


class ForkedProcess:
    """A child of a nursery; what is used of :class:`subprocess.Popen`.

    Attributes:
        pid: its process and its process group.
        is_orphaned: it was ended with its nursery, which did not say how.
    """

    def __init__(self, pid: int, nursery: socket.socket) -> None:
        self.pid = pid
        self.is_orphaned = False
        self._nursery = nursery
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; ``None`` while it runs."""
        return self._look(0.0)

    def wait(self, timeout_s: float | None = None) -> int:
        """The same, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._look(timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout_s or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, timeout_s: float | None) -> int | None:
        if self._code is None and select.select([self._nursery], [], [], timeout_s)[0]:
            if message := _receive(self._nursery):
                self._code = json.loads(message)
            else:
                self.is_orphaned = True
                self._code = -signal.SIGKILL
                # The kernel ends it with its nursery, but perhaps a moment later.
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(self.pid)
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    select.select([handle], [], [])
                    os.close(handle)
        return self._code


def _receive(line: socket.socket) -> bytes:
    try:
        return line.recv(MESSAGE_BYTES)
    except ConnectionResetError:
        return b""


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _MOVING}
