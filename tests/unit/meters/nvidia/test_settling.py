"""What is still drawn because of work that has ended, told from what the sensors show afterwards."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import asdict

import numpy as np
import pytest

from pytest_llem.meters.nvidia.idle_power import Idle
from pytest_llem.meters.nvidia.settling import Settling, Stretch, settle

IDLE_W = 125.0
RISE_W = 1.5


class Falling:
    """Power after work: idle, and an excess that fades."""

    def __init__(self, tau_s: float, excess_w: float = 300.0, idle_w: float = IDLE_W + RISE_W) -> None:
        self.tau_s = tau_s
        self.excess_w = excess_w
        self.idle_w = idle_w

    def power_w(self, at_s: float) -> float:
        return self.idle_w + self.excess_w * math.exp(-at_s / self.tau_s)

    def mean_w(self, from_s: float, to_s: float) -> float:
        faded = math.exp(-from_s / self.tau_s) - math.exp(-to_s / self.tau_s)
        return self.idle_w + self.excess_w * self.tau_s * faded / (to_s - from_s)

    def surplus_j(self, at_s: float) -> float:
        """Idle power until then, less what is still to come."""
        return self.idle_w * at_s - self.excess_w * self.tau_s * math.exp(-at_s / self.tau_s)

    def samples(self, until_s: float, noise_w: float = 0.0, seed: int = 0) -> list[Stretch]:
        """Every 20 ms, with noise that is much alike from one to the next."""
        generator = random.Random(seed)  # noqa: S311
        found, off_w = [], generator.gauss(0.0, noise_w)
        at_s = generator.uniform(0.0, 0.02)
        while at_s < until_s:
            found.append(Stretch(at_s, at_s, self.power_w(at_s) + off_w))
            off_w = 0.85 * off_w + math.sqrt(1 - 0.85**2) * generator.gauss(0.0, noise_w)
            at_s += 0.02
        return found


def settled(stretches: list[Stretch], at_s: float, idle_before_w: float = IDLE_W, noise_w: float = 1.0) -> Settling:
    return settle([], stretches, 0.0, at_s, Idle(idle_before_w, 0.0, noise_w, RISE_W), 300.0)


@pytest.mark.parametrize("tau_s", [0.01, 0.02, 0.04, 0.08, 0.15])
@pytest.mark.parametrize("at_s", [0.11, 0.25, 0.5])
def test_a_fall_that_is_seen_is_told_within_its_error(tau_s: float, at_s: float) -> None:
    falling = Falling(tau_s)
    found = settled(falling.samples(at_s), at_s)
    assert found.seen
    assert abs(found.surplus_j - falling.surplus_j(at_s)) <= 2.0 * found.error_j
    assert abs(found.idle_w - falling.idle_w) <= 2.0 * found.idle_error_w


@pytest.mark.parametrize("slow_share", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("at_s", [0.25, 0.35])
def test_a_fall_of_two_rates_is_told_within_its_error(slow_share: float, at_s: float) -> None:
    """One rate alone would be off by two to three times the error that it states."""
    quick, slow = Falling(0.03, 300.0 * (1.0 - slow_share)), Falling(0.1, 300.0 * slow_share, idle_w=0.0)
    samples = [s._replace(power_w=s.power_w + slow.power_w(s.from_s)) for s in quick.samples(at_s, 0.5)]
    found = settled(samples, at_s)
    assert abs(found.surplus_j - quick.surplus_j(at_s) - slow.surplus_j(at_s)) <= 2.0 * found.error_j


@pytest.mark.parametrize("at_s", [0.1, 0.15, 0.3])
def test_intervals_hold_for_noisy_samples_of_falls_of_all_kinds_and_are_not_idle(at_s: float) -> None:
    generator = random.Random(8)  # noqa: S311
    deviations = []
    for seed in range(100):
        tau_s = math.exp(generator.uniform(math.log(0.008), math.log(0.15)))
        rise_w = generator.gauss(RISE_W, RISE_W)
        falling = Falling(tau_s, generator.uniform(50.0, 500.0), IDLE_W + rise_w)
        samples = [
            one._replace(from_s=date_s, to_s=date_s)
            for one in falling.samples(at_s, 1.0, seed)
            for date_s in [one.from_s + generator.gauss(0.0, 0.0015)]
        ]
        found = settled(samples, at_s)
        deviations.append((found.surplus_j - falling.surplus_j(at_s)) / found.error_j)
    assert statistics.fmean(abs(deviation) <= 2.0 for deviation in deviations) >= 0.9
    # 0.67 for a normal distribution.
    assert statistics.median(abs(deviation) for deviation in deviations) > 0.25


def test_answer_and_error_are_those_of_many_boards_drawn_beforehand_that_would_show_this() -> None:
    """Each drawn board counts by how likely it makes what was seen: Bayes' theorem without any algebra."""
    at_s, times_s, powers_w, noise_w = 0.12, np.array([0.07, 0.09, 0.11]), np.full(3, 129.0), 15.0
    generator = np.random.default_rng(5)
    count = 300_000
    taus_s = np.geomspace(0.006, 0.6, 80)
    quick_s = generator.choice(taus_s, count, p=(1.0 / taus_s) / np.sum(1.0 / taus_s))
    slow_s, slow_share = quick_s.copy(), np.zeros(count)
    # One in five falls at two rates.
    two = generator.random(count) < 0.2
    pairs = np.array([(quick, slow) for quick in taus_s[::4] for slow in taus_s[::4] if slow > quick])
    quick_s[two], slow_s[two] = pairs[generator.integers(len(pairs), size=two.sum())].T
    slow_share[two] = generator.choice([0.15, 0.35, 0.5, 0.65, 0.85], two.sum())
    idle_sd_w = np.where(generator.random(count) < 0.05, 0.3 * IDLE_W, 2.0 * RISE_W)
    idle_w = IDLE_W + RISE_W + idle_sd_w * generator.standard_normal(count)
    excess_w = 2.0 * 300.0 * generator.standard_normal(count)
    # Noise that is as much alike as samples are 20 ms apart: 0.85.
    covariance = noise_w**2 * 0.85 ** (np.abs(times_s[:, None] - times_s[None, :]) / 0.02)
    left = (1.0 - slow_share)[:, None] * np.exp(-times_s / quick_s[:, None])
    left += slow_share[:, None] * np.exp(-times_s / slow_s[:, None])
    off_w = powers_w - idle_w[:, None] - excess_w[:, None] * left
    weight = np.exp(-0.5 * np.einsum("ni,ij,nj->n", off_w, np.linalg.inv(covariance), off_w))
    weight /= weight.sum()
    left_s = (1.0 - slow_share) * quick_s * np.exp(-at_s / quick_s) + slow_share * slow_s * np.exp(-at_s / slow_s)
    surplus_j = idle_w * at_s - excess_w * left_s
    mean_j = float(weight @ surplus_j)
    error_j = math.sqrt(float(weight @ (surplus_j - mean_j) ** 2))

    found = settled([Stretch(time_s, time_s, 129.0) for time_s in times_s], at_s, noise_w=noise_w)
    assert found.surplus_j == pytest.approx(mean_j, abs=0.05 * error_j)
    assert found.error_j == pytest.approx(error_j, rel=0.05)
    assert found.idle_w == pytest.approx(float(weight @ idle_w), abs=0.1)


