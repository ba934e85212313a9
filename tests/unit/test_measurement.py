"""The measurement protocol, in simulated time: seconds and joules are then known exactly."""

from __future__ import annotations

import gc
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.engines.base import CallTiming
from pytest_llem.errors import MeasurementError
from pytest_llem.measurement import Protocol, measure_windows, measure_workload, run_once, summarise, undisturbed
from pytest_llem.meters import open_meter
from pytest_llem.meters.base import Window
from tests.simulators import SimulatedClock

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
    measured = measure_windows(work, Protocol(rounds=3, warmup_rounds=2, min_window_s=1.0), meter, work.synchronize)
    assert measured.passes == 4
    assert [window.seconds for window in measured.windows] == pytest.approx([1.2] * 3)
    assert [len(outputs) for outputs in measured.outputs] == [4, 4, 4]
    assert work.log[:2] == ["pass", "pass"]
    assert work.log[-6:] == ["synchronize", *["pass"] * 4, "synchronize"]


def test_a_slow_first_pass_does_not_size_the_windows(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [5.0, 0.1])
    measured = measure_windows(work, Protocol(rounds=1, warmup_rounds=1, min_window_s=1.0), meter)
    assert measured.windows[0].seconds >= 1.0
    assert measured.passes <= 11


def test_no_least_window_is_one_pass_and_no_calibration(clock: SimulatedClock, meter: Meter) -> None:
    work = Work(clock, [0.1])
    measured = measure_windows(work, Protocol(rounds=2, warmup_rounds=1, min_window_s=0), meter)
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
        measure_windows(look, Protocol(rounds=2, warmup_rounds=1, min_window_s=0), meter)
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


@dataclass
class FakeWorkload:
    """Two calls a pass that take a second each, with counted tokens."""

    clock: SimulatedClock
    tokens: Callable[[int], int] = lambda _: 5
    expected_output_tokens: int | None = None
    calls: int = 2
    input_tokens: int = 7
    token_ids_hash: str = "0"  # noqa: S105
    truncated_prompts: int = 0
    runs: int = 0

    def run(self, index: int) -> int:
        self.runs += 1
        self.clock.sleep(1.0)
        return self.tokens(self.runs - 1)

    def output_tokens(self, index: int, output: int) -> list[list[int]]:
        return [list(range(output))]

    def count_output_tokens(self, index: int, output: int) -> int:
        return output

    def time_tokens(self, index: int) -> CallTiming:
        return CallTiming(0.25 + 0.5 * index, 0.125)

    def synchronize(self) -> None:
        pass

    def reset_peak_memory(self) -> None:
        pass

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        return None, "no sensor"


ONE_PASS = Protocol(rounds=3, warmup_rounds=1, min_window_s=0)


def test_a_result_describes_calls(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock), ONE_PASS, meter)
    assert result.latency_s == pytest.approx(1.0)
    assert result.input_tokens == 3.5
    assert result.output_tokens == 5
    assert result.output_tokens_per_s == pytest.approx(5.0)
    assert result.time_to_first_token_s == 0.5
    assert result.time_per_output_token_s == 0.125
    assert (result.rounds, result.calls_per_round) == (3, 2)
    assert [one.output_tokens for one in result.per_round] == [10, 10, 10]
    assert result.peak_memory_bytes is None
    assert "peak_memory_bytes: no sensor" in result.warnings
    assert result.energy_j is None
    assert result.valid


def test_tokens_of_warm_up_do_not_count(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 100 if run < 2 else 5), ONE_PASS, meter)
    assert result.output_tokens == 5


def test_rounds_with_other_tokens_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 5 + run // 2), ONE_PASS, meter)
    assert "output tokens differ between rounds: 12 to 16 a window" in result.warnings


def test_prompts_that_were_cut_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, truncated_prompts=3), ONE_PASS, meter)
    assert any("3 prompts" in warning and "max_input_tokens" in warning for warning in result.warnings)


def test_a_wrong_token_count_is_no_result(clock: SimulatedClock, meter: Meter) -> None:
    assert measure_workload(FakeWorkload(clock, expected_output_tokens=10), ONE_PASS, meter).output_tokens == 5
    with pytest.raises(MeasurementError, match="wrong token count"):
        measure_workload(FakeWorkload(clock, expected_output_tokens=11), ONE_PASS, meter)
    with pytest.raises(MeasurementError, match="wrong token count"):
        run_once(FakeWorkload(clock, expected_output_tokens=11), meter)


def windows(*joules: float | None, half_width_j: float | None = 0.2) -> list[Window]:
    return [
        Window(
            seconds=2.0,
            joules=one,
            uncertainty_j=None if one is None else half_width_j,
            reason="below resolution" if one is None else None,
            boards_j={} if one is None else {"GPU-a": one},
        )
        for one in joules
    ]


@pytest.fixture
def energy_meter() -> Meter:
    return open_meter("estimate")


def test_ratios_are_of_totals_over_the_same_windows(energy_meter: Meter) -> None:
    result = summarise(windows(30.0, 50.0), calls_per_round=4, meter=energy_meter, output_tokens=[10, 30])
    assert result.energy_j == pytest.approx(10.0)
    assert result.latency_s == pytest.approx(0.5)
    assert result.mean_power_w == pytest.approx(20.0)
    assert result.energy_per_output_token_j == pytest.approx(2.0)
    assert result.boards == {"GPU-a": pytest.approx(10.0)}


def test_the_uncertainty_is_that_of_the_mean(energy_meter: Meter) -> None:
    """Against numbers worked out by hand: s^2 = 4 between the windows, u = 0.2 / 1.96 each, t(0.975, 2) = 4.3027."""
    result = summarise(windows(38.0, 40.0, 42.0), calls_per_round=2, meter=energy_meter)
    expected = 4.3027 * math.sqrt((4 + (0.2 / 1.96) ** 2) / 3) / 2
    assert result.energy_uncertainty_j == pytest.approx(expected, rel=1e-4)


def test_one_window_has_the_uncertainty_of_its_reading(energy_meter: Meter) -> None:
    result = summarise(windows(40.0), calls_per_round=2, meter=energy_meter)
    assert result.energy_uncertainty_j == pytest.approx(0.1)


def test_one_window_without_joules_leaves_none_and_the_reason(energy_meter: Meter) -> None:
    result = summarise(windows(40.0, None), calls_per_round=2, meter=energy_meter, output_tokens=[4, 4])
    assert result.energy_j is None
    assert result.energy_uncertainty_j is None
    assert result.energy_per_output_token_j is None
    assert result.mean_power_w is None
    assert result.latency_s == pytest.approx(1.0)
    assert any("below resolution" in warning for warning in result.warnings)


def test_a_disturbed_window_makes_the_result_invalid_and_is_said_once(energy_meter: Meter) -> None:
    disturbed = windows(40.0, 41.0)
    for window in disturbed:
        window.warnings.append("throttled")
    disturbed[1].valid = False
    result = summarise(disturbed, calls_per_round=1, meter=energy_meter)
    assert not result.valid
    assert result.warnings.count("throttled") == 1
