"""Forms of decay and their fit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from pytest_llem.meters.decay import CANDIDATES, PowerPrior, carry_weights, fit_decays

PRIORS = [candidate.prior for candidate in CANDIDATES]
WIDE = PowerPrior(idle_w=80.0, idle_sd_w=100.0, mean_excess_w=150.0, ratio=1.0, ratio_variance=1e6)


def test_priors_are_probabilities() -> None:
    assert sum(PRIORS) == pytest.approx(1.0)
    assert min(PRIORS) > 0.0


@pytest.mark.parametrize("candidate", CANDIDATES[1::40])
def test_decays_start_at_one_and_never_rise(candidate: object) -> None:
    decay = next(c for c in CANDIDATES if c is candidate)
    step_s = decay.time_constant_s / 1000
    values = [(decay.integral_s(i * step_s + step_s) - decay.integral_s(i * step_s)) / step_s for i in range(5000)]
    # The stretched form starts with an infinite slope.
    assert values[0] == pytest.approx(1.0, abs=0.025)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))
    assert values[-1] < 0.11


def test_half_of_the_evidence_is_carried_to_the_next_window() -> None:
    assert carry_weights(PRIORS) == pytest.approx(PRIORS)
    seen = [prior * (9.0 if index == 20 else 1.0) for index, prior in enumerate(PRIORS)]
    carried = carry_weights([weight / sum(seen) for weight in seen])
    assert sum(carried) == pytest.approx(1.0)
    assert (carried[20] / carried[21]) / (PRIORS[20] / PRIORS[21]) == pytest.approx(3.0)
    ruled_out = carry_weights([1.0, *[0.0] * (len(CANDIDATES) - 1)])
    assert min(ruled_out) > 0.0


def fit_end(true: int, times_s: list[float], end_j: float = 50.0) -> tuple[float, float]:
    """Energy at the end and time constant from exact edges of the ``true``-th candidate."""
    decay = CANDIDATES[true]
    mixture = fit_decays(
        PRIORS,
        times_s,
        [end_j + 150.0 * decay.integral_s(x_s) + 80.0 * x_s for x_s in times_s],
        [1e-8] * len(times_s),
        start_j=0.0,
        work_s=0.25,
        prior=WIDE,
    )
    best = max(mixture, key=lambda part: part[0])[1]
    return sum(weight * fit.end_j for weight, fit in mixture), best.candidate.time_constant_s


@pytest.mark.parametrize("true", [0, 20, 40, 60, *(64 * form + 31 for form in range(1, 8))])
def test_exact_edges_give_back_the_energy_at_the_end(true: int) -> None:
    # The first edge tells a decay from one that is held: later, they differ by their amplitudes alone.
    times_s = [0.004, *(0.06 + 0.1 * number for number in range(6))]
    end_j, time_constant_s = fit_end(true, times_s)
    assert end_j == pytest.approx(50.0, abs=0.01)
    if true:
        assert time_constant_s == pytest.approx(CANDIDATES[true].time_constant_s)


def test_the_origin_of_energies_does_not_matter() -> None:
    times_s = [0.06 + 0.1 * number for number in range(4)]
    near_j, _ = fit_end(30, times_s)
    decay = CANDIDATES[30]
    mixture = fit_decays(
        PRIORS,
        times_s,
        [150.0 * decay.integral_s(x_s) + 80.0 * x_s for x_s in times_s],
        [1e-8] * 4,
        start_j=-50.0,
        work_s=0.25,
        prior=WIDE,
    )
    assert sum(weight * fit.end_j for weight, fit in mixture) == pytest.approx(near_j - 50.0, abs=1e-4)


TIMES_S, ENERGY_J, VARIANCES = [0.03, 0.13, 0.23], [8.0, 20.0, 29.5], [0.01, 0.002, 0.004]
START_J, WORK_S = -40.0, 0.2
NARROW = PowerPrior(idle_w=80.0, idle_sd_w=3.0, mean_excess_w=140.0, ratio=0.9, ratio_variance=0.09)


class FullProblem:
    """The same least squares with all rows and the full matrix, solved by Cramer's rule."""

    def __init__(self, index: int) -> None:
        decay = CANDIDATES[index]
        self.rows = [
            ([1.0, decay.integral_s(x_s), x_s], y_j, 1 / variance)
            for x_s, y_j, variance in zip(TIMES_S, ENERGY_J, VARIANCES, strict=True)
        ]
        self.rows.append(([0.0, 0.0, 1.0], 80.0, 1 / 9.0))
        self.rows.append(([-0.9 / WORK_S, 1.0, 0.9], -0.9 * START_J / WORK_S, 1 / (0.09 * 140.0**2)))
        self.matrix = [[sum(w * r[i] * r[j] for r, _, w in self.rows) for j in range(3)] for i in range(3)]
        self.right = [sum(w * r[i] * y for r, y, w in self.rows) for i in range(3)]
        self.determinant = self.det(self.matrix)
        self.solution = [self.cramer(column) for column in range(3)]

    @staticmethod
    def det(m: list[list[float]]) -> float:
        (a, b, c), (d, e, f), (g, h, i) = m
        return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

    def cramer(self, column: int) -> float:
        replaced = [[self.right[i] if j == column else self.matrix[i][j] for j in range(3)] for i in range(3)]
        return self.det(replaced) / self.determinant

    def variance(self, index: int) -> float:
        j, k = (other for other in range(3) if other != index)
        minor = self.matrix[j][j] * self.matrix[k][k] - self.matrix[j][k] * self.matrix[k][j]
        return minor / self.determinant

    def misfit(self) -> float:
        fitted = [sum(x * c for x, c in zip(r, self.solution, strict=True)) for r, _, _ in self.rows]
        return sum(w * (y - f) ** 2 for (_, y, w), f in zip(self.rows, fitted, strict=True))

    def log_likelihood(self) -> float:
        return -0.5 * self.misfit() - 0.5 * math.log(self.determinant)


def test_fits_are_those_of_the_full_matrix() -> None:
    mixture = fit_decays(PRIORS, TIMES_S, ENERGY_J, VARIANCES, start_j=START_J, work_s=WORK_S, prior=NARROW)
    step = FullProblem(0).log_likelihood() - mixture[0][1].log_likelihood
    for index in (1, 33, 80, 200):
        full, fit = FullProblem(index), mixture[index][1]
        assert [fit.end_j, fit.excess_w, fit.idle_w] == pytest.approx(full.solution)
        assert [fit.end_variance, fit.excess_variance, fit.idle_variance] == pytest.approx(
            [full.variance(0), full.variance(1), full.variance(2)]
        )
        assert fit.misfit == pytest.approx(full.misfit())
        assert full.log_likelihood() - fit.log_likelihood == pytest.approx(step)


def test_inflated_variances_make_the_weights_less_sure() -> None:
    times_s = [0.06, 0.16, 0.26, 0.36]
    energy_j = [150.0 * CANDIDATES[30].integral_s(x_s) + 80.0 * x_s for x_s in times_s]

    def largest(inflation: float) -> float:
        mixture = fit_decays(
            PRIORS, times_s, energy_j, [1e-4] * 4, start_j=-50.0, work_s=0.25, prior=WIDE, inflation=inflation
        )
        assert math.fsum(weight for weight, _ in mixture) == pytest.approx(1.0)
        return max(weight for weight, _ in mixture)

    assert largest(100.0) < largest(1.0)
