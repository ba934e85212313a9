"""CPU time of the processes that this one has started: an engine may work in processes of its own."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from pytest_llem.descendants import descendants

# CPUCLOCK_SCHED of the kernel's include/linux/posix-timers_types.h: a process' clock by its PID, as glibc's
# clock_getcpuclockid() makes it. In nanoseconds, where /proc/PID/stat counts in hundredths of a second.
_SCHEDULED = 2

_CUTIME, _CSTIME = 13, 14  # of /proc/PID/stat, after the name: of the children that a process has waited for
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


def cpu_s_of_descendants() -> float:
    """CPU seconds (user and system) of the processes that this one has started, directly or through others.

    Those that have ended count once they were waited for, as the kernel has it. 0 where there were none: it is a sum.
    """
    while True:
        waited_for_s = _waited_for_s()
        living_s = sum(map(_cpu_s, descendants(os.getpid())))
        # One that was waited for meanwhile would count twice, or not at all.
        if _waited_for_s() == waited_for_s:
            return waited_for_s + living_s


def _waited_for_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of those children that it has waited for; 0 if it has just ended."""
    with suppress(OSError):
        own_s = time.clock_gettime((~pid << 3) | _SCHEDULED)
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return own_s + (int(after_name[_CUTIME]) + int(after_name[_CSTIME])) / _TICKS_HZ
    return 0.0
