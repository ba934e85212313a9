"""Peak memory of a stretch of work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class CudaPeakMemory:
    """What torch's allocator held at most, summed over the devices.

    The peaks of several devices need not fall together, so the sum is an upper bound. The CUDA context and
    memory that other libraries allocate are not part of it.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = devices

    def reset(self) -> None:
        """Start anew from what is allocated now."""
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)

    def peak_bytes(self) -> tuple[int | None, str | None]:
        """The peak since the reset, in bytes."""
        return sum(torch.cuda.max_memory_allocated(device) for device in self._devices), None


class ResidentPeakMemory:
    """The peak resident set of this process, with everything in it, as the Linux kernel counts it.

    Writing 5 to ``clear_refs`` resets the kernel's high-water mark, ``VmHWM`` (``man 5 proc``).
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process
        self._reason: str | None = "the peak was never reset"

    def reset(self) -> None:
        """Start anew from what is resident now."""
        try:
            (self._process / "clear_refs").write_text("5")
        except OSError as exc:
            self._reason = f"the kernel's peak of resident memory cannot be reset: {exc.strerror or exc}"
        else:
            self._reason = None

    def peak_bytes(self) -> tuple[int | None, str | None]:
        """The peak since the reset, in bytes, or ``None`` and the reason."""
        if self._reason is not None:
            return None, self._reason
        try:
            lines = (self._process / "status").read_text().splitlines()
        except OSError as exc:
            return None, f"the kernel's peak of resident memory cannot be read: {exc.strerror or exc}"
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024, None
        return None, "the kernel does not state the peak of resident memory (VmHWM)"
