"""The host in the windows of a simulated board: joules, intervals, and what goes wrong."""

from __future__ import annotations

import random
import re
import statistics
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import open_meter
from pytest_llem.meters.rapl import Domain
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install, noisy_board
from tests.simulators.powercap import PowercapClock, PowercapTree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_llem.meters import Window

PACKAGE, DRAM = "intel-rapl:0", "intel-rapl:0:0"
IDLE_W = {PACKAGE: 40.0, DRAM: 8.0}


def work(
    clock: PowercapClock, board: SimulatedBoard, seconds: float, host_w: float, board_w: float
) -> tuple[float, float]:
    """Work that loads both, from and to idle; true joules of the board and of the host between its edges."""
    start_s, before_j = clock.now_s(), sum(clock.energies_j.values())
    clock.powers_w = {PACKAGE: host_w, DRAM: host_w / 5.0}
    board.run(clock, seconds, board_w)
    host_j = sum(clock.energies_j.values()) - before_j
    clock.powers_w = dict(IDLE_W)
    return board.window_energy_j(start_s, clock.now_s()), host_j


def test_parts_and_total_lie_in_their_intervals(server: PowercapTree) -> None:
    """Of short and long windows from idle to work and back, where an update's edge tells the most."""
    generator = random.Random(5)  # noqa: S311
    clock, board = PowercapClock(server, IDLE_W), noisy_board(seed=3)
    held = {"boards": 0, "host": 0, "total": 0}
    windows = 300
    with install([board], clock), open_meter("nvml", clock=clock, powercap_root=server.root) as meter:
        for _ in range(windows):
            clock.sleep(generator.uniform(0.0, 0.2))
            seconds = 10.0 ** generator.uniform(-1.3, 0.3)
            with meter.window() as window:
                board_j, host_j = work(
                    clock, board, seconds, generator.uniform(50.0, 400.0), generator.uniform(150, 600)
                )
            assert window.joules is not None
            assert window.host_joules is not None
            assert window.total_joules is not None
            assert window.total_joules == pytest.approx(window.joules + window.host_joules)
            assert window.host_reason is None
            held["boards"] += abs(window.joules - board_j) <= (window.uncertainty_j or 0.0)
            held["host"] += abs(window.host_joules - host_j) <= (window.host_uncertainty_j or 0.0)
            held["total"] += abs(window.total_joules - board_j - host_j) <= (window.total_uncertainty_j or 0.0)
    assert min(held.values()) >= 0.95 * windows, held
    # An interval that holds everything would be no use: this one is little more than an update's energy.
    assert window.host_joules is not None
    assert window.host_uncertainty_j is not None
    assert window.host_uncertainty_j < 0.0013 * window.host_joules / window.seconds


def test_joined_windows_are_read_at_their_own_edges(server: PowercapTree) -> None:
    clock, board = PowercapClock(server, IDLE_W), SimulatedBoard()
    true_j = []
    with install([board], clock), open_meter("nvml", clock=clock, powercap_root=server.root) as meter:
        meter.idle_power()
        with meter.joined_windows() as joined:
            for number in range(4):
                with joined.window():
                    true_j.append(work(clock, board, 0.3, 100.0 + 50.0 * number, 300.0)[1])
                clock.sleep(0.01)
    for window, host_j in zip(joined.windows, true_j, strict=True):
        assert window.host_joules == pytest.approx(host_j, abs=window.host_uncertainty_j)
    assert joined.total.host_joules == pytest.approx(sum(true_j), abs=joined.total.host_uncertainty_j)
    assert joined.total.total_joules == pytest.approx((joined.total.joules or 0.0) + (joined.total.host_joules or 0.0))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[PowercapClock], None]:
    """Let each counter take up to 20 ms of a clock."""
    generator, read = random.Random(1), Domain.read_uj  # noqa: S311

    def slow_down(clock: PowercapClock) -> None:
        def read_slowly(domain: Domain) -> int:
            clock.work(generator.uniform(0.0, 0.01))
            value = read(domain)
            clock.work(generator.uniform(0.0, 0.01))
            return value

        monkeypatch.setattr(Domain, "read_uj", read_slowly)

    return slow_down


