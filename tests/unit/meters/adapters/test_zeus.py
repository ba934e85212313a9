from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pynvml
import pytest

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UUIDS = [f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(3)]


class TestWithoutZeus:
    def test_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "zeus", None)
        monkeypatch.delitem(sys.modules, "zeus.monitor", raising=False)
        with pytest.raises(MeterUnavailableError, match=r"pip install 'pytest-llem\[zeus\]'"):
            open_meter("zeus")

    def test_a_broken_installation_is_said_and_not_raised(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "zeus").mkdir()
        (tmp_path / "zeus" / "__init__.py").write_text("raise OSError('libfoo.so:\\n cannot open')")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "zeus", raising=False)
        monkeypatch.delitem(sys.modules, "zeus.monitor", raising=False)
        with pytest.raises(MeterUnavailableError, match=r"cannot be imported: OSError: libfoo\.so: cannot open"):
            open_meter("zeus")


@pytest.fixture
def zeus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Zeus as in a new process: it keeps the boards and processors that it has once found."""
    pytest.importorskip("zeus.monitor")
    found = (
        pytest.importorskip("zeus.device.gpu.nvidia").nvml_is_available,
        pytest.importorskip("zeus.device.cpu.rapl").rapl_is_available,
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("zeus.device.gpu._gpus", None)
    monkeypatch.setattr("zeus.device.cpu._cpus", None)
    for cached in found:
        cached.cache_clear()
    yield
    for cached in found:
        cached.cache_clear()


def fail_after(clock: SimulatedClock, seconds: float) -> None:
    clock.work(seconds)
    raise ZeroDivisionError


def three_boards() -> list[SimulatedBoard]:
    return [SimulatedBoard(uuid=uuid, power=100.0 * 2**number) for number, uuid in enumerate(UUIDS)]


@pytest.mark.usefixtures("zeus")
class TestBoards:
    def test_joules_are_the_counters_and_the_time_is_ours(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard(uuid=UUIDS[0], power=250.0)], clock),
            open_meter("zeus", device="cuda", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(10.0)
        # Both edges fall on the same phase of the counter.
        assert window.joules == pytest.approx(2500.0, rel=1e-6)
        assert window.seconds == pytest.approx(10.0)
        assert window.uncertainty_j is None
        assert "zeus states no uncertainty" in window.warnings
        assert window.valid
        assert not meter.estimated

    def test_the_device_is_waited_for_at_both_edges(self) -> None:
        clock = SimulatedClock()
        pending_s = [0.5]

        def synchronize() -> None:
            while pending_s:
                clock.work(pending_s.pop())

        with (
            install([SimulatedBoard(power=100.0)], clock),
            open_meter("zeus", device="cuda", clock=clock) as meter,
            meter.window(synchronize) as window,
        ):
            pending_s.append(1.0)
        assert window.seconds == pytest.approx(1.0)
        assert window.joules == pytest.approx(100.0, rel=1e-6)

    @pytest.mark.parametrize(
        ("visible", "uuids", "watts"),
        [
            (None, None, {0: 100, 1: 200, 2: 400}),
            (None, [UUIDS[1]], {1: 200}),
            ("2,0", None, {2: 400, 0: 100}),
            ("2,0", [UUIDS[0]], {0: 100}),
            ("1", [UUIDS[1]], {1: 200}),
        ],
    )
    def test_the_boards_are_those_that_the_model_lies_on(
        self, visible: str | None, uuids: list[str] | None, watts: dict[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        clock = SimulatedClock()
        with (
            install(three_boards(), clock),
            open_meter("zeus", device="cuda", gpu_uuids=uuids, clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(1.0)
        assert window.boards_j == {UUIDS[number]: pytest.approx(power_w, rel=1e-6) for number, power_w in watts.items()}
        assert window.joules == pytest.approx(sum(watts.values()), rel=1e-6)

    def test_a_board_that_zeus_does_not_see_is_not_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        with install(three_boards()), pytest.raises(MeterUnavailableError, match=f"does not see {UUIDS[2]}"):
            open_meter("zeus", device="cuda", gpu_uuids=[UUIDS[2]])

    def test_visible_devices_by_uuid_are_translated_for_the_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{UUIDS[2]},{UUIDS[0]}")
        with install(three_boards()), pytest.raises(MeterUnavailableError, match=r"CUDA_VISIBLE_DEVICES=2,0$"):
            open_meter("zeus", device="cuda")

    def test_zero_is_unknown(self) -> None:
        clock = SimulatedClock()
        with (
            install(three_boards(), clock),
            open_meter("zeus", device="cuda", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(0.001)
        assert window.joules is None
        assert window.boards_j == {}
        assert "below the counter's resolution" in str(window.reason)
        assert window.seconds == pytest.approx(0.001)

    def test_a_reset_is_invalid_and_not_negative(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard(resets_s=[1005.0])], clock),
            open_meter("zeus", device="cuda", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(10.0)
        assert window.joules is None
        assert not window.valid
        assert [disturbance.kind for disturbance in window.disturbances] == ["reset"]

    def test_work_that_failed_leaves_no_window_open(self) -> None:
        clock = SimulatedClock()
        with install([SimulatedBoard(power=100.0)], clock), open_meter("zeus", device="cuda", clock=clock) as meter:
            with pytest.raises(ZeroDivisionError), meter.window():
                fail_after(clock, 5.0)
            with meter.window() as window:
                clock.work(1.0)
        assert window.joules == pytest.approx(100.0, rel=1e-6)

    def test_a_lost_board_is_one_clear_failure(self) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(lost_at_s=1001.0)
        with (
            install([board], clock),
            open_meter("zeus", device="cuda", clock=clock) as meter,
            pytest.raises(MeasurementError, match="zeus meter: Zeus cannot read its sensors: ZeusGPULostError"),
            meter.window(),
        ):
            clock.work(2.0)

    @pytest.mark.parametrize(
        ("boards", "reason"),
        [
            ([], "zeus meter: no GPU is visible"),
            ([SimulatedBoard(mig_mode=1)], "zeus meter: .* is divided by MIG"),
            ([SimulatedBoard(architecture=pynvml.NVML_DEVICE_ARCH_PASCAL)], "no energy counter"),
            (
                [SimulatedBoard(errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED})],
                "Zeus cannot read its sensors: ZeusGPUNotSupportedError",
            ),
        ],
    )
    def test_no_sensor_is_said_when_it_is_opened(self, boards: list[SimulatedBoard], reason: str) -> None:
        with install(boards), pytest.raises(MeterUnavailableError, match=reason):
            open_meter("zeus", device="cuda")

    def test_a_library_that_zeus_cannot_use_is_said_when_it_is_opened(self) -> None:
        with (
            install([SimulatedBoard()], missing=["nvmlDeviceGetArchitecture"]),
            pytest.raises(MeterUnavailableError, match=r"Zeus cannot use .*ZeusGPUFunctionNotFoundError"),
        ):
            open_meter("zeus", device="cuda")

    def test_no_driver(self) -> None:
        with (
            install(init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
            pytest.raises(MeterUnavailableError, match=r"^zeus meter: the NVIDIA kernel driver is not loaded"),
        ):
            open_meter("zeus", device="cuda")


def powercap(root: Path) -> Path:
    """A package with memory; returns the folder that Zeus looks into."""
    zones = root / "intel-rapl"
    for place, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0/intel-rapl:0:0", "dram")):
        zone = zones / place
        zone.mkdir(parents=True)
        (zone / "name").write_text(name)
        (zone / "energy_uj").write_text("1000000")
        (zone / "max_energy_range_uj").write_text("262143328850")
    return zones


@pytest.mark.usefixtures("zeus")
class TestProcessor:
    def test_package_and_memory_are_summed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        zones = powercap(tmp_path)
        monkeypatch.setattr("zeus.device.cpu.rapl.RAPL_DIR", str(zones))
        # Zeus watches each counter for a wrap-around from a process of its own, which is Zeus's own matter.
        monkeypatch.setattr("zeus.device.cpu.rapl.RaplWraparoundTracker", NoWraparound)
        clock = SimulatedClock()
        with install([SimulatedBoard()], clock), open_meter("zeus", clock=clock) as meter:
            with meter.window() as window:
                clock.work(2.0)
                (zones / "intel-rapl:0" / "energy_uj").write_text("101000000")
                (zones / "intel-rapl:0" / "intel-rapl:0:0" / "energy_uj").write_text("9000000")
            with meter.window() as still:
                clock.work(2.0)
        assert window.boards_j == {"cpu-0": pytest.approx(100.0), "cpu-0/dram": pytest.approx(8.0)}
        assert window.joules == pytest.approx(108.0)
        assert still.joules is None
        assert "0 J" in str(still.reason)

    def test_no_counter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zeus.device.cpu.rapl.RAPL_DIR", str(tmp_path / "missing"))
        with install(), pytest.raises(MeterUnavailableError, match="Zeus finds no RAPL counter"):
            open_meter("zeus")


class NoWraparound:
    def __init__(self, rapl_file_path: str, max_energy_uj: float) -> None:
        pass

    def get_num_wraparounds(self) -> int:
        return 0
