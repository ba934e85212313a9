"""Sensors under ``/sys/class/hwmon``: which of them are the host's, and mean power as energy."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters import open_meter
from pytest_llem.meters.base import HostReading, MeterRequest, SystemClock, Window
from pytest_llem.meters.host import hwmon, open_sensor
from pytest_llem.meters.host.power import PowerHost
from pytest_llem.meters.smeared import integrate_smeared
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Chips of a graphics card and a disk, which are not the host."""
    monkeypatch.setattr(hwmon, "HWMON_ROOT", tmp_path)
    chip(tmp_path, 0, name="amdgpu", power1_average=90_000_000, power1_average_interval=10)
    chip(tmp_path, 1, name="nvme", energy1_input=5, energy1_label="Esocket0")
    return tmp_path


def chip(root: Path, number: int, **files: object) -> Path:
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_other_chips_are_never_taken_for_the_host(root: Path) -> None:
    with pytest.raises(MeterUnavailableError, match=r"^--llem-host hwmon: no chip .* there is amdgpu, nvme$"):
        open_sensor("hwmon", MeterRequest())


def test_sockets_are_counted_without_their_cores(root: Path) -> None:
    chip(root, 2, name="power_meter", power1_average=400_000_000, power1_average_interval=1000)
    labels = {"energy1": "Ecore000", "energy2": "Ecore001", "energy3": "Esocket0", "energy4": "Esocket1"}
    folder = chip(root, 3, name="amd_energy", **{f"{name}_label": label for name, label in labels.items()})
    for name in labels:
        (folder / f"{name}_input").write_text("1000000")
    clock = SimulatedClock()
    sensor = open_sensor("hwmon", MeterRequest(clock=clock))
    assert (sensor.name, sensor.covers) == ("hwmon:amd_energy", "host")
    begun, start_s = sensor.begin(), clock.now_s()
    clock.work(1.0)
    for name in labels:
        (folder / f"{name}_input").write_text("4000000")
    joules, _ = sensor.end(begun, start_s, clock.now_s())
    assert joules == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"power1_average": 400_000_000}, "cannot be read: .*power1_average_interval"),
        ({"power1_average": 400_000_000, "power1_average_interval": 0}, "does not say over how long"),
        ({"power1_average": "", "power1_average_interval": 1000}, "cannot be read: invalid literal"),
    ],
)
def test_a_power_meter_that_cannot_tell_is_refused(root: Path, files: dict[str, object], message: str) -> None:
    chip(root, 2, name="power_meter", **files)
    with pytest.raises(MeterUnavailableError, match=message):
        open_sensor("hwmon", MeterRequest())


class TestPowerMeter:
    @pytest.fixture
    def power(self, root: Path) -> Path:
        return chip(root, 2, name="power_meter", power1_average=300_000_000, power1_average_interval=20)

    def test_it_samples_the_machine_while_the_work_runs_and_then_no_more(self, power: Path) -> None:
        sensor, clock = open_sensor("hwmon", MeterRequest()), SystemClock()
        assert (sensor.name, sensor.covers) == ("hwmon:power_meter", "machine")
        begun, start_s = sensor.begin(), clock.now_s()
        (power / "power1_average").write_text("500000000\n")
        time.sleep(0.3)
        end_s = clock.now_s()
        joules, uncertainty_j = sensor.end(begun, start_s, end_s)
        assert joules == pytest.approx(500.0 * (end_s - start_s), rel=0.15)
        assert 0.0 < uncertainty_j < joules
        assert "llem host power" not in {thread.name for thread in threading.enumerate()}

    def test_a_window_too_short_for_its_average_is_unknown(self, power: Path) -> None:
        sensor = PowerHost("hwmon:power_meter", power / "power1_average", 1.0, SystemClock())
        now_s = SystemClock().now_s()
        sensor.begin()
        with pytest.raises(MeasurementError, match=r"0\.5 s is too short .* mean power of 1 s: measure one of 4 s"):
            sensor.end(None, now_s, now_s + 0.5)

    def test_one_that_fails_meanwhile_says_so(self, power: Path) -> None:
        sensor = open_sensor("hwmon", MeterRequest())
        begun, start_s = sensor.begin(), SystemClock().now_s()
        (power / "power1_average").unlink()
        with pytest.raises(FileNotFoundError):
            sensor.end(begun, start_s, start_s + 1.0)
        sensor.close()


def test_mean_powers_hold_the_energy_of_a_step() -> None:
    """A second's mean, kept by the driver for up to as long, of work that begins and ends at any phase."""
    generator = random.Random(2)  # noqa: S311
    held, windows = 0, 400
    for _ in range(windows):
        seconds, idle_w, work_w = (
            generator.uniform(4.0, 30.0),
            generator.uniform(100, 400),
            generator.uniform(100, 1500),
        )
        kept_s = generator.uniform(0.0, 1.0)
        powers_w = []
        times_s = [0.0, *(1.0 * k for k in range(1, int(seconds) + 1)), seconds + 0.001]
        for time_s in times_s:
            # The driver's own lattice, up to a second old.
            at_s = time_s - (time_s + kept_s) % 1.0
            worked_s = max(min(at_s, seconds), 0.0) - max(min(at_s - 1.0, seconds), 0.0)
            powers_w.append(idle_w + work_w * worked_s + generator.gauss(0.0, 5.0))
        found = integrate_smeared(times_s, powers_w, 0.0, seconds, 2.0)
        assert found is not None
        held += abs(found.joules - (idle_w + work_w) * seconds) <= found.uncertainty_j
    assert held >= 0.95 * windows


def test_work_that_fails_leaves_nothing_sampling(root: Path) -> None:
    chip(root, 2, name="power_meter", power1_average=300_000_000, power1_average_interval=1000)
    clock = SimulatedClock()
    with install([SimulatedBoard()], clock), open_meter("nvml", clock=clock, host="hwmon") as meter:
        with pytest.raises(KeyError), meter.window():
            raise KeyError
        assert "llem host power" not in {thread.name for thread in threading.enumerate()}


class TestWholeMachine:
    def window(self, boards_j: float | None, machine_j: float) -> Window:
        reading = HostReading("hwmon:power_meter", "machine", machine_j, 30.0)
        return Window(joules=boards_j, uncertainty_j=None if boards_j is None else 4.0, host=reading)

    def test_the_host_is_what_the_boards_leave(self) -> None:
        window = self.window(400.0, 1000.0)
        assert (window.host_joules, window.total_joules) == (600.0, 1000.0)
        assert window.host_uncertainty_j == pytest.approx((30.0**2 + 4.0**2) ** 0.5)
        assert window.total_uncertainty_j == 30.0

    @pytest.mark.parametrize(
        ("boards_j", "reason"), [(None, "what its boards used is not known"), (1000.0, "shows no more than its boards")]
    )
    def test_without_the_boards_it_says_nothing(self, boards_j: float | None, reason: str) -> None:
        window = self.window(boards_j, 1000.0)
        assert (
            window.host_joules is window.host_uncertainty_j is window.total_joules is window.total_uncertainty_j is None
        )
        assert reason in (window.host_reason or "")
