"""A pytest process that runs some of a session's items and reports each as it goes.

Parent and child talk over one socket, a JSON document a line: first the parent says which items to run, then the child
reports when an item begins, each phase of it, its result, and when it has ended.
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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from pytest_llem.descendants import how_it_ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

    from pytest_llem.session.isolation.nursery import ForkedProcess, Nursery

DUMP_SIGNAL = signal.SIGUSR1
"""On which a child writes where each of its threads is."""

_CHUNK_BYTES = 1 << 16
_SHOWN_CHARS = 20_000
_LOOK_S = 0.5  # between two looks whether the child lives: a process that it forked may keep its socket open
_DUMP_S = 2.0
_EXIT_S = 60.0


@dataclass(frozen=True)
class Launch:
    """How the pytest processes of a session are started.

    Attributes:
        arguments: pytest's, as those of the session.
        folder: their working directory.
        python: their interpreter.
        environment: what is different in theirs; ``None`` for a variable that is not set there.
    """

    arguments: Sequence[str]
    folder: Path
    python: str = sys.executable
    environment: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, config: pytest.Config) -> Launch:
        """As the session itself was started."""
        return cls(config.invocation_params.args, config.invocation_params.dir)


def start_pytest(option: str, theirs: socket.socket, launch: Launch, output: int | None) -> subprocess.Popen[bytes]:
    """Start ``python -m pytest`` at the other end of a socket.

    Args:
        option: the option that gets the descriptor of that end.
        theirs: that end.
        output: descriptor of its stdout and stderr; ``None`` for those of this process.
    """
    environment = {**os.environ, **launch.environment}
    # A session of its own: the terminal's Ctrl-C is for the parent, and all that it starts can be killed.
    return subprocess.Popen(  # noqa: S603  (an interpreter that the session names, without a shell)
        [launch.python, "-m", "pytest", f"{option}={theirs.fileno()}", *launch.arguments],
        cwd=launch.folder,
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )


def written_to(output: BinaryIO | None, start: int = 0) -> str:
    """What processes wrote to this file from byte ``start`` on, or the end of it."""
    if output is None:
        return ""
    size = os.fstat(output.fileno()).st_size
    start = max(start, size - _SHOWN_CHARS)
    return os.pread(output.fileno(), size - start, start).decode(errors="replace").strip()


class ChildProcess:
    """One child.

    Attributes:
        queue: node ids that it has not finished yet, in order.
        served: number of items that it has finished.
    """

    def __init__(
        self,
        launch: Launch,
        nodeids: Sequence[str],
        *,
        shown: bool,
        nursery: Nursery | None = None,
        by_turns: bool = False,
    ) -> None:
        """Start it.

        Args:
            nodeids: the items that it runs, in order.
            shown: whether its output goes to the terminal at once, as with ``-s``.
            nursery: of the same launch and output, which becomes it; else it is started anew.
            by_turns: it does nothing unless it is :meth:`told`, and asks before each window.

        Raises:
            NurseryError: the nursery cannot.
        """
        self.queue = list(nodeids)
        self.served = 0
        self._buffer = b""
        self._output = None if shown else tempfile.TemporaryFile()  # noqa: SIM115  (closed with the child)
        self._output_start = 0
        self._socket, theirs = socket.socketpair()
        stream = None if self._output is None else self._output.fileno()
        self._process: subprocess.Popen[bytes] | ForkedProcess
        try:
            with theirs:
                if nursery is None:
                    self._process = start_pytest("--llem-child", theirs, launch, stream)
                else:
                    self._process = nursery.fork(theirs.fileno(), stream)
        except BaseException:
            self._close_files()
            raise
        if not by_turns:
            self.tell(nodeids=self.queue, by_turns=False)

    def tell(self, **message: Any) -> None:
        """Answer the child, which waits for it: which items it runs, that an item is over, or that it is its turn."""
        with suppress(OSError):  # one that ended is noticed when it is listened to
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, deadline_s: float | None) -> dict[str, Any] | None:
        """What the child says next; ``None`` once it has ended and said everything.

        Args:
            deadline_s: on the monotonic clock.

        Raises:
            TimeoutError: it said nothing until then.
        """
        while b"\n" not in self._buffer:
            look_s = _LOOK_S
            if deadline_s is not None:
                look_s = min(look_s, deadline_s - time.monotonic())
                if look_s <= 0:
                    raise TimeoutError
            ended = self._process.poll() is not None
            ready, _, _ = select.select([self._socket], [], [], 0 if ended else look_s)
            if not ready:
                if ended:
                    return None
                continue
            try:
                chunk = self._socket.recv(_CHUNK_BYTES)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def begin_item(self, output_start: int) -> None:
        """An item has begun: what was written after that many bytes of output is its own."""
        self._output_start = output_start

    def finish_item(self) -> None:
        """The first item of the queue is done: let the child go on."""
        self.queue.pop(0)
        self.served += 1
        self.tell()

    def output(self) -> str:
        """What was written to stdout and stderr since the item began, or the end of it."""
        return written_to(self._output, self._output_start)

    @property
    def is_orphaned(self) -> bool:
        """Whether it was ended with its nursery, through no fault of its items."""
        return not isinstance(self._process, subprocess.Popen) and self._process.is_orphaned

    def how_it_ended(self) -> str:
        """The end of the process in words; kills it if it does not end by itself."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"did not end within {_EXIT_S:g} s"
        return how_it_ended(code)

    def dump(self) -> None:
        """Let the child write where it hangs."""
        self._process.send_signal(DUMP_SIGNAL)
        before = self.output()
        until_s = time.monotonic() + _DUMP_S
        while self.output() == before and time.monotonic() < until_s and self._process.poll() is None:
            time.sleep(0.05)

    def close(self) -> None:
        """Wait for one that is done, kill one that is not, and whatever it left running."""
        if not self.queue:
            self.how_it_ended()
        self.kill()
        self._close_files()

    def kill(self) -> None:
        """End the child and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _close_files(self) -> None:
        self._socket.close()
        if self._output is not None:
            self._output.close()
