"""Windows become a result: against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_llem.measurement.phases import split_phases
from pytest_llem.measurement.summary import MOST_CALLS, summarise
from pytest_llem.meters import open_meter
from pytest_llem.meters.base import HostReading, IdlePower, PowerCurve, Window

if TYPE_CHECKING:
    from pytest_llem.meters import Meter


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
    """Against numbers worked out by hand: s = 2 between the windows, U = 0.2 each, t(0.975, 2) = 4.3027."""
    result = summarise(windows(38.0, 42.0, 40.0), calls_per_round=2, meter=energy_meter)
    expected = math.hypot(4.3027 * 2 / math.sqrt(3), 0.2) / 2
    assert result.energy_uncertainty_j == pytest.approx(expected, rel=1e-4)


def test_power_curves_are_thinned_out_so_that_a_result_stays_small(energy_meter: Meter) -> None:
    """To means of neighbours: the energy under the curve stays."""
    many = windows(*[40.0] * 5)
    for window in many:
        times_s = [0.02 * number for number in range(1000)]
        window.power_curves = {"GPU-a": PowerCurve(times_s, [100.0 + time_s for time_s in times_s])}
    result = summarise(many, calls_per_round=1, meter=energy_meter)
    curves = [one.power_curves["GPU-a"] for one in result.per_round]
    assert sum(len(curve.times_s) for curve in curves) <= 600
    assert all(len(curve.times_s) == len(curve.powers_w) > 50 for curve in curves)
    assert math.fsum(curves[0].powers_w) / len(curves[0].powers_w) == pytest.approx(109.99, abs=0.2)
    assert curves[0].powers_w[3] == pytest.approx(100.0 + curves[0].times_s[3], abs=0.1)


def test_an_error_that_all_windows_share_does_not_shrink_with_their_number(energy_meter: Meter) -> None:
    alike = windows(*[40.0] * 25, half_width_j=0.5)
    assert summarise(alike, calls_per_round=1, meter=energy_meter).energy_uncertainty_j == pytest.approx(0.5)
    for window in alike:
        window.errors_average_out = True
    assert summarise(alike, calls_per_round=1, meter=energy_meter).energy_uncertainty_j == pytest.approx(0.1)


def test_a_drift_is_said_and_widens_the_interval(energy_meter: Meter) -> None:
    noise = [0.1, -0.1, 0.05, -0.05, 0.1, -0.1, 0.0, 0.05]
    steady = summarise(windows(*(40 + n for n in noise)), calls_per_round=1, meter=energy_meter)
    assert not any("drift" in warning for warning in steady.warnings)
    rising = [40 + number + n for number, n in enumerate(noise)]
    drifting = summarise(windows(*rising), calls_per_round=1, meter=energy_meter)
    assert any(warning.startswith("drift: the energy of a window changed by +1") for warning in drifting.warnings)
    assert drifting.energy_uncertainty_j is not None
    assert drifting.energy_uncertainty_j > 0.475 * 6.9


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


def test_windows_that_each_have_a_reason_of_their_own_leave_a_short_one(energy_meter: Meter) -> None:
    each = [replace(window, reason=f"{number} J") for number, window in enumerate(windows(*[None] * 100))]
    result = summarise(each, calls_per_round=1, meter=energy_meter)
    assert "energy_j: not measured: 0 J; 1 J; 2 J; and 97 such reasons of other windows" in result.warnings


def test_a_disturbed_window_makes_the_result_invalid_and_is_said_once(energy_meter: Meter) -> None:
    disturbed = windows(40.0, 41.0)
    for window in disturbed:
        window.warnings.append("throttled")
    disturbed[1].valid = False
    result = summarise(disturbed, calls_per_round=1, meter=energy_meter)
    assert not result.valid
    assert result.warnings.count("throttled") == 1


def test_net_energy_is_what_the_work_took_beyond_idle(energy_meter: Meter) -> None:
    idle = IdlePower(power_w=4.0, uncertainty_w=0.3, settled=True)
    result = summarise(windows(40.0), calls_per_round=2, meter=energy_meter, idle=idle)
    assert result.energy_j == pytest.approx(20.0)
    assert result.idle_power_w == 4.0
    assert result.energy_net_j == pytest.approx(16.0)
    assert result.energy_net_uncertainty_j == pytest.approx(math.hypot(0.1, 0.3))


def test_of_no_energy_there_is_no_idle_share(energy_meter: Meter) -> None:
    idle = IdlePower(power_w=4.0, uncertainty_w=0.3, settled=True)
    assert summarise(windows(0.0), calls_per_round=2, meter=energy_meter, idle=idle).idle_share is None


def test_an_unknown_idle_power_is_none_with_the_reason(energy_meter: Meter) -> None:
    result = summarise(windows(40.0), calls_per_round=2, meter=energy_meter, idle=IdlePower(reason="no sensor"))
    assert result.idle_power_w is None
    assert result.energy_net_j is None
    assert "idle_power_w: no sensor" in result.warnings


def test_decoding_is_the_rest_of_the_call(energy_meter: Meter) -> None:
    whole = replace(
        summarise(windows(40.0), calls_per_round=2, meter=energy_meter, output_tokens=[20]), input_tokens=8.0
    )
    prefill = summarise(windows(12.0, half_width_j=0.6), calls_per_round=3, meter=energy_meter)
    result = split_phases(whole, prefill, first_tokens=2, by="one-token calls")
    assert result.prefill_energy_j == pytest.approx(4.0)
    assert result.energy_per_input_token_j == pytest.approx(0.5)
    assert result.decode_energy_j == pytest.approx(16.0)
    assert result.decode_energy_uncertainty_j == pytest.approx(math.hypot(0.1, 0.2))
    assert result.decode_energy_per_output_token_j == pytest.approx(2.0)
    assert result.decode_latency_s == pytest.approx(1.0 - 2.0 / 3)


def test_nothing_to_decode_is_none_with_the_reason(energy_meter: Meter) -> None:
    whole = summarise(windows(40.0), calls_per_round=2, meter=energy_meter, output_tokens=[2])
    result = split_phases(whole, whole, first_tokens=1, by="one-token calls")
    assert result.decode_energy_j is None
    assert result.decode_energy_per_output_token_j is None
    assert any(warning.startswith("decode_energy_j") for warning in result.warnings)


def test_an_invalid_prefill_makes_the_result_invalid(energy_meter: Meter) -> None:
    whole = summarise(windows(40.0), calls_per_round=2, meter=energy_meter, output_tokens=[20])
    assert not split_phases(whole, replace(whole, valid=False), first_tokens=1, by="one-token calls").valid


def test_the_beginnings_of_calls_are_kept_where_they_are_few(energy_meter: Meter) -> None:
    for calls, kept in ((MOST_CALLS, [[0.0, 0.1235], [0.0]]), (MOST_CALLS + 1, [[], []])):
        result = summarise(
            windows(30.0, 50.0), calls_per_round=calls, meter=energy_meter, calls_s=[[0.0, 0.12345678], [0.0]]
        )
        assert [window.calls_s for window in result.per_round] == kept
    assert summarise(windows(30.0), calls_per_round=1, meter=energy_meter).per_round[0].calls_s == []


def test_the_host_stands_beside_the_boards_by_call_and_by_round(energy_meter: Meter) -> None:
    found = windows(40.0, 40.0)
    for window in found:
        window.host = HostReading("rapl", "host", 20.0, 0.1)
    result = summarise(found, calls_per_round=4, meter=energy_meter)
    assert (result.energy_host_j, result.energy_total_j, result.host_sensor) == (5.0, 15.0, "rapl")
    assert result.energy_host_uncertainty_j == pytest.approx(0.1 / 4)
    assert result.energy_total_uncertainty_j == pytest.approx(math.hypot(0.1, 0.2) / 4)
    assert [(each.host_j, each.host_uncertainty_j) for each in result.per_round] == [(20.0, 0.1)] * 2
    assert not result.missing.keys() & {"energy_host_j", "energy_total_j"}


def test_a_host_that_fails_in_a_window_is_missing_with_its_reason_and_no_warning(energy_meter: Meter) -> None:
    found = windows(40.0, 40.0)
    found[0].host = HostReading("rapl", "host", 20.0, 0.1)
    found[1].host = HostReading("rapl", reason="gone")
    result = summarise(found, calls_per_round=4, meter=energy_meter)
    assert result.energy_host_j is result.energy_total_j is None
    assert result.energy_j == 10.0
    assert {**result.missing} == {"energy_host_j": "gone", "energy_total_j": "gone"}
    assert result.warnings == []
    assert [each.host_j for each in result.per_round] == [20.0, None]


def test_boards_that_fail_leave_the_host_and_take_the_total_with_their_reason(energy_meter: Meter) -> None:
    found = windows(40.0, None)
    for window in found:
        window.host = HostReading("rapl", "host", 20.0, 0.1)
    result = summarise(found, calls_per_round=4, meter=energy_meter)
    assert (result.energy_host_j, result.energy_total_j) == (5.0, None)
    assert result.missing == dict.fromkeys(("energy_j", "energy_total_j"), "not measured: below resolution")


def test_a_host_that_nobody_asked_for_is_missing_in_silence(energy_meter: Meter) -> None:
    result = summarise(windows(40.0), calls_per_round=4, meter=energy_meter)
    assert (result.energy_host_j, result.energy_total_j, result.host_sensor) == (None, None, None)
    assert result.missing == {}
