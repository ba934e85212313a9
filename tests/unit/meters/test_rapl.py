from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters import open_meter
from pytest_llem.meters.rapl import find_domains
from tests.simulators import SimulatedClock
from tests.simulators.powercap import RANGE_UJ, PowercapClock, PowercapTree


@pytest.fixture
def server(tmp_path: Path) -> PowercapTree:
    """Two packages with all the zones that must not be counted twice."""
    tree = PowercapTree(tmp_path)
    for package in (0, 1):
        tree.add(f"intel-rapl:{package}", f"package-{package}")
        tree.add(f"intel-rapl:{package}:0", "core")
        tree.add(f"intel-rapl:{package}:1", "uncore")
        tree.add(f"intel-rapl:{package}:2", "dram")
    tree.add("intel-rapl:2", "psys")
    tree.add("intel-rapl-mmio:0", "package-0")
    return tree


def test_each_joule_is_counted_once(server: PowercapTree) -> None:
    clock = SimulatedClock()
    with (
        open_meter("rapl", clock=clock, powercap_root=server.root) as meter,
        meter.window() as window,
    ):
        clock.work(2.0)
        # All zones move; only packages and their memory may count.
        for path in server.root.iterdir():
            server.set(path.name, 1_000_000 + 1_000_000_000)
        server.set("intel-rapl:0", 1_000_000 + 100_000_000)
        server.set("intel-rapl:1", 1_000_000 + 50_000_000)
        server.set("intel-rapl:0:2", 1_000_000 + 8_000_000)
        server.set("intel-rapl:1:2", 1_000_000 + 4_000_000)
    assert window.boards_j == {
        "package-0": pytest.approx(100.0),
        "package-0/dram": pytest.approx(8.0),
        "package-1": pytest.approx(50.0),
        "package-1/dram": pytest.approx(4.0),
    }
    assert window.joules == pytest.approx(162.0)
    assert window.seconds == pytest.approx(2.0)
    # Updates every millisecond, late at either edge: 1.96 * 81 W * 1 ms / sqrt(3).
    assert window.uncertainty_j == pytest.approx(0.0917, rel=0.01)
    assert not meter.estimated


def test_short_windows_lie_in_their_intervals(server: PowercapTree) -> None:
    """Of a machine that draws next to nothing before the work and after it, so that both edges err in one direction."""
    generator = random.Random(7)  # noqa: S311
    clock = PowercapClock(server, {"intel-rapl:0": 2.0})
    held, windows = 0, 200
    with open_meter("rapl", clock=clock, powercap_root=server.root) as meter:
        for _ in range(windows):
            clock.sleep(generator.uniform(0.0, 0.1))
            with meter.window() as window:
                before_j = clock.energies_j["intel-rapl:0"]
                clock.powers_w = {"intel-rapl:0": generator.uniform(50.0, 300.0)}
                clock.sleep(generator.uniform(0.05, 0.5))
                clock.powers_w = {"intel-rapl:0": 2.0}
            true_j = clock.energies_j["intel-rapl:0"] - before_j
            held += abs((window.joules or 0.0) - true_j) <= (window.uncertainty_j or 0.0)
    assert held >= 0.95 * windows


def test_the_device_is_waited_for_at_both_edges(server: PowercapTree) -> None:
    clock = SimulatedClock()
    queued_uj = [7_000_000]

    def synchronize() -> None:
        if queued_uj:
            clock.work(1.0)
            server.set("intel-rapl:0", 1_000_000 + queued_uj.pop())

    with (
        open_meter("rapl", clock=clock, powercap_root=server.root) as meter,
        meter.window(synchronize) as window,
    ):
        queued_uj.append(9_000_000)
    assert window.joules == pytest.approx(2.0)
    assert window.seconds == pytest.approx(1.0)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "package-0", RANGE_UJ - 3_000_000)
    clock = SimulatedClock()
    with open_meter("rapl", clock=clock, powercap_root=tree.root) as meter, meter.window() as window:
        clock.work(1.0)
        tree.set("intel-rapl:0", 2_000_000)
    assert window.joules == pytest.approx(5.0)


def test_a_counter_that_is_set_back_has_not_wrapped_around(server: PowercapTree) -> None:
    """As where its driver is loaded anew: some 262 kJ in a second otherwise."""
    server.set("intel-rapl:0", 50_000_000)
    clock = SimulatedClock()
    with open_meter("rapl", clock=clock, powercap_root=server.root) as meter, meter.window() as window:
        clock.work(1.0)
        server.set("intel-rapl:0", 0)
    assert window.joules is None
    assert "package-0 cannot have gained" in str(window.reason)


