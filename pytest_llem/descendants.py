"""The processes that a process has started, directly or through others, as Linux lists them in ``/proc``; and how
processes end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl.h


def descendants(pid: int) -> list[int]:
    """Those that are still there; none where there is no ``/proc``."""
    children = _children_by_parent() if _lacks_lists(pid) else None
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        own = _children(parent) if children is None else children.get(parent, [])
        found += own
        pending += own
    return found


def end_with_parent() -> None:
    """Never outlive the process that started this one, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def how_it_ended(code: int) -> str:
    """The end of a process in words, from its exit status or minus the signal that ended it."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", perhaps by the kernel because memory ran out" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _lacks_lists(pid: int) -> bool:
    """Whether the kernel lists no process's children (it was built without CONFIG_PROC_CHILDREN)."""
    return not os.path.exists(f"{PROC}/{pid}/task/{pid}/children")  # noqa: PTH110  (read before every window)


def _children(pid: int) -> list[int]:
    """Of all threads of a process, each of which has children of its own."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"{PROC}/{pid}/task"):  # noqa: PTH208  (read before every window: half the time)
            with suppress(OSError):
                found += map(int, Path(f"{PROC}/{pid}/task/{thread}/children").read_bytes().split())
    return found


def _children_by_parent() -> dict[int, list[int]]:
    """The same by looking at every process there is, which takes some milliseconds."""
    found: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # "pid (name) state parent ...", and a name may hold anything.
            stat = path.read_text(encoding="utf-8", errors="replace")
            found.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    return found
