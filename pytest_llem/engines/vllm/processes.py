"""vLLM's own processes: how they are started, so that none outlives this one, and where they write.

An ``LLM`` starts its engine core by multiprocessing's *spawn*, and the core its workers. Nothing in the core notices
that the process it works for was killed, so the kernel is told beforehand: it is started through a script that asks for
SIGKILL when its parent dies, and sends what it and its workers write to a file instead of the terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.descendants import descendants
from pytest_llem.engines.serving.sources import environment
from pytest_llem.errors import LoadError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

# exec keeps both the signal and the process, whose parent may have died before the signal was asked for.
_START = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# In a session of its own, and so in no group that is killed.
_START_APART = """\
import os, sys
os.setsid()
os.execv(sys.argv[1], sys.argv[1:])
"""

QUIET = {
    # Of vLLM's usage statistics, which it sends home by itself.
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_COLOR": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    # A fork would take pytest's threads, sockets and locks along.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}

# "(Worker pid=7) WARNING 11-26 23:20:00 [cpu_worker.py:120] text"
_LOGGED = re.compile(r"^.*?\b(WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[([\w./]+):\d+\] ?(.*)$")
_RAISED = re.compile(r"^((?:[\w]+\.)*\w*(?:Error|Exception|Exit|Interrupt)): (\S.*)$")
_KILLED = re.compile(r"^Worker proc \S+ died unexpectedly \(exit code: -\d+\)")
# What vLLM raises where another process has failed, which says nothing itself.
ECHOES = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")

_ENDED_S = 10.0


@contextmanager
def started_by(folder: Path, log: ProcessLog) -> Iterator[None]:
    """Within the block, what multiprocessing spawns ends with this process, and writes to ``log``.

    Args:
        folder: for the script that starts them.

    Raises:
        LoadError: nothing in that folder may be run.
    """
    started_as = [_START, str(os.getpid())]
    with _through(folder / "start", started_as, f" >>{shlex.quote(str(log.path))} 2>&1"), environment(QUIET):
        yield


def track_shared_memory(folder: Path) -> None:
    """Start multiprocessing's resource tracker, where it does not run: it ends when nobody is left that it works for,
    and removes their shared memory. Whoever kills this process, with all of its group or not, leaves that to it.

    Args:
        folder: for the script that starts it.

    Raises:
        LoadError: nothing in that folder may be run.
    """
    with _through(folder / "track", [_START_APART]):
        resource_tracker.ensure_running()


@contextmanager
def _through(script: Path, code: Sequence[str], output: str = "") -> Iterator[None]:
    """Within the block, multiprocessing starts what it starts through ``script``.

    Args:
        code: of Python, and its arguments; those that follow are the command that it is to become.
        output: where a shell is to redirect it.
    """
    command = shlex.join([sys.executable, "-I", "-S", "-c", *code, sys.executable])
    script.write_text(f'#!/bin/sh\nexec {command} "$@"{output}\n', encoding="utf-8")
    script.chmod(0o700)
    if not os.access(script, os.X_OK):
        raise LoadError(f"vLLM's processes are started by a script, and none may be run in {script.parent}; set TMPDIR")
    before = spawn.get_executable()
    multiprocessing.set_executable(str(script))
    try:
        yield
    finally:
        multiprocessing.set_executable(before)


class _Interruption(BaseException):
    """``KeyboardInterrupt`` under another name."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, what interrupts this process ends the block: vLLM catches ``KeyboardInterrupt`` where it waits
    for its engine, and then waits on, for one that may have been interrupted as well."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are handled in that one, where nothing else may handle them.
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers: dict[int, Any] = {number: handler for number, handler in before.items() if callable(handler)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        try:
            handlers[number](number, frame)
        except KeyboardInterrupt as exc:
            raise _Interruption from exc

    for number in handlers:
        signal.signal(number, interrupt)
    try:
        yield
    except _Interruption as exc:
        raise KeyboardInterrupt(*(exc.__cause__.args if exc.__cause__ else ())) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class ProcessLog:
    """What vLLM's processes have written.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def warnings(self) -> list[str]:
        """``vllm.MODULE: MESSAGE`` of each warning, once, in the order in which they came."""
        found = (_LOGGED.match(line) for line in self._lines())
        texts = [
            f"vllm.{match[2].removesuffix('.py')}: {match[3]}" for match in found if match and match[1] == "WARNING"
        ]
        return list(dict.fromkeys(map(printable, texts)))

    @property
    def cause(self) -> str | None:
        """The first exception that stands there with a text of its own, on one line, or that a worker was killed;
        ``None`` where there is neither."""
        for line in self._lines():
            logged = _LOGGED.match(line)
            text = (logged[3] if logged else re.sub(r"^\([^)]*\) ?", "", line)).strip()
            killed, raised = _KILLED.match(text), _RAISED.match(text)
            if killed:
                return printable(killed[0])
            if raised and not raised[2].startswith(ECHOES):
                return printable(raised[0])
        return None

    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""

    def _lines(self) -> list[str]:
        return self.text().splitlines()


def kill(pids: Mapping[int, str]) -> None:
    """End those processes that still run, and wait until they have: until then they hold their device's memory.

    Args:
        pids: each with its :func:`identity`, so that no other process that has got the number is meant.
    """
    handles = []
    for pid, since in pids.items():
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            if identity(pid) != since:
                os.close(handle)
                continue
            handles.append(handle)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    until_s = time.monotonic() + _ENDED_S
    for handle in handles:
        # Readable once the process has ended.
        select.select([handle], [], [], max(until_s - time.monotonic(), 0.0))
        os.close(handle)


def identity(pid: int) -> str:
    """What distinguishes a process from later ones of the same number: when it started, in ticks since boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def started() -> dict[int, str]:
    """The processes that this one has started, directly or through others, and the :func:`identity` of each."""
    return {pid: identity(pid) for pid in descendants(os.getpid())}