def test_what_reads_take_is_in_the_interval(server: PowercapTree, slow: Callable[[PowercapClock], None]) -> None:
    clock, board = PowercapClock(server, IDLE_W), SimulatedBoard()
    slow(clock)
    held, windows = 0, 60
    with install([board], clock), open_meter("nvml", clock=clock, powercap_root=server.root) as meter:
        for _ in range(windows):
            with meter.window() as window:
                _, host_j = work(clock, board, 0.5, 150.0, 300.0)
            assert window.host_joules is not None
            assert window.host_uncertainty_j is not None
            held += abs(window.host_joules - host_j) <= window.host_uncertainty_j
            # Twenty milliseconds at either edge, of 180 W.
            assert 1.0 < window.host_uncertainty_j < 20.0
    assert held >= 0.95 * windows


def test_what_reads_take_is_in_neither_time_nor_joules(
    server: PowercapTree, slow: Callable[[PowercapClock], None]
) -> None:
    """Of steady power there is nothing to guess: what the reads add is taken off again."""
    clock, board = PowercapClock(server, IDLE_W), SimulatedBoard()
    slow(clock)
    with install([board], clock), open_meter("nvml", clock=clock, powercap_root=server.root) as meter:
        with meter.window() as settled:
            board.run(clock, 2.0, 300.0)
        with meter.joined_windows() as stretch:
            for _ in range(10):
                with stretch.window():
                    board.run(clock, 2.0, 300.0)
    windows = [settled, *stretch.windows]
    assert [window.seconds for window in windows] == pytest.approx([2.0] * 11)
    assert statistics.fmean(window.host_joules or 0.0 for window in windows) == pytest.approx(96.0, abs=0.4)


def one_window(tree: PowercapTree, trouble: str = "") -> Window:
    """A window in which a counter goes away, or none changes."""
    clock = SimulatedClock() if trouble == "still" else PowercapClock(tree, IDLE_W)
    board = SimulatedBoard()
    with install([board], clock), open_meter("nvml", clock=clock, powercap_root=tree.root) as meter:
        if trouble == "before":
            (tree.root / PACKAGE / "energy_uj").unlink()
            assert isinstance(clock, PowercapClock)
            clock.powers_w = {DRAM: 8.0}
        with meter.window() as window:
            board.run(clock, 1.0, 300.0)
            if trouble == "vanished":
                (tree.root / DRAM).unlink()
                assert isinstance(clock, PowercapClock)
                clock.powers_w = {}
            if trouble == "torn":
                (tree.root / DRAM / "energy_uj").write_text("")
                assert isinstance(clock, PowercapClock)
                clock.powers_w = {}
    return window


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("before", "could not be read while it was measured: .*energy_uj"),
        ("vanished", f"could not be read while it was measured: .*{DRAM}"),
        ("torn", "could not be read while it was measured"),
        ("still", "below the counter's resolution"),
    ],
)
def test_a_counter_that_fails_costs_the_host_and_not_the_boards(
    server: PowercapTree, trouble: str, reason: str
) -> None:
    window = one_window(server, trouble)
    assert window.joules == pytest.approx(300.0, rel=0.02)
    assert window.valid
    assert window.host_joules is window.host_uncertainty_j is window.total_joules is window.total_uncertainty_j is None
    assert re.search(reason, window.host_reason or "")


def window_of(root: Path, host: str = "auto") -> Window:
    clock = SimulatedClock()
    with (
        install([SimulatedBoard(power=LoadedPower(100.0))], clock),
        open_meter("nvml", clock=clock, powercap_root=root, host=host) as meter,
        meter.window() as window,
    ):
        clock.work(1.0)
    return window


def test_a_machine_without_counters_says_why_in_each_window(tmp_path: Path) -> None:
    window = window_of(tmp_path)
    assert window.host_joules is None
    assert "no RAPL domain" in (window.host_reason or "")
    window = window_of(tmp_path, host="none")
    assert window.host is None
    assert window.host_reason is None


def test_a_sensor_that_is_named_must_work(tmp_path: Path) -> None:
    with (
        install([SimulatedBoard()], SimulatedClock()),
        pytest.raises(MeterUnavailableError, match=r"^--llem-host rapl: no RAPL domain under"),
    ):
        open_meter("nvml", powercap_root=tmp_path, host="rapl")


def test_psys_alone_may_hold_the_boards(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path)
    tree.add("intel-rapl:0", "psys")
    assert "psys alone" in (window_of(tree.root).host_reason or "")
