from __future__ import annotations

from pathlib import Path

from pytest_llem.engines.transformers.memory import ResidentPeakMemory


def test_the_high_water_mark_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 99 kB\n")
    memory = ResidentPeakMemory(tmp_path)
    memory.reset()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert memory.peak_bytes() == (1234 * 1024, None)


def test_a_peak_that_was_never_reset_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmHWM:\t   1234 kB\n")
    assert ResidentPeakMemory(tmp_path).peak_bytes() == (None, "the peak was never reset")


def test_a_kernel_that_refuses_the_reset_leaves_it_unknown() -> None:
    memory = ResidentPeakMemory(Path("/nonexistent"))
    memory.reset()
    peak, reason = memory.peak_bytes()
    assert peak is None
    assert reason is not None
    assert "cannot be reset" in reason


def test_a_kernel_that_does_not_state_it_leaves_it_unknown(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\n")
    memory = ResidentPeakMemory(tmp_path)
    memory.reset()
    assert memory.peak_bytes() == (None, "the kernel does not state the peak of resident memory (VmHWM)")