def test_what_was_seen_for_longer_is_known_better() -> None:
    falling = Falling(0.05)
    errors_j = [settled(falling.samples(at_s, 1.0), at_s).error_j / at_s for at_s in (0.09, 0.15, 0.25, 0.5)]
    assert errors_j == sorted(errors_j, reverse=True)
    assert errors_j[-1] < errors_j[0] / 4.0


def test_a_board_that_is_at_rest_again_has_idle_power_and_nothing_more() -> None:
    found = settled(Falling(0.01).samples(0.2), 0.2)
    assert found.surplus_j == pytest.approx(0.2 * (IDLE_W + RISE_W), abs=0.05)
    # Half a watt of idle power for 0.2 s.
    assert found.error_j < 0.3
    assert abs(found.excess_w) < 0.5
    assert not found.unusual
    assert found.patience_s < 0.1


def test_means_between_edges_of_the_counter_tell_it_as_samples_do() -> None:
    falling = Falling(0.15)
    means = [Stretch(0.08 + 0.1 * k, 0.18 + 0.1 * k, falling.mean_w(0.08 + 0.1 * k, 0.18 + 0.1 * k)) for k in range(4)]
    found = settled(means, 0.48, noise_w=0.1)
    assert found.surplus_j == pytest.approx(falling.surplus_j(0.48), abs=0.8)
    assert abs(found.surplus_j - falling.surplus_j(0.48)) <= 2.0 * found.error_j
    assert found.tau_s == pytest.approx(0.15, rel=0.3)


