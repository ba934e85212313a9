"""How the power of a board decays after work: forms, and their fit to counter edges.

From the end of the work on, the energy of a board is::

    E(t) = C + A g(t - end) + P (t - end),    g(x) = integral of the decay from 0 to x, g'(0) = 1

with C the energy at the end of the work (what is asked for), A the power above idle right after it, P the
idle power of the warm board. For a decay of known form and time constant this is linear in C, A and P:
weighted least squares on the edges, with two more rows for what is known beforehand, the idle power, and that
A resembles the mean power above idle during the work (Gelman et al., Bayesian Data Analysis, 3rd ed., section
14.8: prior information as additional data points).

Form and time constant are not known. A grid of candidates stands for everything that they may be; the fits of
all are averaged, weighted by their marginal likelihoods (Hoeting et al., Statistical Science 14, 1999).
Weights are probabilities: they start at each candidate's ``prior``, :func:`fit_decays` multiplies them with
its likelihoods, and :func:`carry_weights` takes them to the next window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# From 20 ms to 1.2 s in steps of 6.7%. Log-normal prior: boards decay for some hundred milliseconds, and a
# factor of 2.5 either way is one standard deviation.
_TIME_CONSTANTS_S = tuple(0.02 * (1.2 / 0.02) ** (index / 63) for index in range(64))
_PRIOR_MEDIAN_S = 0.15
_PRIOR_LOG_SD = 0.9
_PRIOR_STEP = 0.5  # probability that the power steps down at once

# Share of a window's evidence about the decay that is left for the next. All windows of a board err alike where none
# of the forms is its own: taken for independent, a dozen of them would make the wrong one certain.
_MEMORY = 0.5
_LEAST_FACTOR = 1e-12  # what one window ruled out may come back


@dataclass(frozen=True)
class Candidate:
    """A form of decay with its time constant.

    Attributes:
        integral: integral of the decay from its start, over times in units of the time constant, in the same
            units; ``None`` for a step down to idle.
        time_constant_s: in seconds.
        prior: its probability before any window was seen.
    """

    integral: Callable[[float], float] | None
    time_constant_s: float
    prior: float

    def integral_s(self, elapsed_s: float) -> float:
        """Integral of the decay, which starts at one, over ``elapsed_s`` seconds; in seconds."""
        if self.integral is None:
            return 0.0
        return self.time_constant_s * self.integral(elapsed_s / self.time_constant_s)


def _first_order(x: float) -> float:
    """Of exp(-x): a first-order lag."""
    return -math.expm1(-x)


def _second_order(x: float) -> float:
    """Of (1 + x) exp(-x): two equal lags in series, which hold the power at first."""
    return -2.0 * math.expm1(-x) - x * math.exp(-x)


def _two_rates(x: float) -> float:
    """Of 0.7 exp(-2 x) + 0.3 exp(-x / 2): two lags in parallel, a fast drop that lingers."""
    return -0.35 * math.expm1(-2.0 * x) - 0.6 * math.expm1(-x / 2.0)


def _linear(x: float) -> float:
    """Of 1 - x / 2 down to zero: clocks that are lowered step by step."""
    x = min(x, 2.0)
    return x - x * x / 4.0


def _far_rates(x: float) -> float:
    """Of 0.5 exp(-3 x) + 0.5 exp(-x / 3): two lags in parallel, far apart."""
    return -0.5 / 3.0 * math.expm1(-3.0 * x) - 1.5 * math.expm1(-x / 3.0)


def _stretched(x: float) -> float:
    """Of exp(-sqrt(x)): many lags at once, with neither a first nor a last."""
    root = math.sqrt(x)
    return 2.0 - 2.0 * (1.0 + root) * math.exp(-root)


def _held(hold: float) -> Callable[[float], float]:
    """Of 1 until ``hold``, then exp(hold - x): a governor that notices the end of the work late."""

    def integral(x: float) -> float:
        return x if x < hold else hold - math.expm1(hold - x)

    return integral


# With the first four forms alone, intervals hold the truth for boards that decay at about one rate. Of those that
# hold their power for some 50 ms, or whose decay has a long tail, they would hold it in half of the windows.
_FORMS = (
    (_first_order, 0.26),
    (_second_order, 0.07),
    (_two_rates, 0.07),
    (_linear, 0.06),
    (_far_rates, 0.08),
    (_stretched, 0.1),
    (_held(0.2), 0.18),
    (_held(0.6), 0.18),
)


def _build_candidates() -> tuple[Candidate, ...]:
    density = [
        math.exp(-0.5 * (math.log(time_constant_s / _PRIOR_MEDIAN_S) / _PRIOR_LOG_SD) ** 2)
        for time_constant_s in _TIME_CONSTANTS_S
    ]
    scale = (1.0 - _PRIOR_STEP) / sum(density)
    return (
        Candidate(None, 0.0, _PRIOR_STEP),
        *(
            Candidate(integral, time_constant_s, scale * share * probability)
            for integral, probability in _FORMS
            for time_constant_s, share in zip(_TIME_CONSTANTS_S, density, strict=True)
        ),
    )


CANDIDATES = _build_candidates()
"""The step first, then form by form with rising time constants. Their priors sum to one."""


def carry_weights(weights: Sequence[float]) -> list[float]:
    """Weights for the next window, in the order of :data:`CANDIDATES`: halfway back to the priors, as factors go.

    That is the forgetting factor of dynamic model averaging (Raftery, Kárný and Ettler, Technometrics 52, 2010); a
    board that changes is learned anew.
    """
    carried = [
        candidate.prior * max(weight / candidate.prior, _LEAST_FACTOR) ** _MEMORY
        for weight, candidate in zip(weights, CANDIDATES, strict=True)
    ]
    total = sum(carried)
    return [weight / total for weight in carried]


@dataclass(frozen=True)
class PowerPrior:
    """What is known about the powers of a window before its edges are fitted.

    Attributes:
        idle_w: idle power of the warm board, in watts.
        idle_sd_w: its standard uncertainty, in watts.
        mean_excess_w: rough mean power above idle during the work, in watts; scales ``ratio_variance``.
        ratio: expected A in units of the mean power above idle.
        ratio_variance: variance of that ratio.
    """

    idle_w: float
    idle_sd_w: float
    mean_excess_w: float
    ratio: float
    ratio_variance: float


@dataclass(frozen=True)
class DecayFit:
    """Least squares for one candidate.

    Attributes:
        candidate: the form and time constant.
        log_likelihood: marginal log-likelihood, up to a constant common to all candidates.
        end_j: C, in joules.
        end_variance: its variance, in square joules.
        excess_w: A, in watts.
        excess_variance: its variance, in square watts.
        idle_w: P, in watts.
        idle_variance: its variance, in square watts.
        misfit: weighted sum of squares that is left.
    """

    candidate: Candidate
    log_likelihood: float
    end_j: float
    end_variance: float
    excess_w: float
    excess_variance: float
    idle_w: float
    idle_variance: float
    misfit: float


Mixture = list[tuple[float, DecayFit]]
"""The fits of all candidates with their probabilities, in the order of :data:`CANDIDATES`."""


def fit_decays(
    weights: Sequence[float],
    elapsed_s: Sequence[float],
    energy_j: Sequence[float],
    variances: Sequence[float],
    *,
    start_j: float,
    work_s: float,
    prior: PowerPrior,
    inflation: float = 1.0,
) -> Mixture:
    """Fit every candidate to the edges after the work.

    Args:
        weights: probabilities of the candidates before this window.
        elapsed_s: when the edges were, in seconds from the end of the work.
        energy_j: the energies at the edges, in joules from any origin.
        variances: variances of those energies, in square joules.
        start_j: energy at the start of the work, in joules from the same origin.
        work_s: how long the work took, in seconds.
        prior: what is known about the powers.
        inflation: factor on all variances that the likelihoods are taken with.
    """
    precision = [1.0 / variance for variance in variances]
    # The row "A is r times the mean power above idle": A - r ((C - start) / work_s - P) = 0.
    ratio_precision = 1.0 / (prior.ratio_variance * prior.mean_excess_w**2)
    ratio_c, ratio_p = -prior.ratio / work_s, prior.ratio
    ratio_y = ratio_c * start_j
    idle_precision = 1.0 / prior.idle_sd_w**2

    # Normal equations. The columns of C and P are the same for every candidate, so those two are eliminated
    # once (Frisch and Waugh, Econometrica 1, 1933) and only A is left for each.
    n_cc = sum(precision) + ratio_precision * ratio_c**2
    n_cp = ratio_precision * ratio_c * ratio_p
    n_pp = ratio_precision * ratio_p**2 + idle_precision
    b_c = ratio_precision * ratio_c * ratio_y
    b_p = ratio_precision * ratio_p * ratio_y + idle_precision * prior.idle_w
    for weight, x_s, y_j in zip(precision, elapsed_s, energy_j, strict=True):
        n_cp += weight * x_s
        n_pp += weight * x_s * x_s
        b_c += weight * y_j
        b_p += weight * x_s * y_j
    determinant = n_cc * n_pp - n_cp * n_cp
    v_cc, v_cp, v_pp = n_pp / determinant, -n_cp / determinant, n_cc / determinant
    c0_j, p0_w = v_cc * b_c + v_cp * b_p, v_cp * b_c + v_pp * b_p
    # What A has to explain, by row; the misfit of a step down to idle.
    residuals_j = [y_j - c0_j - p0_w * x_s for x_s, y_j in zip(elapsed_s, energy_j, strict=True)]
    ratio_residual_w = ratio_y - ratio_c * c0_j - ratio_p * p0_w
    idle_residual_w = prior.idle_w - p0_w
    misfit0 = ratio_precision * ratio_residual_w**2 + idle_precision * idle_residual_w**2
    misfit0 += sum(weight * r_j * r_j for weight, r_j in zip(precision, residuals_j, strict=True))

    fits: list[DecayFit] = []
    for candidate in CANDIDATES:
        decays_s = [candidate.integral_s(x_s) for x_s in elapsed_s]
        n_ac, n_ap = ratio_precision * ratio_c, ratio_precision * ratio_p
        for weight, x_s, decay_s in zip(precision, elapsed_s, decays_s, strict=True):
            n_ac += weight * decay_s
            n_ap += weight * decay_s * x_s
        # By how much C and P fall for one watt of A.
        c_by_a, p_by_a = v_cc * n_ac + v_cp * n_ap, v_cp * n_ac + v_pp * n_ap
        # Sums of squares, since the difference of two large numbers would be all rounding for a short decay.
        ratio_left = 1.0 - ratio_c * c_by_a - ratio_p * p_by_a
        information = ratio_precision * ratio_left**2 + idle_precision * p_by_a**2
        surprise = ratio_precision * ratio_left * ratio_residual_w - idle_precision * p_by_a * idle_residual_w
        for weight, x_s, decay_s, r_j in zip(precision, elapsed_s, decays_s, residuals_j, strict=True):
            left_s = decay_s - c_by_a - p_by_a * x_s
            information += weight * left_s * left_s
            surprise += weight * left_s * r_j
        excess_w = surprise / information
        misfit = max(misfit0 - surprise * excess_w, 0.0)
        fits.append(
            DecayFit(
                candidate=candidate,
                # The prior on C is flat. The determinant of the normal equations is ``information`` times
                # what all candidates share.
                log_likelihood=-0.5 * misfit / inflation - 0.5 * math.log(information),
                end_j=c0_j - c_by_a * excess_w,
                end_variance=v_cc + c_by_a**2 / information,
                excess_w=excess_w,
                excess_variance=1.0 / information,
                idle_w=p0_w - p_by_a * excess_w,
                idle_variance=v_pp + p_by_a**2 / information,
                misfit=misfit,
            )
        )
    best = max(fit.log_likelihood for fit in fits)
    products = [weight * math.exp(fit.log_likelihood - best) for weight, fit in zip(weights, fits, strict=True)]
    total = sum(products)
    return [(product / total, fit) for product, fit in zip(products, fits, strict=True)]
