from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml
import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Iterator

UUIDS = [f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(3)]


def test_without_codecarbon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MeterUnavailableError, match=r"pip install 'pytest-llem\[codecarbon\]'"):
        open_meter("codecarbon")


@pytest.fixture
def codecarbon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """CodeCarbon as in a new process on a machine with an NVIDIA driver, in an empty folder."""
    pytest.importorskip("codecarbon")
    forget_driver = pytest.importorskip("codecarbon.core.gpu_nvidia").clear_nvidia_system_cache
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # Found out when it was first imported.
    monkeypatch.setattr("codecarbon.core.gpu_nvidia.pynvml", pynvml)
    monkeypatch.setattr("codecarbon.core.gpu.PYNVML_AVAILABLE", True)
    monkeypatch.setattr("codecarbon.core.hardware_cache._plans", {})
    forget_driver()
    yield
    forget_driver()


def fail_after(clock: SimulatedClock, seconds: float) -> None:
    clock.work(seconds)
    raise ZeroDivisionError


def three_boards() -> list[SimulatedBoard]:
    return [SimulatedBoard(uuid=uuid, power=100.0 * 2**number) for number, uuid in enumerate(UUIDS)]


@pytest.mark.usefixtures("codecarbon")
class TestBoards:
    def test_joules_are_the_counters_and_the_time_is_ours(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard(uuid=UUIDS[0], power=250.0)], clock),
            open_meter("codecarbon", device="cuda", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(10.0)
        assert window.joules == pytest.approx(2500.0, rel=1e-5)
        assert window.boards_j == {UUIDS[0]: window.joules}
        assert window.seconds == pytest.approx(10.0)
        assert window.uncertainty_j is None
        assert window.warnings == ["codecarbon states no uncertainty"]
        assert not meter.estimated

    def test_the_device_is_waited_for_at_both_edges(self) -> None:
        clock = SimulatedClock()
        pending_s = [0.5]

        def synchronize() -> None:
            while pending_s:
                clock.work(pending_s.pop())

        with (
            install([SimulatedBoard(power=100.0)], clock),
            open_meter("codecarbon", device="cuda", clock=clock) as meter,
            meter.window(synchronize) as window,
        ):
            pending_s.append(1.0)
        assert window.seconds == pytest.approx(1.0)
        assert window.joules == pytest.approx(100.0, rel=1e-5)

    @pytest.mark.parametrize(
        ("visible", "uuids", "power_w"),
        [
            (None, None, 700),
            (None, [UUIDS[1]], 200),
            ("2,0", None, 500),
            ("2,0", [UUIDS[0]], 100),
            (UUIDS[2], None, 400),
        ],
    )
    def test_the_boards_are_those_that_the_model_lies_on(
        self, visible: str | None, uuids: list[str] | None, power_w: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        clock = SimulatedClock()
        with (
            install(three_boards(), clock),
            open_meter("codecarbon", device="cuda", gpu_uuids=uuids, clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(1.0)
        assert window.joules == pytest.approx(power_w, rel=1e-5)

    def test_zero_is_unknown(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard()], clock),
            open_meter("codecarbon", device="cuda", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(0.001)
        assert window.joules is None
        assert window.boards_j == {}
        assert "codecarbon reports 0 J for gpu" in str(window.reason)

    def test_work_that_failed_is_not_charged_to_the_next_window(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard(power=100.0)], clock),
            open_meter("codecarbon", device="cuda", clock=clock) as meter,
        ):
            with pytest.raises(ZeroDivisionError), meter.window():
                fail_after(clock, 5.0)
            with meter.window() as window:
                clock.work(1.0)
        assert window.joules == pytest.approx(100.0, rel=1e-5)

    def test_the_users_configuration_does_not_change_the_joules(self, tmp_path: Path) -> None:
        (tmp_path / ".codecarbon.config").write_text("[codecarbon]\npue=2.0\noutput_methods=csv\ngpu_ids=0\n")
        clock = SimulatedClock()
        with (
            install(three_boards(), clock),
            open_meter("codecarbon", device="cuda", gpu_uuids=[UUIDS[1]], clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(1.0)
        assert window.joules == pytest.approx(200.0, rel=1e-5)

    def test_nothing_is_printed_written_or_left_running(self, capfd: pytest.CaptureFixture[str]) -> None:
        clock = SimulatedClock()
        logger = logging.getLogger("codecarbon")
        level = logger.level
        threads = set(threading.enumerate())
        with install([SimulatedBoard()], clock):
            meter = open_meter("codecarbon", device="cuda", clock=clock)
            with meter.window():
                clock.work(1.0)
            interrupted = meter.window()
            interrupted.__enter__()
            meter.close()
            meter.close()
        assert capfd.readouterr() == ("", "")
        assert list(Path().iterdir()) == []
        assert (logger.level, logger.filters) == (level, [])
        for thread in set(threading.enumerate()) - threads:
            # A timer that was called off needs a moment to end; one that goes on starts the next.
            thread.join(timeout=5)
        assert set(threading.enumerate()) <= threads

    def test_nothing_is_printed_when_it_is_first_imported(self) -> None:
        code = "from pytest_llem.meters import open_meter\nwith open_meter('codecarbon') as meter, meter.window(): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")
        assert list(Path().iterdir()) == []

    @pytest.mark.parametrize(
        ("boards", "reason"),
        [
            ([], "codecarbon meter: no GPU is visible"),
            ([SimulatedBoard(mig_mode=1)], "codecarbon meter: .* is divided by MIG"),
        ],
    )
    def test_no_sensor_is_said_when_it_is_opened(self, boards: list[SimulatedBoard], reason: str) -> None:
        with install(boards), pytest.raises(MeterUnavailableError, match=reason):
            open_meter("codecarbon", device="cuda")

    def test_a_gpu_that_codecarbon_does_not_find(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "bin" / "nvidia-smi").unlink()
        with install([SimulatedBoard()]), pytest.raises(MeterUnavailableError, match="finds no GPU; it looks for"):
            open_meter("codecarbon", device="cuda")

    def test_what_codecarbon_swallows_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise OSError("no such table")

        monkeypatch.setattr("codecarbon.emissions_tracker.get_hierarchical_config", fail)
        with install([SimulatedBoard()]), pytest.raises(MeterUnavailableError, match="OSError: no such table"):
            open_meter("codecarbon", device="cuda")


@pytest.mark.usefixtures("codecarbon")
def test_processor_and_memory_are_named_and_marked_as_modelled() -> None:
    with install(), open_meter("codecarbon") as meter:
        with meter.window() as window:
            sum(range(2_000_000))
        assert meter.estimated
    assert any("CPU and RAM of the whole machine" in warning for warning in window.warnings)
    if window.joules is None:
        assert "cpu" in str(window.reason)
    else:
        assert set(window.boards_j) == {"cpu", "ram"}
        assert window.joules == pytest.approx(sum(window.boards_j.values()))
