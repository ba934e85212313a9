"""What a board still draws because of work that has ended, estimated from what its sensors show afterwards.

After work power does not step to idle where a meter looks: the sensor lags behind (a first-order filter of 10 to
12 ms on two H200) or the board keeps its clocks up for a while. Both look alike, an excess over idle power that
fades, and both belong to the work. So what a sensor shows at x seconds after the work is taken to be::

    power(x) = idle + excess * ((1 - share) * exp(-x / quick) + share * exp(-x / slow))

for each of a range of time constants, alone (share 0) or in pairs; a linear model with a Gaussian prior for each,
weighted by how likely it makes what was seen. Nothing is carried from one window to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.idle_power import Idle
    from pytest_llem.meters.nvidia.samples import PowerSample

FADED_S = 0.07
"""After so long 6 to 60 mJ are left of a step of 527 W on real boards (two H200), in seconds: earlier edges are not
used, and what is left is estimated from the samples."""

# Earlier than this, dates of samples that are off by milliseconds are errors of tens of watts.
_FROM_S = 0.06
# Time constants; the shorter, the likelier a priori: real boards have 10 to 14 ms.
_TAUS_S = np.geomspace(0.006, 0.6, 80)
# Falls of two rates. No recorded board has one; without them the interval of a board that does is far too narrow.
_PAIRED = range(0, len(_TAUS_S), 4)
_SLOW_SHARES = (0.15, 0.35, 0.5, 0.65, 0.85)
_TWO_RATES = 0.2  # their prior probability
_IDLE_RISE_SD = 2.0  # standard deviation of that rise, in units of it
_IDLE_STEADY_W = 1.0  # of idle power that is not expected to rise
_ANOTHER_CLOCK, _ANOTHER_CLOCK_SHARE = 0.05, 0.3  # how often idle power is another one altogether, and by how much
_MOST_TAUS = 3.0
_UNUSUAL = 2.0  # standard deviations of the usual rise
_EXCESS_STEPS = 2.0  # standard deviation of the excess at the end, in steps of power: a lag shows more than the step
_CORRELATION_S = 0.12  # of the noise of power samples: 0.85 from one to the next, 20 ms later
_DATE_S = 0.002  # standard uncertainty of a sample's date


def _falls() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All falls: shares of the time constants, a row each; the log of its prior; its slowest time constant."""
    pairs = [(quick, slow, share) for quick in _PAIRED for slow in _PAIRED if slow > quick for share in _SLOW_SHARES]
    shares = np.zeros((len(_TAUS_S) + len(pairs), len(_TAUS_S)))
    shares[: len(_TAUS_S)] = np.eye(len(_TAUS_S))
    for row, (quick, slow, share) in enumerate(pairs, start=len(_TAUS_S)):
        shares[row, [quick, slow]] = 1.0 - share, share
    alone = (1.0 - _TWO_RATES) / _TAUS_S / np.sum(1.0 / _TAUS_S)
    prior = np.concatenate((alone, np.full(len(pairs), _TWO_RATES / len(pairs))))
    return shares, np.log(prior), np.concatenate((_TAUS_S, [_TAUS_S[slow] for _, slow, _ in pairs]))


_FALLS, _LOG_PRIOR, _SLOWEST_S = _falls()
_LOG_IDLE_PRIOR = np.log([1.0 - _ANOTHER_CLOCK, _ANOTHER_CLOCK])


class Stretch(NamedTuple):
    """Mean power between two instants after the work, or power at one.

    Attributes:
        from_s, to_s: since the end of the work, in seconds; equal for a sample.
        power_w: in watts.
        error_w: its standard uncertainty, independent of the others, in watts.
    """

    from_s: float
    to_s: float
    power_w: float
    error_w: float = 0.0


@dataclass(frozen=True)
class Settling:
    """What is known of the power after a window.

    Attributes:
        idle_w: idle power after the work, in watts.
        idle_error_w: its standard uncertainty, in watts.
        excess_w: what is still drawn above it at that instant, in watts.
        tau_s: time constant by which that fades, the slower of two, in seconds.
        surplus_j: what the counter holds of idle power since the end of the work, less what is still to come of the
            work, in joules: to be taken from the counter's gain.
        error_j: standard uncertainty of ``surplus_j``, in joules.
        seen: whether anything was seen of the board a moment after the work.
        unusual: whether idle power is another one than before by more than usual; or it still falls, too slowly to be
            seen as a fall.
    """

    idle_w: float
    idle_error_w: float
    excess_w: float
    tau_s: float
    surplus_j: float
    error_j: float
    seen: bool
    unusual: bool = False

    @property
    def patience_s(self) -> float:
        """How long after the work waiting for the board to settle is worth it, in seconds: three time constants."""
        return _MOST_TAUS * (float(_TAUS_S[-1]) if self.unusual else self.tau_s)


