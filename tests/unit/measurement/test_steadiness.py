"""Trends in the times of passes; and, by simulation, what the rounds after them say."""

from __future__ import annotations

import math
import random
import statistics
from typing import TYPE_CHECKING

import pytest

from pytest_llem.distributions import t_quantile
from pytest_llem.measurement.steadiness import has_trend
from pytest_llem.measurement.windows import Protocol, measure_windows
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable


def test_times_that_fall_pass_after_pass_have_a_trend() -> None:
    assert has_trend([1.6, 1.4, 1.25, 1.15])
    assert has_trend([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3])


def test_times_that_rise_have_one_too() -> None:
    assert has_trend([1.0, 1.1, 1.2, 1.3])


def test_what_has_ended_is_forgotten() -> None:
    assert not has_trend([9.0, 5.0, 3.0, 2.0, 1.0, 1.01, 0.99, 1.0])


def test_less_than_a_hundredth_is_no_trend() -> None:
    assert not has_trend([1.003, 1.002, 1.001, 1.0])


@pytest.mark.parametrize("passes", [4, 5, 12, 40])
@pytest.mark.parametrize("noise", [0.02, 0.06])
def test_noise_is_rarely_taken_for_a_trend(passes: int, noise: float) -> None:
    draw = random.Random(passes)  # noqa: S311
    found = sum(has_trend([draw.gauss(1.0, noise) for _ in range(passes)]) for _ in range(2000))
    assert found / 2000 < 0.1


def experiment(pass_s: Callable[[int], float]) -> tuple[list[float], float]:
    """The windows of five rounds in seconds a pass, and the seconds before the first of them."""
    clock = SimulatedClock()
    done = 0

    def run() -> None:
        nonlocal done
        clock.sleep(pass_s(done))
        done += 1

    measured = measure_windows([run], Protocol(5, 2, 1.0), open_meter("none", clock=clock))
    return [window.seconds / measured.passes for window in measured.windows], measured.starts_s[0] - 1000.0


@pytest.mark.parametrize("noise", [0.003, 0.02, 0.06])
def test_rounds_that_begin_at_once_are_neither_biased_nor_too_narrow(noise: float) -> None:
    """The first window counts: whether passes are steady is told by passes before it, never by the windows."""
    draw = random.Random(f"steady {noise}")  # noqa: S311
    means, covered, before_s = [], 0, []
    for _ in range(400):
        times_s, seconds = experiment(lambda _: 0.1 * math.exp(draw.gauss(0.0, noise)))
        truth_s = 0.1 * math.exp(noise**2 / 2)
        half_width_s = t_quantile(0.975, 4) * statistics.stdev(times_s) / math.sqrt(5)
        means.append(statistics.fmean(times_s) / truth_s)
        covered += abs(statistics.fmean(times_s) - truth_s) <= half_width_s
        before_s.append(seconds)
    error = statistics.stdev(means) / math.sqrt(len(means))
    assert statistics.fmean(means) == pytest.approx(1.0, abs=3.5 * error)
    assert covered / 400 >= 0.93
    assert statistics.fmean(before_s) < 0.8


@pytest.mark.parametrize("noise", [0.003, 0.02, 0.06])
@pytest.mark.parametrize("decay_passes", [1.0, 4.0, 12.0])
def test_what_warming_up_leaves_is_less_than_the_noise(noise: float, decay_passes: float) -> None:
    draw = random.Random(f"{noise} {decay_passes}")  # noqa: S311
    biases, half_widths = [], []
    for _ in range(200):
        times_s, _ = experiment(
            lambda done: 0.1 * (1.0 + 0.5 * math.exp(-done / decay_passes)) * draw.gauss(1.0, noise)
        )
        biases.append(statistics.fmean(times_s) / 0.1 - 1.0)
        half_widths.append(t_quantile(0.975, 4) * statistics.stdev(times_s) / math.sqrt(5) / 0.1)
    assert statistics.fmean(biases) < max(statistics.fmean(half_widths), 0.005)
