"""Windows: warm up, size, run, repeat; in simulated time."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.measurement.account import Account
from pytest_llem.measurement.windows import Protocol, measure_windows, undisturbed
from pytest_llem.meters import open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters import Meter


@dataclass
class Work:
    """Passes that take ``seconds[i]`` each, the last one for ever."""

    clock: SimulatedClock
    seconds: list[float]
    log: list[str] = field(default_factory=list)

    def __call__(self) -> str:
        done = self.log.count("pass")
        self.log.append("pass")
        self.clock.sleep(self.seconds[min(done, len(self.seconds) - 1)])
        return f"output {done}"

    def synchronize(self) -> None:
        self.log.append("synchronize")


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def meter(clock: SimulatedClock) -> Meter:
    return open_meter("none", clock=clock)


def test_windows_hold_whole_passes_that_fill_the_least_window(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [0.3])
    measured = measure_windows([work], Protocol(rounds=3, warmup_rounds=2, min_window_s=1.0), meter, work.synchronize)
    assert measured.passes == 4
    assert [window.seconds for window in measured.windows] == pytest.approx([1.2] * 3)
    assert [len(outputs) for outputs in measured.outputs] == [4, 4, 4]
    assert [call.end_s for call in measured.timed_calls[2]] == pytest.approx([0.3, 0.6, 0.9, 1.2])
    assert work.log[-6:] == ["synchronize", *["pass"] * 4, "synchronize"]
    assert measured.warnings == []


def test_a_slow_first_pass_does_not_size_the_windows(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [5.0, 0.1])
    measured = measure_windows([work], Protocol(rounds=1, warmup_rounds=1, min_window_s=1.0), meter)
    assert measured.windows[0].seconds >= 1.0
    assert measured.passes <= 11


def test_no_least_window_is_one_pass_and_no_calibration(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [0.1])
    measured = measure_windows([work], Protocol(rounds=2, warmup_rounds=1, min_window_s=0), meter)
    assert measured.passes == 1
    assert work.log.count("pass") == 3


def test_the_collector_and_tracers_stay_out_and_come_back(clock: SimulatedClock, meter: Meter) -> None:
    seen: list[tuple[bool, Any, Any]] = []

    def look() -> None:
        seen.append((gc.isenabled(), sys.gettrace(), sys.getprofile()))
        clock.sleep(0.1)

    def tracer(*_: Any) -> None:
        return None

    before = sys.gettrace(), sys.getprofile()
    try:
        sys.setprofile(tracer)
        measure_windows([look], Protocol(rounds=2, warmup_rounds=1, min_window_s=0), meter)
        restored = sys.getprofile()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    assert seen == [(False, None, None)] * 3
    assert restored is tracer
    assert gc.isenabled()


def test_undisturbed_puts_back_what_it_took_out_after_an_error() -> None:
    with pytest.raises(KeyError), undisturbed():
        raise KeyError
    assert gc.isenabled()


def test_windows_are_sized_again_where_passes_became_faster_meanwhile(clock: SimulatedClock, meter: Meter) -> None:
    """Some work is compiled once more after some passes: what was sized by slow ones would be far too short."""
    work = Work(clock, [0.5] * 3 + [0.05])
    measured = measure_windows([work], Protocol(rounds=2, warmup_rounds=0, min_window_s=1.0), meter)
    assert all(window.seconds >= 1.0 for window in measured.windows)
    assert measured.warnings == []


def test_passes_run_until_a_trend_can_no_longer_be_told(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [0.05 + 0.1 * 0.7**n for n in range(40)])
    measured = measure_windows([work], Protocol(rounds=5, warmup_rounds=1, min_window_s=1.0), meter)
    assert measured.windows[0].seconds == pytest.approx(measured.windows[-1].seconds, rel=0.01)
    assert measured.warnings == []


def test_work_that_never_gets_steady_is_measured_and_said(clock: SimulatedClock, meter: Meter) -> None:
    """Looking for the end of a trend takes no longer than the rounds will."""
    work = Work(clock, [0.05 * 1.02**n for n in range(400)])
    measured = measure_windows([work], Protocol(rounds=3, warmup_rounds=0, min_window_s=1.0), meter)
    assert len(measured.windows) == 3
    assert [warning.split(":")[0] for warning in measured.warnings] == ["not steady"]
    before_s = measured.starts_s[0] - 1000.0
    assert before_s < 3.0 + 0.2


def test_dear_passes_are_not_run_to_see_whether_they_are_steady(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [30.0])
    measure_windows([work], Protocol(rounds=3, warmup_rounds=1, min_window_s=1.0), meter)
    assert work.log.count("pass") == 2 + 3


THERMAL = 0x40  # hardware thermal slowdown
POWER_CAP = 0x4


def throttling_board(reasons: Any, clock: SimulatedClock) -> SimulatedBoard:
    return SimulatedBoard(power=LoadedPower(idle_w=60), clocks_event_reasons=reasons)


def run_on(
    board: SimulatedBoard,
    clock: SimulatedClock,
    account: Account | None = None,
    after_run: Callable[[], None] = lambda: None,
) -> Any:
    def run() -> None:
        board.run(clock, 1.0, 300.0)
        after_run()

    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        return measure_windows([run], Protocol(rounds=4, warmup_rounds=1, min_window_s=0), meter, account=account)


def test_throttled_windows_are_run_again(clock: SimulatedClock) -> None:
    ended_s: list[float] = []

    def reasons(now_s: float) -> int:
        # From the end of the second window on, until the board has cooled down.
        return THERMAL if len(ended_s) == 3 and now_s < ended_s[2] + 5.0 else 0

    account = Account(clock.now_s)
    measured = run_on(throttling_board(reasons, clock), clock, account, lambda: ended_s.append(clock.now_s()))
    assert len(measured.windows) == 4
    assert len(ended_s) == 1 + 4 + 1
    assert [warning.partition(":")[0] for warning in measured.warnings] == ["a window was thrown away and run again"]
    assert account.spent_s()["measured"] == pytest.approx(4.0, abs=0.01)
    assert account.spent_s()["warm-up"] == pytest.approx(1.0, abs=0.01)
    if any(window.disturbances for window in measured.windows):
        pytest.fail("a throttled window was kept although the board cooled down")


def test_a_board_that_stays_throttled_gives_an_invalid_result(clock: SimulatedClock) -> None:
    measured = run_on(throttling_board(THERMAL, clock), clock)
    assert len(measured.windows) == 4
    assert all(not window.valid for window in measured.windows)
    assert any("thrown away" in warning for warning in measured.warnings)


def test_a_power_cap_is_a_label(clock: SimulatedClock) -> None:
    measured = run_on(throttling_board(POWER_CAP, clock), clock)
    assert all(window.valid for window in measured.windows)
    assert any(window.labels for window in measured.windows)
    assert measured.warnings == []


def test_a_foreign_process_is_not_run_again_but_kept_and_invalid(clock: SimulatedClock) -> None:
    from tests.simulators import SimulatedProcess

    board = SimulatedBoard(
        power=LoadedPower(idle_w=60), processes=[SimulatedProcess(pid=4_000_001), SimulatedProcess(pid=4_000_002)]
    )
    measured = run_on(board, clock)
    assert len(measured.windows) == 4
    assert all(not window.valid for window in measured.windows)
    assert "4000001" in " ".join(measured.windows[0].warnings)
    assert measured.warnings == []


def test_rounds_begin_at_random_phases_of_the_sensor(clock: SimulatedClock) -> None:
    """Where edges are not aligned, equal windows back to back would all meet the same phase."""
    board = SimulatedBoard(power=LoadedPower(idle_w=60), period_s=0.1)
    starts: list[float] = []

    def run() -> None:
        starts.append(clock.now_s() % 0.1)
        board.run(clock, 1.0, 300.0)

    with install([board], clock), open_meter("nvml", clock=clock, aligned=False) as meter:
        measure_windows([run], Protocol(rounds=12, warmup_rounds=0, min_window_s=0), meter)
    assert max(starts) - min(starts) > 0.03


def test_after_each_call_the_meter_may_fetch_what_its_driver_would_forget(
    clock: SimulatedClock, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(clock, [0.1])
    monkeypatch.setattr(meter, "between_calls", lambda: work.log.append("between"))
    measure_windows([work], Protocol(rounds=1, warmup_rounds=0, min_window_s=0.25), meter, work.synchronize)
    assert work.log[-8:] == ["synchronize", *["pass", "between"] * 3, "synchronize"]


@pytest.mark.parametrize(("pass_s", "timed"), [(0.3, 2), (0.01, 4)])
def test_tokens_are_timed_as_often_as_that_is_cheap(
    clock: SimulatedClock, meter: Meter, pass_s: float, timed: int
) -> None:
    times: list[float] = []

    def timed_pass() -> None:
        clock.sleep(pass_s)
        times.append(clock.now_s())

    measure_windows([Work(clock, [pass_s])], Protocol(10, 3, 1.0), meter, timed_pass=timed_pass)
    assert len(times) == timed


def test_calls_of_a_pass_run_in_order_and_are_told_apart(clock: SimulatedClock, meter: Meter) -> None:
    def call(name: str, seconds: float) -> Any:
        def run() -> str:
            clock.sleep(seconds)
            return name

        return run

    measured = measure_windows([call("a", 0.1), call("b", 0.3)], Protocol(2, 1, 0.7), meter)
    assert measured.outputs[1] == [["a", "b"], ["a", "b"]]
    assert [call.index for call in measured.timed_calls[1]] == [0, 1, 0, 1]
    assert [call.start_s for call in measured.timed_calls[1]] == pytest.approx([0.0, 0.1, 0.4, 0.5])


def test_passes_that_time_tokens_run_before_the_rounds_and_never_in_them(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [0.1])

    def timed_pass() -> None:
        work.log.append("timed")
        clock.sleep(0.3)

    def before_rounds() -> None:
        work.log.append("rounds")

    measured = measure_windows([work], Protocol(3, 2, 1.0), meter, timed_pass=timed_pass, before_rounds=before_rounds)
    assert "timed" in work.log[: work.log.index("rounds")]
    assert "timed" not in work.log[work.log.index("rounds") :]
    assert [window.seconds for window in measured.windows] == pytest.approx([1.1] * 3)


class TestRoundsThatPrecisionDecides:
    def test_three_do_where_they_agree(self, clock: SimulatedClock, meter: Meter) -> None:
        measured = measure_windows([Work(clock, [0.1])], Protocol(None, 1, 1.0), meter)
        assert len(measured.windows) == 3
        assert measured.sequential

    def test_noise_needs_more(self, clock: SimulatedClock, meter: Meter) -> None:
        work = Work(clock, [1.0 + 0.02 * (-1) ** n for n in range(400)])
        measured = measure_windows([work], Protocol(None, 1, 0.0), meter)
        assert 10 < len(measured.windows) < 60
        assert measured.warnings == []

    def test_the_budget_ends_them_and_the_reached_precision_is_said(self, clock: SimulatedClock, meter: Meter) -> None:
        work = Work(clock, [1.0 + 0.2 * (-1) ** n for n in range(400)])
        measured = measure_windows([work], Protocol(None, 1, 0.0, budget_s=20.0), meter)
        assert len(measured.windows) in (20, 21)
        assert "20 rounds have taken budget_s" in measured.warnings[0] or "21 rounds" in measured.warnings[0]


class TestJoined:
    def test_windows_are_sized_again_where_passes_became_faster_meanwhile(
        self, clock: SimulatedClock, meter: Meter
    ) -> None:
        work = Work(clock, [0.5] * 3 + [0.05])
        protocol = Protocol(rounds=2, warmup_rounds=0, min_window_s=1.0, joined=True)
        measured = measure_windows([work], protocol, meter)
        assert len(measured.windows) == 2
        assert all(window.seconds >= 1.0 for window in measured.windows)
        assert measured.total is not None
        assert measured.total.seconds == pytest.approx(sum(window.seconds for window in measured.windows))

    @pytest.mark.parametrize("rounds", [3, None])
    def test_a_stretch_that_throttled_is_run_again_as_a_whole(
        self, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch, rounds: int | None
    ) -> None:
        stretches = 0

        def reasons(_: float) -> int:
            return THERMAL if stretches == 1 and clock.now_s() > hot_s else 0

        hot_s = 0.0
        board = throttling_board(reasons, clock)
        account = Account(clock.now_s)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.joins is None
            open_stretch = meter.joined_windows

            def joined_windows(*arguments: Any) -> Any:
                nonlocal stretches, hot_s
                stretches, hot_s = stretches + 1, clock.now_s() + 1.0
                return open_stretch(*arguments)

            monkeypatch.setattr(meter, "joined_windows", joined_windows)
            protocol = Protocol(rounds, 0, 0.5, precision=1e-6, budget_s=0.1, joined=True)
            measured = measure_windows([lambda: board.run(clock, 0.5, 300.0)], protocol, meter, account=account)
        assert stretches == 2
        assert all(window.valid for window in measured.windows)
        assert account.spent_s()["measured"] == pytest.approx(1.5, abs=0.01)
        # What is said of the rounds is of those that count.
        names = [warning.partition(":")[0] for warning in measured.warnings]
        assert names == ["a window was thrown away and run again", *["precision"] * (rounds is None)]


@pytest.mark.parametrize("slow_s", [10.0, 0.5])
@pytest.mark.parametrize("slow_passes", [3, 5, 7])
def test_rounds_that_began_before_passes_were_fast_do_not_count(
    clock: SimulatedClock, meter: Meter, slow_passes: int, slow_s: float
) -> None:
    work = Work(clock, [*[slow_s] * slow_passes, 0.01])
    account = Account(clock.now_s)
    measured = measure_windows([work], Protocol(10, 2, 1.0), meter, account=account)
    assert [window.seconds for window in measured.windows] == pytest.approx([1.06] * 10)
    assert measured.warnings == []
    spent_s = account.spent_s()
    assert spent_s["measured"] == pytest.approx(10.6)
    assert sum(spent_s.values()) == pytest.approx(clock.now_s() - 1000.0)


def test_passes_that_are_slow_by_turns_are_sized_by_both(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [1.0, 0.01] * 500)

    def timed_pass() -> None:
        work()

    measured = measure_windows([work], Protocol(10, 2, 1.0), meter, timed_pass=timed_pass)
    assert measured.passes == 3


def test_short_calls_are_measured_alone_and_nothing_is_kept_of_them(clock: SimulatedClock, meter: Meter) -> None:
    def work() -> None:
        clock.sleep(1e-4)

    measured = measure_windows([work], Protocol(3, 1, 0.1), meter, keeps_outputs=False)
    assert [window.seconds for window in measured.windows] == pytest.approx([1e-4 * measured.passes] * 3)
    assert not any(measured.outputs)
    assert not any(measured.timed_calls)


def test_warming_up_short_calls_takes_no_longer_than_they_do() -> None:
    """In real time: what is kept of each pass must not cost more than the pass."""
    ran = 0

    def call() -> None:
        nonlocal ran
        ran += 1

    began_s = time.perf_counter()
    measure_windows([call], Protocol(10, 1, 0.2), open_meter("none"), keeps_outputs=False)
    assert ran > 1000
    assert time.perf_counter() - began_s < 15.0


@pytest.mark.parametrize("joined", [False, True])
def test_each_window_waits_for_its_turn_outside_of_it(clock: SimulatedClock, meter: Meter, joined: bool) -> None:
    work = Work(clock, [1.0])
    account = Account(clock.now_s)

    def await_turn(done: int, total: int) -> None:
        work.log.append(f"{done} of {total}")
        clock.sleep(10.0)

    protocol = Protocol(rounds=2, warmup_rounds=1, min_window_s=0.0, joined=joined)
    measured = measure_windows([work], protocol, meter, await_turn=await_turn, account=account)
    between = [] if joined else ["1 of 2"]
    start = work.log.index("0 of 2")
    assert work.log[start:] == ["0 of 2", "pass", *between, "pass", "2 of 2"]
    assert [window.seconds for window in measured.windows] == pytest.approx([1.0, 1.0])
    # It is another process's time.
    assert sum(account.spent_s().values()) == pytest.approx(start + 2)
