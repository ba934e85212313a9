"""Prefill apart from decoding, by samples and by calls of one token, through the meter of a simulated board."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.measurement.phases import cross_checked
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedClock, install
from tests.simulators.kinds import KINDS
from tests.unit.measurement.test_account import Calls

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.base import CallTiming
    from pytest_llem.measurement.phases import Phases
    from tests.simulators import SimulatedBoard

CALL_S = 0.5
PREFILL_J = 0.2 * CALL_S * 400.0
DECODE_J = 0.8 * CALL_S * 200.0


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class ColdCalls(Calls):
    """The first instrumented call takes twice as long until its first token."""

    timed = 0

    def time_tokens(self, index: int) -> CallTiming:
        timing = super().time_tokens(index)
        self.timed += 1
        return replace(timing, time_to_first_token_s=2.0 * timing.time_to_first_token_s) if self.timed == 1 else timing


def measured(
    phases: Phases, *, joined: bool = False, board: SimulatedBoard | None = None, calls: type[Calls] = Calls
) -> ExperimentResult:
    clock = SimulatedClock()
    board = board or KINDS["recorded"](random.Random(5))  # noqa: S311
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        meter.check_quiet()
        meter.idle_power()
        protocol = Protocol(5, 2, 1.0, joined=joined)
        return measure_workload(calls(clock, board, CALL_S), protocol, meter, phases=phases)


def agrees(value_j: float | None, half_width_j: float | None, truth_j: float) -> None:
    assert value_j is not None
    assert half_width_j is not None
    assert value_j == pytest.approx(truth_j, abs=half_width_j)
    assert half_width_j < 0.15 * truth_j


@pytest.mark.parametrize("joined", [False, True])
def test_samples_of_the_same_windows_tell_the_phases(joined: bool) -> None:
    result = measured(True, joined=joined)
    assert result.phases_by == "power samples"
    assert result.prefill_rounds == []
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)
    agrees(result.decode_energy_j, result.decode_energy_uncertainty_j, DECODE_J)
    assert result.prefill_latency_s == pytest.approx(0.2 * CALL_S, rel=0.05)
    assert result.decode_energy_per_output_token_j == pytest.approx((result.decode_energy_j or 0.0) / 4)
    assert result.energy_per_input_token_j == pytest.approx((result.prefill_energy_j or 0.0) / 3)
    assert not any("phases" in warning for warning in result.warnings)


@pytest.mark.parametrize("joined", [False, True])
def test_a_cold_instrumented_pass_does_not_lengthen_prefill(joined: bool) -> None:
    result = measured(True, joined=joined, calls=ColdCalls)
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)
    assert result.time_to_first_token_s == pytest.approx(0.2 * CALL_S)


@pytest.mark.parametrize("kind", ["decay", "holding"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_board_draws_after_the_work_belongs_to_no_phase(kind: str, seed: int) -> None:
    result = measured(True, board=KINDS[kind](random.Random(seed)))  # noqa: S311
    agrees(result.prefill_energy_j, result.prefill_energy_uncertainty_j, PREFILL_J)


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
