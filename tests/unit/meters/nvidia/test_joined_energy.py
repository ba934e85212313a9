"""Energies of windows from edges and a trace: what an edge that is late does, and what is stated."""

from __future__ import annotations

import math

import pytest

from pytest_llem.meters.nvidia.counter.counter import Edge
from pytest_llem.meters.nvidia.idle_power import Idle
from pytest_llem.meters.nvidia.joined_energy import Anchor, JoinedEnergies, joined_energies
from pytest_llem.meters.nvidia.power_trace import PowerTrace
from pytest_llem.meters.nvidia.samples import PowerSample
from pytest_llem.meters.nvidia.sensor_lag import Lag, Span
from tests.simulators import LoadedPower

TAU_S = 0.012
IDLE = Idle(120.0, 0.3, 0.5)
SPANS = [Span(1.0 + 0.5 * number, 1.494 + 0.5 * number) for number in range(8)]
END_S = SPANS[-1].end_s


@pytest.fixture
def power() -> LoadedPower:
    power = LoadedPower(IDLE.power_w)
    for span in SPANS:
        power.start_work(span.start_s, 400.0)
        power.end_work(span.end_s)
    return power


def edge(power: LoadedPower, at_s: float, late_s: float = 0.0) -> Edge:
    """What a counter behind the sensor shows; one that was updated late holds more."""
    taken_s = at_s + late_s
    shown_j = power.energy_j(0.5, taken_s) - TAU_S * (power.sensed_w(taken_s, TAU_S) - IDLE.power_w)
    return Edge(at_s, shown_j, 0.0007)


def energies(
    power: LoadedPower, late_s: float = 0.0, *, gain: float = 1.0, resolution_j: float = 0.0
) -> JoinedEnergies:
    moments_s = [0.6 + 0.02 * number for number in range(240)]
    samples = [PowerSample(moment_s + 0.003, gain * power.sensed_w(moment_s, TAU_S)) for moment_s in moments_s]
    edges = [edge(power, 0.95)]
    edges += [edge(power, span.end_s - 0.05, late_s if number == 3 else 0.0) for number, span in enumerate(SPANS[:-1])]
    edges.append(edge(power, END_S + 0.1))
    start = Anchor(power.energy_j(0.5, 1.0), 0.1)
    end = Anchor(power.energy_j(0.5, END_S), 0.15)
    trace = PowerTrace(samples, SPANS, IDLE, Lag(TAU_S))
    return joined_energies(SPANS, edges, trace, start, end, IDLE.power_w, Lag(TAU_S), resolution_j=resolution_j)


def test_windows_of_a_board_without_noise_are_exact(power: LoadedPower) -> None:
    found = energies(power)
    for span, energy in zip(SPANS, found.windows, strict=True):
        assert energy.joules == pytest.approx(power.energy_j(*span), abs=0.1)
        assert 0.2 < energy.uncertainty_j < 2.5


def test_the_windows_and_the_gaps_are_the_whole(power: LoadedPower) -> None:
    found = energies(power)
    gaps_j = 7 * 0.006 * IDLE.power_w
    assert math.fsum(energy.joules for energy in found.windows) == pytest.approx(found.total.joules)
    assert found.total.joules + gaps_j == pytest.approx(power.energy_j(1.0, END_S), abs=0.1)
    # Boundaries are shared: the sum is hardly known worse than a window.
    assert found.total.uncertainty_j < math.hypot(*(energy.uncertainty_j for energy in found.windows))


@pytest.mark.parametrize("late_s", [0.006, 0.01, 0.0135])
def test_a_late_update_is_recognised_by_the_others(power: LoadedPower, late_s: float) -> None:
    """It would be worth 2.4 to 5.4 J."""
    found = energies(power, late_s)
    for span, energy in zip(SPANS, found.windows, strict=True):
        assert energy.joules == pytest.approx(power.energy_j(*span), abs=energy.uncertainty_j)
        assert energy.joules == pytest.approx(power.energy_j(*span), abs=1.0)


def test_samples_of_another_gain_do_not_move_the_windows(power: LoadedPower) -> None:
    for span, energy in zip(SPANS, energies(power, gain=1.004).windows, strict=True):
        assert energy.joules == pytest.approx(power.energy_j(*span), abs=min(energy.uncertainty_j, 0.7))


def test_a_coarse_counter_is_stated(power: LoadedPower) -> None:
    fine, coarse = energies(power), energies(power, resolution_j=5.0)
    assert coarse.windows[3].uncertainty_j > 1.2 * fine.windows[3].uncertainty_j
