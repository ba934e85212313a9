"""From a workload to its result, in simulated time: seconds are then known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines.base import CallTiming
from pytest_llem.engines.prompts import Prompts
from pytest_llem.errors import MeasurementError
from pytest_llem.measurement.protocol import measure_workload, run_once
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters import Meter


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def meter(clock: SimulatedClock) -> Meter:
    return open_meter("none", clock=clock)


PROMPTS = Prompts(token_ids=((1, 2, 3), (4, 5, 6, 7)), truncated=0)


@dataclass
class FakeWorkload:
    """Two calls a pass that take a second each, with counted tokens."""

    clock: SimulatedClock
    tokens: Callable[[int], int] = lambda _: 5
    expected_output_tokens: int | None = None
    calls: int = 2
    prompts: Prompts = PROMPTS
    seconds: float = 1.0
    runs: int = 0

    def run(self, index: int) -> int:
        self.runs += 1
        self.clock.sleep(self.seconds)
        return self.tokens(self.runs - 1)

    def output_tokens(self, index: int, output: int) -> list[list[int]]:
        return [list(range(output))]

    def time_tokens(self, index: int) -> CallTiming:
        return CallTiming(0.25 + 0.5 * index, 0.125)

    def prefill(self) -> FakeWorkload:
        return FakeWorkload(self.clock, tokens=lambda _: 2, seconds=0.25)

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
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 100 if run < 3 else 5), ONE_PASS, meter)
    assert result.output_tokens == 5


def test_rounds_with_other_tokens_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, tokens=lambda run: 5 + (run - 1) // 2), ONE_PASS, meter)
    assert "output tokens differ between rounds: 13 to 17 a window" in result.warnings


def test_passes_that_generate_other_tokens_are_named(clock: SimulatedClock, meter: Meter) -> None:
    same = measure_workload(FakeWorkload(clock), ONE_PASS, meter)
    other = measure_workload(FakeWorkload(clock, tokens=lambda _: 6), ONE_PASS, meter)
    assert same.output_tokens_hash != other.output_tokens_hash
    assert same.warnings == [warning for warning in same.warnings if "output_tokens_hash" not in warning]
    changing = measure_workload(FakeWorkload(clock, tokens=lambda run: 5 + (run - 1) // 2), ONE_PASS, meter)
    assert any("output_tokens_hash" in warning for warning in changing.warnings)


def test_run_once_is_one_call(clock: SimulatedClock, meter: Meter) -> None:
    workload = FakeWorkload(clock)
    result = run_once(workload, meter)
    assert workload.runs == 1
    assert (result.output_tokens, result.rounds, result.latency_s) == (5, 0, None)


def test_prompts_that_were_cut_are_named(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock, prompts=Prompts(((1,),), truncated=3)), ONE_PASS, meter)
    assert any("3 prompts" in warning and "max_input_tokens" in warning for warning in result.warnings)


def test_what_is_to_be_said_of_the_prompts_is_in_the_result(clock: SimulatedClock, meter: Meter) -> None:
    prompts = Prompts(((1,),), truncated=0, notes=("a note",))
    assert "a note" in measure_workload(FakeWorkload(clock, prompts=prompts), ONE_PASS, meter).warnings


def test_a_wrong_token_count_is_no_result(clock: SimulatedClock, meter: Meter) -> None:
    assert measure_workload(FakeWorkload(clock, expected_output_tokens=10), ONE_PASS, meter).output_tokens == 5
    with pytest.raises(MeasurementError, match="wrong token count"):
        measure_workload(FakeWorkload(clock, expected_output_tokens=11), ONE_PASS, meter)


def test_phases_split_the_call(clock: SimulatedClock, meter: Meter) -> None:
    result = measure_workload(FakeWorkload(clock), ONE_PASS, meter, phases=True)
    assert result.latency_s == pytest.approx(1.0)
    assert result.prefill_latency_s == pytest.approx(0.25)
    assert result.decode_latency_s == pytest.approx(0.75)
    assert result.prefill_energy_j is None
    assert result.decode_energy_j is None
    assert measure_workload(FakeWorkload(clock), ONE_PASS, meter).prefill_latency_s is None