def settle(
    samples: Sequence[PowerSample], gains: Sequence[Stretch], end_s: float, at_s: float, idle: Idle, step_w: float
) -> Settling:
    """How far the board had settled at ``at_s``, from what its sensors have shown since ``end_s``.

    Args:
        samples: of its power, oldest first; those of the work and before do not count.
        gains: mean powers between edges of its counter after the work, in seconds since its end.
        end_s: when the work had ended, in seconds.
        at_s: when the counter was taken, in seconds.
        idle: power before the work.
        step_w: power of the work above idle, in watts.
    """
    stretches = [Stretch(s.time_s - end_s, s.time_s - end_s, s.power_w) for s in samples if s.time_s > end_s]
    seen = sorted(stretch for stretch in (*stretches, *gains) if stretch.from_s >= _FROM_S)
    from_s, to_s, power_w, own_w = np.array(seen, dtype=float).reshape(-1, 4).T
    covariance = _noise(from_s, to_s, power_w, own_w, idle.noise_w)
    usual_w = math.hypot(idle.error_w, max(_IDLE_RISE_SD * idle.rise_w, _IDLE_STEADY_W))
    prior = _Prior(
        idle.power_w + idle.rise_w,
        (usual_w, max(_ANOTHER_CLOCK_SHARE * idle.power_w, usual_w)),
        _EXCESS_STEPS * max(step_w, 1.0),
    )
    settling, chi2 = _mixture(from_s, to_s, power_w, covariance, at_s - end_s, prior)
    # A shape that is none of these leaves a misfit: the factor of Birge, as in the CODATA adjustments.
    misfit = chi2 / max(len(seen), 1)
    if misfit > 1.0:
        settling, _ = _mixture(from_s, to_s, power_w, covariance * misfit, at_s - end_s, prior)
    rise_w = abs(settling.idle_w - prior.idle_w)
    if rise_w <= _UNUSUAL * usual_w:
        return settling
    # Idle power that is another one than before may be, or a fall too slow to be seen as one.
    error_j = math.hypot(settling.error_j, rise_w * float(_TAUS_S[-1]))
    return replace(settling, error_j=error_j, unusual=True)


class _Prior(NamedTuple):
    idle_w: float
    idle_sds_w: tuple[float, float]  # standard deviation: as usual, and where it is another one altogether
    excess_sd_w: float


def _noise(from_s: np.ndarray, to_s: np.ndarray, power_w: np.ndarray, own_w: np.ndarray, noise_w: float) -> np.ndarray:
    """Covariance of what was seen: correlated noise, dates that are off, and what each brings itself."""
    middle_s = (from_s + to_s) / 2.0
    lags_s = np.abs(middle_s[:, None] - middle_s[None, :])
    steps = np.abs(np.diff(power_w)) / np.maximum(np.diff(middle_s), 0.005)
    slopes = np.maximum(np.append(steps, 0.0), np.insert(steps, 0, 0.0))[: len(power_w)]
    shared: np.ndarray = noise_w**2 * np.exp(-lags_s / _CORRELATION_S)
    return shared + np.diag(own_w**2 + (slopes * _DATE_S) ** 2 + 1e-6)


def _mixture(
    from_s: np.ndarray, to_s: np.ndarray, power_w: np.ndarray, covariance: np.ndarray, at_s: float, prior: _Prior
) -> tuple[Settling, float]:
    """The posterior of idle power and excess for each fall, averaged by evidence; chi2 of the likeliest.

    With y = H b + noise of covariance R and b of prior mean m and precision P, the posterior has the precision
    L = H' R^-1 H + P, the mean L^-1 (H' R^-1 y + P m), and the evidence is proportional to
    exp(-(y' R^-1 y + m' P m - mean' L mean) / 2) sqrt(|P| / |L|).
    """
    # Whitened: R^-1 = W' W.
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)) if len(power_w) else covariance
    y, ones = whiten @ power_w, whiten @ np.ones(len(power_w))
    ratio = (to_s - from_s) / _TAUS_S[:, None]
    mean_share = np.where(ratio > 1e-9, -np.expm1(-ratio) / np.maximum(ratio, 1e-9), 1.0)
    faded = _FALLS @ (np.exp(-from_s / _TAUS_S[:, None]) * mean_share) @ whiten.T  # a row for each
    each_left = np.exp(-at_s / _TAUS_S)
    left, left_s = _FALLS @ each_left, _FALLS @ (_TAUS_S * each_left)  # of the excess, and of its integral
    # A row for each prior of idle power, a column for each fall.
    idle_precision = 1.0 / np.array(prior.idle_sds_w)[:, None] ** 2
    excess_precision = 1.0 / prior.excess_sd_w**2
    a = ones @ ones + idle_precision
    b = faded @ ones
    c = np.sum(faded * faded, axis=1) + excess_precision
    u = ones @ y + idle_precision * prior.idle_w
    v = faded @ y
    determinant = a * c - b * b
    idle_w, excess_w = (c * u - b * v) / determinant, (a * v - b * u) / determinant
    chi2 = y @ y + idle_precision * prior.idle_w**2 - idle_w * u - excess_w * v
    evidence = np.log(idle_precision * excess_precision / determinant) - chi2
    log = _LOG_IDLE_PRIOR[:, None] + _LOG_PRIOR + 0.5 * evidence
    shares = np.exp(log - log.max())
    shares /= shares.sum()
    surplus_j = at_s * idle_w - left_s * excess_w
    surplus_variance = (at_s**2 * c + 2.0 * at_s * left_s * b + left_s**2 * a) / determinant

    def mean(values: np.ndarray) -> float:
        return float(shares.ravel() @ np.broadcast_to(values, shares.shape).ravel())

    mean_idle_w, mean_surplus_j = mean(idle_w), mean(surplus_j)
    settling = Settling(
        idle_w=mean_idle_w,
        idle_error_w=math.sqrt(mean(c / determinant + (idle_w - mean_idle_w) ** 2)),
        excess_w=mean(excess_w * left),
        tau_s=mean(_SLOWEST_S),
        surplus_j=mean_surplus_j,
        error_j=math.sqrt(mean(surplus_variance + (surplus_j - mean_surplus_j) ** 2)),
        seen=len(power_w) > 0,
    )
    return settling, float(chi2.ravel()[np.argmax(shares)])