def test_a_window_that_may_wrap_twice_is_unknown(server: PowercapTree) -> None:
    clock = SimulatedClock()
    with open_meter("rapl", clock=clock, powercap_root=server.root) as meter, meter.window() as window:
        clock.work(RANGE_UJ / 1e6 / 1000 + 1)
        server.set("intel-rapl:0", 9_000_000)
    assert window.joules is None
    assert window.boards_j == {}
    assert "more than once" in str(window.reason)


def test_counters_that_stand_still_are_unknown_and_not_zero(server: PowercapTree) -> None:
    with open_meter("rapl", powercap_root=server.root) as meter, meter.window() as window:
        pass
    assert window.joules is None
    assert window.boards_j == {}
    assert "below the counter's resolution" in str(window.reason)


def test_zones_that_lie_in_one_another_are_found_where_no_others_are(server: PowercapTree) -> None:
    """As where a container is shown the folder of the devices."""
    names = [domain.name for domain in find_domains(server.devices)]
    assert names == [domain.name for domain in find_domains(server.root)]
    assert "package-1/dram" in names


def test_the_variable_names_the_folder(server: PowercapTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_LLEM_POWERCAP", str(server.root))
    assert find_domains() == find_domains(server.root)


def test_psys_stands_in_where_there_is_no_package(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "psys")
    assert [domain.name for domain in find_domains(tree.root)] == ["psys"]


def test_a_processor_without_rapl_is_told(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailableError, match=r"no RAPL domain.*intel_rapl_msr"):
        open_meter("rapl", powercap_root=tmp_path)


def test_a_counter_that_goes_away_is_a_failure(server: PowercapTree) -> None:
    with (
        open_meter("rapl", powercap_root=server.root) as meter,
        pytest.raises(MeasurementError, match="RAPL counter could not be read"),
        meter.window(),
    ):
        (server.root / "intel-rapl:1" / "energy_uj").unlink()


class CountingClock(SimulatedClock):
    """Lets a package draw power while it sleeps: 90 W that fall to 30 W."""

    def __init__(self, tree: PowercapTree) -> None:
        super().__init__()
        self._tree = tree
        self._total_uj = 5e6

    def sleep(self, seconds: float) -> None:
        elapsed_s = self.now_s() - 1000.0
        self._total_uj += 1e6 * seconds * (30.0 + 60.0 * math.exp(-elapsed_s / 0.5))
        super().sleep(seconds)
        self._tree.set("intel-rapl:0", round(self._total_uj))


def test_idle_power_waits_until_the_processor_has_settled(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "package-0", 5_000_000)
    clock = CountingClock(tree)
    with open_meter("rapl", clock=clock, powercap_root=tree.root) as meter:
        assert "not settled" in str(meter.idle_power(limit_s=0.1).reason)
        idle = meter.idle_power()
    assert idle.settled
    assert idle.power_w == pytest.approx(30.0, abs=1.0)
    assert idle.uncertainty_w is not None
    assert 0 < idle.uncertainty_w < 2.0


def test_idle_power_of_counters_that_stand_still_is_unknown(server: PowercapTree) -> None:
    with open_meter("rapl", clock=SimulatedClock(), powercap_root=server.root) as meter:
        idle = meter.idle_power()
    assert idle.power_w is None
    assert "no RAPL counter changed" in str(idle.reason)


class TestPermission:
    @pytest.fixture
    def locked(self, server: PowercapTree, monkeypatch: pytest.MonkeyPatch) -> PowercapTree:
        locked = server.root / "intel-rapl:0" / "energy_uj"
        locked.chmod(0)
        if os.access(locked, os.R_OK):
            # A superuser reads whatever the mode says: refuse what the kernel would.
            read_text = Path.read_text

            def refuse(path: Path, *arguments: str) -> str:
                if path == locked:
                    raise PermissionError(13, "Permission denied", str(path))
                return read_text(path, *arguments)

            monkeypatch.setattr(Path, "read_text", refuse)
        return server

    def test_the_file_and_the_mend_are_named(self, locked: PowercapTree) -> None:
        with pytest.raises(MeterUnavailableError, match="no permission") as caught:
            open_meter("rapl", powercap_root=locked.root)
        text = str(caught.value)
        assert f"chmod a+r {locked.root / 'intel-rapl:0' / 'energy_uj'}" in text
        assert "CAP_DAC_READ_SEARCH" in text
        assert "\n" not in text

    def test_auto_then_estimates_and_says_so(self, locked: PowercapTree) -> None:
        with open_meter("auto", powercap_root=locked.root) as meter:
            assert meter.name == "estimate"
            assert meter.estimated
