"""Before the first window, and after one that was too hot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters import Disturbance, open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, SimulatedProcess, ideal_board, install

if TYPE_CHECKING:
    from collections.abc import Callable

THERMAL, POWER_CAP = 0x20, 0x04


def quiet(*boards: SimulatedBoard) -> tuple[list[Disturbance], float]:
    """What would disturb a measurement, and how long it took to know."""
    clock = SimulatedClock()
    with install(boards, clock), open_meter("nvml", device="cuda", clock=clock) as meter:
        found = meter.check_quiet()
    return found, clock.now_s() - 1000.0


def cooled(*boards: SimulatedBoard, limit_s: float = 60.0) -> tuple[bool, float]:
    clock = SimulatedClock()
    with install(boards, clock), open_meter("nvml", device="cuda", clock=clock) as meter:
        return meter.cool_down(limit_s), clock.now_s() - 1000.0


class TestQuiet:
    def test_a_board_at_rest_takes_half_a_second(self) -> None:
        found, took_s = quiet(ideal_board(utilization_percent=2, processes=[SimulatedProcess(os.getpid())]))
        assert found == []
        assert took_s <= 0.5

    def test_what_we_ran_just_before_is_forgotten(self) -> None:
        found, took_s = quiet(ideal_board(utilization_percent=lambda now_s: 90 if now_s < 1001.0 else 0))
        assert found == []
        assert took_s == pytest.approx(1.5, abs=0.3)

    def test_a_board_that_stays_busy_is_named_with_its_utilisation(self) -> None:
        found, took_s = quiet(ideal_board(uuid="GPU-a"), ideal_board(uuid="GPU-b", utilization_percent=37))
        (busy,) = found
        assert busy.kind == "busy"
        assert busy.text.startswith("GPU-b ")
        assert "37%" in busy.text
        assert took_s <= 4.0

    def test_a_board_that_works_now_and_then_is_busy(self) -> None:
        board = ideal_board(utilization_percent=lambda now_s: 80 if now_s % 0.5 < 0.25 else 0)
        assert [one.kind for one in quiet(board)[0]] == ["busy"]

    def test_a_foreign_process_is_named(self) -> None:
        (foreign,) = quiet(ideal_board(processes=[SimulatedProcess(4711, "train.py")]))[0]
        assert foreign.kind == "foreign_process"
        assert "PID 4711 (train.py)" in foreign.text

    def test_a_board_that_does_not_tell_is_not_accused(self) -> None:
        assert quiet(ideal_board(utilization_percent=None))[0] == []


class TestFoundQuietBefore:
    """A board that draws what it drew when it was found idle is not asked for its utilisation again."""

    def rig(self, utilization: Callable[[float], int]) -> tuple[SimulatedClock, LoadedPower, SimulatedBoard]:
        power = LoadedPower(80.0)
        return SimulatedClock(), power, SimulatedBoard(power=power, utilization_percent=utilization)

    def test_idle_power_is_kept_fresh(self) -> None:
        clock, power, board = self.rig(lambda _: 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            meter.check_quiet()
            meter.idle_power()
            for idle_w in (82.0, 84.0, 95.0, 120.0, 70.0):
                # Another model leaves the board at another level.
                power.idle_w = idle_w
                power.end_work(clock.now_s())
                clock.sleep(1.0)
                assert meter.check_quiet() == []
                seen = meter.idle_power_seen()
                assert seen is not None
                assert seen.power_w == pytest.approx(idle_w, abs=1.0)

    def test_after_a_window_no_time_is_lost(self) -> None:
        clock, _, board = self.rig(lambda _: 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            with meter.window():
                board.run(clock, 1.0, 300.0)
            before_s = clock.now_s()
            assert meter.check_quiet() == []
            assert clock.now_s() - before_s < 0.2

    def test_one_that_draws_more_is_asked(self) -> None:
        clock, power, board = self.rig(lambda now_s: 60 if now_s > 1010.0 else 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            clock.sleep(1010.5 - clock.now_s())
            power.start_work(clock.now_s(), 120.0)
            clock.sleep(1.0)
            assert [one.kind for one in meter.check_quiet()] == ["busy"]

    def test_bursts_between_looks_are_seen(self) -> None:
        """As long as the board has rested since the last window, each tenth of a second counts."""
        clock, power, board = self.rig(lambda now_s: 60 if now_s > 1002.0 else 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            clock.sleep(2.0)
            power.start_work(clock.now_s(), 180.0)
            clock.sleep(0.2)
            power.end_work(clock.now_s())
            clock.sleep(0.4)
            assert [one.kind for one in meter.check_quiet()] == ["busy"]

    def test_after_a_minute_power_alone_no_longer_tells(self) -> None:
        clock, _, board = self.rig(lambda now_s: 60 if now_s > 1030.0 else 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            clock.sleep(40.0)
            assert meter.check_quiet() == []
            clock.sleep(30.0)
            assert [one.kind for one in meter.check_quiet()] == ["busy"]

    def test_one_that_was_busy_is_asked_again(self) -> None:
        clock, _, board = self.rig(lambda now_s: 60 if now_s < 1010.0 else 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert [one.kind for one in meter.check_quiet()] == ["busy"]
            before_s = clock.now_s()
            assert [one.kind for one in meter.check_quiet()] == ["busy"]
            assert clock.now_s() - before_s > 2.0

    def test_processes_of_others_are_seen_all_the_same(self) -> None:
        clock, _, board = self.rig(lambda _: 0)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            board.processes = [SimulatedProcess(pid=4_000_001), SimulatedProcess(pid=4_000_002)]
            assert {one.kind for one in meter.check_quiet()} == {"foreign_process"}


def _falling(to_c: int, seconds: float) -> Callable[[float], int]:
    return lambda now_s: max(to_c, round(95 - (now_s - 1000.0) * (95 - to_c) / seconds))


class TestCoolDown:
    def test_a_cool_board_is_not_waited_for(self) -> None:
        assert cooled(ideal_board(temperature_c=50, clocks_event_reasons=POWER_CAP)) == (True, 0.0)

    def test_throttling_is_waited_for_until_it_ends(self) -> None:
        board = ideal_board(
            clocks_event_reasons=lambda now_s: THERMAL if now_s < 1007.0 else 0, slowdown_temperature_c=90
        )
        done, took_s = cooled(ideal_board(uuid="GPU-0"), board)
        assert done
        assert took_s == pytest.approx(7.0, abs=0.6)

    def test_a_hot_board_is_waited_for_until_it_is_well_below_its_slowdown(self) -> None:
        done, took_s = cooled(ideal_board(temperature_c=_falling(45, 50.0), slowdown_temperature_c=90))
        assert done
        assert took_s == pytest.approx(15.0, abs=0.6)

    def test_or_until_it_cools_no_further(self) -> None:
        done, took_s = cooled(ideal_board(temperature_c=_falling(85, 10.0), slowdown_temperature_c=None))
        assert done
        assert took_s == pytest.approx(13.0, abs=1.1)

    def test_the_limit_ends_it(self) -> None:
        board = ideal_board(clocks_event_reasons=THERMAL)
        done, took_s = cooled(board, limit_s=20.0)
        assert not done
        assert took_s == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("name", ["none", "estimate"])
def test_meters_that_see_no_device_have_nothing_to_say(name: str) -> None:
    with open_meter(name, clock=SimulatedClock()) as meter:
        assert meter.check_quiet() == []
        assert meter.cool_down(1.0)
        idle = meter.idle_power()
    assert idle.power_w is None
    assert idle.reason
