"""The integral of a board's power between windows, from samples of a sensor that lags."""

from __future__ import annotations

import pytest

from pytest_llem.meters.nvidia.idle_power import Idle
from pytest_llem.meters.nvidia.power_trace import PowerTrace
from pytest_llem.meters.nvidia.samples import PowerSample
from pytest_llem.meters.nvidia.sensor_lag import Lag, Span, seen_lag
from tests.simulators import LoadedPower

IDLE = Idle(120.0, 0.3, 0.5)
TAU_S = 0.012
SPANS = [Span(1.0, 1.507), Span(1.513, 2.0), Span(2.009, 2.5)]


def worked(spans: list[Span], powers_w: list[float]) -> LoadedPower:
    power = LoadedPower(IDLE.power_w)
    for span, power_w in zip(spans, powers_w, strict=True):
        power.start_work(span.start_s, power_w)
        power.end_work(span.end_s)
    return power


def sampled(power: LoadedPower, phase_s: float, tau_s: float = TAU_S, until_s: float = 2.9) -> list[PowerSample]:
    """Every 20 ms, dated 3 ms late."""
    moments_s = [0.5 + phase_s + 0.02 * number for number in range(round((until_s - 0.5) / 0.02))]
    return [PowerSample(moment_s + 0.003, power.sensed_w(moment_s, tau_s)) for moment_s in moments_s]


@pytest.mark.parametrize("phase_s", [0.0, 0.004, 0.009, 0.013, 0.019])
def test_steps_at_known_instants_cost_nothing_whatever_the_phase_of_the_samples(phase_s: float) -> None:
    power = worked(SPANS, [400.0, 650.0, 200.0])
    trace = PowerTrace(sampled(power, phase_s), SPANS, IDLE, Lag(TAU_S))
    origin = trace.at(0.9)
    for span in SPANS:
        for instant_s in span:
            state = trace.at(instant_s)
            assert state.energy_j - origin.energy_j == pytest.approx(power.energy_j(0.9, instant_s), abs=0.1)
            assert state.sensed_w == pytest.approx(power.sensed_w(instant_s, TAU_S), abs=1.0)


def test_a_step_at_an_unknown_instant_is_right_on_average_and_within_what_is_stated() -> None:
    span = Span(1.0, 2.0)
    errors_j = []
    for number in range(40):
        power = LoadedPower(IDLE.power_w)
        power.start_work(span.start_s, 400.0)
        power.start_work(1.5, 200.0)
        power.end_work(span.end_s)
        trace = PowerTrace(sampled(power, 0.0005 * number), [span], IDLE, Lag(TAU_S))
        first, last = trace.at(1.3), trace.at(1.7)
        errors_j.append(last.energy_j - first.energy_j - power.energy_j(1.3, 1.7))
        assert abs(errors_j[-1]) <= 2.0 * (last.variance_j2 - first.variance_j2) ** 0.5
    assert abs(sum(errors_j) / len(errors_j)) < 0.03
    assert max(errors_j) > 0.1


def test_what_is_drawn_without_samples_is_another_part() -> None:
    power = worked(SPANS, [400.0, 650.0, 200.0])
    samples = [sample for sample in sampled(power, 0.0) if not 1.6 < sample.time_s < 1.9]
    trace = PowerTrace(samples, SPANS, IDLE, Lag(TAU_S))
    assert [trace.at(instant_s).part for instant_s in (1.0, 1.55, 1.95, 2.5)] == [0, 0, 1, 1]
    # Within the hole nothing is sure.
    assert trace.at(1.75).variance_j2 ** 0.5 > 20.0
    # Beyond it the energy since it is as exact as before it.
    after = trace.at(2.5).energy_j - trace.at(1.95).energy_j
    assert after == pytest.approx(power.energy_j(1.95, 2.5), abs=0.1)


def test_a_window_shorter_than_a_sample_is_known_badly_and_says_so() -> None:
    spans = [Span(1.0, 1.5), Span(1.505, 1.509), Span(1.512, 2.0)]
    power = worked(spans, [400.0, 400.0, 400.0])
    trace = PowerTrace(sampled(power, 0.002), spans, IDLE, Lag(TAU_S))
    before, after = trace.at(1.505), trace.at(1.509)
    error_j = (after.variance_j2 - before.variance_j2) ** 0.5
    assert error_j > 0.3
    assert after.energy_j - before.energy_j == pytest.approx(1.6, abs=2.0 * error_j)


@pytest.mark.parametrize("tau_s", [0.004, 0.012, 0.05, 0.12])
def test_a_lag_that_both_ends_show_is_seen(tau_s: float) -> None:
    power = worked(SPANS, [400.0, 650.0, 200.0])
    lag = seen_lag(sampled(power, 0.007, tau_s), SPANS[0], SPANS[-1], IDLE)
    assert lag.seconds == pytest.approx(tau_s, abs=2.0 * lag.error_s)
    assert lag.error_s < max(0.1 * tau_s, 0.002)


def test_a_board_that_settles_slowly_is_not_taken_for_a_slow_sensor() -> None:
    span = Span(1.0, 2.5)
    power = LoadedPower(IDLE.power_w, 250.0, 0.1)
    power.start_work(span.start_s, 250.0)
    power.end_work(span.end_s)
    lag = seen_lag(sampled(power, 0.007), span, span, IDLE)
    assert lag.seconds == pytest.approx(TAU_S, abs=0.002)


def test_where_only_the_end_shows_another_lag_it_may_be_the_board() -> None:
    span = Span(1.0, 2.5)
    power = LoadedPower(IDLE.power_w, 250.0, 0.1)
    power.start_work(span.start_s, 600.0)
    power.start_work(1.03, 130.0)  # a burst: its start says nothing
    power.start_work(1.05, 250.0)
    power.end_work(span.end_s)
    lag = seen_lag(sampled(power, 0.007), span, span, IDLE)
    assert lag.seconds - lag.error_s <= TAU_S <= lag.seconds + lag.error_s
    assert lag.error_s > 0.05


def test_without_a_step_the_lag_is_the_usual_one() -> None:
    power = worked(SPANS, [121.0, 121.0, 121.0])
    assert seen_lag(sampled(power, 0.007), SPANS[0], SPANS[-1], IDLE).seconds == pytest.approx(TAU_S, abs=1e-4)
