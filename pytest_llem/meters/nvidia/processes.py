"""Which of the processes that NVML sees on a board are not ours.

Ours are this process and those that descend from it. In a container that is a question: NVML lists PIDs of the
host, which mean nothing inside. There, as many processes as there are of ours with CUDA open are taken for our
own; when NVML lists more than those, which are ours is unknown, and all of them count as foreign.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

PROC = Path("/proc")

# PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h: the namespace that PIDs of the host are of.
_HOST_PIDS = "pid:[4026531836]"
# NVML opens the boards' own devices as well, unified memory is opened by CUDA alone.
_CUDA_DEVICE = "/dev/nvidia-uvm"


def foreign_pids(listed: Collection[int], own_pid: int, proc: Path | None = None) -> list[int]:
    """Those of the processes on a board that are not ours, in the order of their numbers.

    Args:
        listed: PIDs as NVML lists them.
        own_pid: this process, or the one whose descendants are ours.
        proc: where the kernel lists processes; default: ``/proc``.
    """
    proc = PROC if proc is None else proc
    others = sorted(pid for pid in set(listed) if not descends(pid, own_pid, proc))
    none_is_ours = len(others) == len(set(listed))
    if others and none_is_ours and _pids_are_hidden(proc) and len(others) <= len(_cuda_processes(own_pid, proc)):
        return []
    return others


def processes_are_hidden(listed: Collection[int], own_pid: int, proc: Path | None = None) -> bool:
    """Whether NVML keeps processes from us: it lists none although one of ours has CUDA open, in a container."""
    proc = PROC if proc is None else proc
    return not listed and _pids_are_hidden(proc) and bool(_cuda_processes(own_pid, proc))


def descends(pid: int, ancestor: int, proc: Path | None = None) -> bool:
    """Whether a process is ``ancestor`` or was started by it, directly or through others."""
    proc = PROC if proc is None else proc
    seen = set()
    while pid > 0 and pid not in seen:
        if pid == ancestor:
            return True
        seen.add(pid)
        pid = _parent(pid, proc)
    return False


def _parent(pid: int, proc: Path) -> int:
    """The parent's PID; 0 where there is none or the kernel does not say."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
        # "pid (name) state parent ...", and a name may hold anything.
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _pids_are_hidden(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) != _HOST_PIDS
    except OSError:
        return True


def _cuda_processes(own_pid: int, proc: Path) -> list[int]:
    """Those of our processes that have CUDA open."""
    pids = [int(path.name) for path in proc.iterdir() if path.name.isdigit()] if proc.is_dir() else []
    return [pid for pid in pids if descends(pid, own_pid, proc) and _has_open(pid, _CUDA_DEVICE, proc)]


def _has_open(pid: int, device: str, proc: Path) -> bool:
    try:
        descriptors = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()) == device:
                return True
        except OSError:
            continue  # closed meanwhile
    return False
