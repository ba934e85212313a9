"""Prefill apart from decoding, by samples and by calls of one token, through the meter of a simulated board."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.measurement.phases import cross_checked, split_phases
from pytest_llem.measurement.precision import mean_energy
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.measurement.sampled_phases import SampledPhases
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import IdlePower, Window, open_meter
from tests.simulators import SimulatedClock, install
from tests.simulators.kinds import KINDS
from tests.unit.measurement.test_account import Calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.engines.base import CallTiming
    from pytest_llem.measurement.phased_windows import PhasedWindow
    from pytest_llem.measurement.phases import Phases
    from tests.simulators import SimulatedBoard

CALL_S = 0.5
PREFILL_J = 0.2 * CALL_S * 400.0
DECODE_J = 0.8 * CALL_S * 200.0


def measured(
    phases: Phases,
    *,
    joined: bool = False,
    board: SimulatedBoard | None = None,
    calls: type[Calls] = Calls,
    call_s: float = CALL_S,
) -> ExperimentResult:
    clock = SimulatedClock()
    board = board or KINDS["recorded"](random.Random(5))  # noqa: S311
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        meter.check_quiet()
        meter.idle_power()
        protocol = Protocol(5, 2, 1.0, joined=joined)
        return measure_workload(calls(clock, board, call_s), protocol, meter, phases=phases)


def agrees(value_j: float | None, half_width_j: float | None, truth_j: float) -> None:
    assert value_j is not None
    assert half_width_j is not None
    assert value_j == pytest.approx(truth_j, abs=half_width_j)
    assert half_width_j < 0.15 * truth_j


@pytest.mark.parametrize("joined", [False, True])
def test_samples_of_the_same_windows_tell_the_phases(joined: bool) -> None:
    result = measured(True, joined=joined)
    assert result.phases_by == "power samples"
    assert result.boundaries == ("joined" if joined else "settled")
    assert result.prefill_rounds == []
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)
    agrees(result.decode_energy_j, result.decode_energy_uncertainty_j, DECODE_J)
    assert result.prefill_latency_s == pytest.approx(0.2 * CALL_S, rel=0.05)
    assert result.decode_energy_per_output_token_j == pytest.approx((result.decode_energy_j or 0.0) / 4)
    assert result.energy_per_input_token_j == pytest.approx((result.prefill_energy_j or 0.0) / 3)
    assert not any("phases" in warning for warning in result.warnings)


class ColdCalls(Calls):
    """The first instrumented pass has a first token that comes late: something is still compiled or cached."""

    first = True

    def time_tokens(self, index: int) -> CallTiming:
        timing = super().time_tokens(index)
        late, self.first = (3.0 if self.first else 1.0), False
        return replace(timing, time_to_first_token_s=late * timing.time_to_first_token_s)


@pytest.mark.parametrize("call_s", [0.11, 0.5])  # of the dearer ones no plain pass precedes the rounds
def test_a_cold_first_token_is_forgotten(call_s: float) -> None:
    result = measured(True, calls=ColdCalls, call_s=call_s)
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, 0.2 * call_s * 400.0)
    assert result.prefill_latency_s == pytest.approx(0.2 * call_s, rel=0.05)


def test_samples_are_not_asked_where_calls_of_one_token_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llem.measurement.protocol.by_power_samples", None)
    assert measured("one-token").phases_by == "one-token calls"


class WaitingCalls(Calls):
    """Sequences wait for their turn: the mean of their first tokens comes when most of the call is over."""

    def time_tokens(self, index: int) -> CallTiming:
        timing = super().time_tokens(index)
        return replace(timing, time_to_first_token_s=3.0 * timing.time_to_first_token_s, at_once=False)


def test_first_tokens_that_come_apart_divide_no_window() -> None:
    result = measured(True, calls=WaitingCalls)
    assert result.phases_by == "one-token calls"
    assert any("may have their first tokens apart" in warning for warning in result.warnings)
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)


@pytest.mark.parametrize("kind", ["decay", "holding"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_board_draws_after_the_work_belongs_to_no_phase(kind: str, seed: int) -> None:
    result = measured(True, board=KINDS[kind](random.Random(seed)))  # noqa: S311
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)


@pytest.mark.parametrize("call_s", [0.06, 0.1])
def test_calls_that_last_a_multiple_of_the_samples_period_have_a_wider_interval(call_s: float) -> None:
    """They meet it at the same phase again and again."""
    for seed in range(4):
        result = measured(True, board=KINDS["recorded"](random.Random(seed)), call_s=call_s)  # noqa: S311
        assert result.prefill_energy_j is not None
        assert result.prefill_energy_uncertainty_j is not None
        assert result.prefill_energy_j == pytest.approx(80.0 * call_s, abs=result.prefill_energy_uncertainty_j)


@pytest.mark.parametrize("lag_s", [0.03, 0.06, 0.1])
def test_a_sensor_that_is_not_known_tells_no_phases(lag_s: float) -> None:
    board = KINDS["recorded"](random.Random(5))  # noqa: S311
    board.sensor_lag_s = lag_s
    result = measured(True, board=board)
    assert result.phases_by == "one-token calls"
    assert any("no sensor that is known" in warning for warning in result.warnings)
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)


def test_both_ways_agree() -> None:
    result = measured("both")
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)
    agrees(result.prefill_energy_one_token_j, result.prefill_energy_one_token_uncertainty_j, PREFILL_J)
    assert len(result.prefill_rounds) == 5
    assert not any("phases" in warning for warning in result.warnings)


@pytest.mark.parametrize("joined", [False, True])
def test_the_samples_are_told_what_ran_just_before_a_window(joined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before_s: list[float | None] = []

    def sampled_phases(windows: Sequence[PhasedWindow], _: Any) -> SampledPhases:
        before_s.extend(window.previous_end_s for window in windows)
        return SampledPhases(reason="not asked")

    monkeypatch.setattr("pytest_llem.measurement.phases.sampled_phases", sampled_phases)
    measured(True, joined=joined)
    assert before_s[0] is None
    if joined:
        assert all(end_s is not None and -0.05 < end_s < 0.0 for end_s in before_s[1:])
    else:
        assert before_s[1:] == [None] * 4


def test_idle_power_is_what_the_pauses_before_the_rounds_have_shown_last() -> None:
    first = IdlePower(50.0, 1.0, settled=True)
    clock, board = SimulatedClock(), KINDS["recorded"](random.Random(5))  # noqa: S311
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        result = measure_workload(Calls(clock, board, CALL_S), Protocol(3, 2, 1.0), meter, idle=first)
        seen = meter.idle_power_seen()
    assert seen is not None
    assert seen.power_w is not None
    assert result.idle_power_w == seen.power_w != 50.0
    assert result.energy_j is not None
    assert result.latency_s is not None
    assert result.idle_share == pytest.approx(seen.power_w * result.latency_s / result.energy_j)


def test_the_interval_knows_that_precision_decided_the_rounds() -> None:
    clock, board = SimulatedClock(), KINDS["recorded"](random.Random(5))  # noqa: S311
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        result = measure_workload(Calls(clock, board, CALL_S), Protocol(None, 2, 1.0), meter)
    windows = [Window(joules=found.joules, uncertainty_j=found.uncertainty_j) for found in result.per_round]
    _, half_width_j = mean_energy(windows, sequential=True)
    assert half_width_j is not None
    assert result.energy_uncertainty_j == pytest.approx(half_width_j / result.calls_per_round)


def test_calls_of_one_token_alone() -> None:
    result = measured("one-token")
    assert result.phases_by == "one-token calls"
    assert result.prefill_energy_one_token_j is None
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)


def test_without_samples_calls_of_one_token_are_measured_and_that_is_said() -> None:
    board = KINDS["recorded"](random.Random(5))  # noqa: S311
    board.errors = {"nvmlDeviceGetSamples": pynvml.NVML_ERROR_NOT_SUPPORTED}
    result = measured(True, board=board)
    assert result.phases_by == "one-token calls"
    assert any("phases: measured by calls of one token, not by" in warning for warning in result.warnings)


def test_ways_that_disagree_are_named() -> None:
    def result(prefill_j: float, by: Any) -> ExperimentResult:
        return ExperimentResult(
            meter="nvml",
            estimated=False,
            rounds=5,
            calls_per_round=1,
            prefill_energy_j=prefill_j,
            prefill_energy_uncertainty_j=1.0,
            phases_by=by,
        )

    samples, calls = result(10.0, "power samples"), result(12.0, "one-token calls")
    assert "they may differ by 1.4 J" in cross_checked(samples, calls, None).warnings[0]
    assert cross_checked(samples, replace(calls, prefill_energy_j=11.0), None).warnings == []
    alone = cross_checked(None, calls, "too few")
    assert alone.phases_by == "one-token calls"
    assert "do not tell them: too few" in alone.warnings[0]


@pytest.mark.parametrize(
    ("prefill_j", "prefill_s", "uncertainty_j", "decode_j"),
    [
        (7.0, 1.0, 1.0, 3.0),
        (10.5, 1.0, 1.0, -0.5),
        (12.0, 1.0, 1.0, None),
        (10.5, 1.0, None, None),
        (7.0, 2.1, 1.0, None),
    ],
)
def test_what_is_less_than_nothing_is_not_known(
    prefill_j: float, prefill_s: float, uncertainty_j: float | None, decode_j: float | None
) -> None:
    def result(energy_j: float, latency_s: float, own_j: float | None) -> ExperimentResult:
        return ExperimentResult(
            meter="nvml",
            estimated=False,
            rounds=5,
            calls_per_round=1,
            output_tokens=4.0,
            energy_j=energy_j,
            energy_uncertainty_j=own_j,
            latency_s=latency_s,
        )

    whole, prefill = result(10.0, 2.0, 0.1), result(prefill_j, prefill_s, uncertainty_j)
    found = split_phases(whole, prefill, first_tokens=1, by="one-token calls")
    assert found.decode_energy_j == decode_j
    assert (found.decode_latency_s is None) == (decode_j is None) == ("decode_energy_j" in found.missing)