def test_a_mean_counts_as_much_as_it_is_known() -> None:
    """The counter's edges date it: one that is worth little does not speak against samples."""
    rest_w = IDLE_W + RISE_W
    means = [Stretch(0.08 + 0.1 * k, 0.18 + 0.1 * k, rest_w, 0.5) for k in range(4)]
    expected_j = settled(means, 0.48, noise_w=0.1).surplus_j
    moved_j = []
    for error_w in (0.5, 50.0):
        off = [*means[:2], means[2]._replace(power_w=rest_w + 8.0, error_w=error_w), means[3]]
        moved_j.append(settled(off, 0.48, noise_w=0.1).surplus_j - expected_j)
    assert abs(moved_j[0]) > 0.2
    assert abs(moved_j[1]) < 0.02


def test_idle_power_that_is_another_one_is_unusual_and_waited_for() -> None:
    """It may be another clock, or a fall too slow to be seen as one."""
    found = settled(Falling(0.01, idle_w=IDLE_W + 20.0).samples(0.3), 0.3)
    assert found.unusual
    assert found.idle_w == pytest.approx(IDLE_W + 20.0, abs=1.0)
    # For all that is known the 18 W that are too many fade with the longest time constant.
    assert found.error_j >= 18.0 * 0.5
    assert found.patience_s > 1.0


@pytest.mark.parametrize("rise_w", [-2.0, 0.0, 1.5, 4.0, 7.0])
def test_a_rise_of_a_few_watts_is_usual(rise_w: float) -> None:
    found = settled(Falling(0.01, idle_w=IDLE_W + rise_w).samples(0.3), 0.3)
    assert not found.unusual
    assert found.idle_w == pytest.approx(IDLE_W + rise_w, abs=1.0)


def test_without_anything_seen_the_error_says_so() -> None:
    found = settled([], 0.1)
    assert not found.seen
    assert found.surplus_j == pytest.approx(0.1 * (IDLE_W + RISE_W), rel=0.2)
    # 300 W that fade with any time constant.
    assert found.error_j > 1.0
    assert found.error_j > 10.0 * settled(Falling(0.01).samples(0.1), 0.1).error_j
    # Short ones are the likelier.
    assert found.tau_s < 0.1


def test_what_comes_before_the_sensor_has_followed_is_not_looked_at() -> None:
    """Its dates are off by milliseconds, which are tens of watts there."""
    falling = Falling(0.012)
    late = [one for one in falling.samples(0.2) if one.from_s > 0.06]
    early = [Stretch(0.03, 0.03, 600.0), Stretch(0.05, 0.05, 20.0)]
    assert settled(early + late, 0.2) == settled(late, 0.2)


def test_the_order_in_which_it_was_seen_does_not_matter() -> None:
    falling = Falling(0.05)
    stretches = [*falling.samples(0.3, 1.0), Stretch(0.09, 0.19, falling.mean_w(0.09, 0.19), 0.5)]
    expected = asdict(settled(stretches, 0.3))
    shuffled = list(stretches)
    random.Random(3).shuffle(shuffled)  # noqa: S311
    assert asdict(settled(shuffled, 0.3)) == expected


def test_nothing_is_carried_from_one_window_to_the_next() -> None:
    stretches = Falling(0.05).samples(0.3, 1.0)
    first = settled(stretches, 0.3)
    for tau_s in (0.01, 0.3):
        settled(Falling(tau_s).samples(0.3), 0.3)
    assert settled(stretches, 0.3) == first


def test_a_shape_that_is_none_of_these_widens_the_error() -> None:
    falling = Falling(0.03)
    smooth = falling.samples(0.3)
    bent = [one._replace(power_w=one.power_w + 12.0 * math.sin(40.0 * one.from_s)) for one in smooth]
    assert settled(bent, 0.3).error_j > 3.0 * settled(smooth, 0.3).error_j
