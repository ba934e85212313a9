"""The lag of a board's power sensor, from what it shows at the two instants that are known: start and end of the work.

On two H200 it is 12 ms, within a millisecond, at the start of work as at its end. Another board may have another one,
and a step at both ends that is far from such a curve says so. A ramp at the start alone is the host's, a slow fall at
the end alone the board's own: both must agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_llem.meters.nvidia.window_energy import LAG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.idle_power import Idle
    from pytest_llem.meters.nvidia.samples import PowerSample

SAMPLE_LATE_S = 0.003
"""A sample is dated so long after the instant of its value, in seconds (two H200, with a filter of 12 ms)."""

_TAUS_S = np.geomspace(0.0003, 0.2, 180)
_USUAL_SD_S = 0.0012  # about 12 ms
_UNUSUAL = 0.03  # prior probability of any other lag
_LEAST_SHARE = 0.05  # of a lag: what it is uncertain by at least
_RISE_S, _FALL_S = 0.065, 0.25
_FREEDOM = 3.0  # of Student's distribution, because work is no step
_SHAPE = 0.04  # of the step
_LEAST_STEP_W = 20.0
_FEWEST, _LAST_S = 2, 0.04
_WORST_FIT, _GOOD_FIT = 6.0, 1.0  # mean square of the deviations
_AGREE = 2.0
_VAGUE = 0.3
_USUAL_WITHIN_S = 0.004
_NO_LAG_S = 0.002


# Of a grid in the logarithm.
_USUAL = np.exp(-0.5 * ((_TAUS_S - LAG_S) / _USUAL_SD_S) ** 2) / (_USUAL_SD_S * math.sqrt(2.0 * math.pi))
_LOG_PRIOR = np.log((1.0 - _UNUSUAL) * _TAUS_S * _USUAL + _UNUSUAL / math.log(_TAUS_S[-1] / _TAUS_S[0]))


class Span(NamedTuple):
    """A window: from one synchronisation of the device to the other, in seconds."""

    start_s: float
    end_s: float


class Lag(NamedTuple):
    """How a sensor follows the power.

    Attributes:
        seconds: time constant, in seconds.
        error_s: its standard uncertainty, in seconds.
        dated_late_s: how long after the instant of its value a sample is dated, in seconds.
    """

    seconds: float = LAG_S
    error_s: float = _USUAL_SD_S
    dated_late_s: float = SAMPLE_LATE_S


def seen_lag(samples: Sequence[PowerSample], first: Span, last: Span, idle: Idle) -> Lag:
    """The lag by the samples about the start of the first window and the end of the last one.

    For each, the posterior of a prior that expects 12 ms, and Student's distribution about the curve of a filter of
    first order: from idle to a constant power at the start, from the last power to idle at the end. Another lag is
    believed where both ends show it: work may begin slowly or change at once, and a board settle slowly.
    """
    times_s = np.array([sample.time_s for sample in samples])
    above_w = np.array([sample.power_w for sample in samples]) - idle.power_w
    lag = _seen(times_s - SAMPLE_LATE_S, above_w, first, last, idle)
    if lag.seconds >= _NO_LAG_S:
        return lag
    # A sensor that follows at once dates its samples rightly.
    return _seen(times_s, above_w, first, last, idle)._replace(dated_late_s=0.0)


def _seen(times_s: np.ndarray, above_w: np.ndarray, first: Span, last: Span, idle: Idle) -> Lag:
    rise, fall = _rise(times_s, above_w, first, idle.noise_w), _fall(times_s, above_w, last, idle)
    sides = [side for side in (rise, fall) if side is not None]
    lags = [_posterior(side.log) for side in sides]
    if len(lags) == 2 and abs(lags[0].seconds - lags[1].seconds) <= _AGREE * math.hypot(*(lag.error_s for lag in lags)):
        both = _posterior(sides[0].log + sides[1].log)
        return both if both.error_s <= max(_VAGUE * both.seconds, _AGREE * _USUAL_SD_S) else Lag()
    usual = [lag for lag in lags if abs(lag.seconds - LAG_S) + lag.error_s <= _USUAL_WITHIN_S]
    if not usual and fall is not None and fall.misfit <= _GOOD_FIT:
        # Of the sensor or of the board: it may be either.
        seen = _posterior(fall.log)
        return Lag(error_s=math.hypot(seen.error_s, seen.seconds - LAG_S))
    return usual[0] if usual else Lag()


class _Side(NamedTuple):
    log: np.ndarray  # likelihood, logarithm for each lag
    misfit: float  # mean square of the deviations, of the best lag


def _rise(times_s: np.ndarray, above_w: np.ndarray, span: Span, noise_w: float) -> _Side | None:
    inside = (times_s > span.start_s) & (times_s <= min(span.start_s + _RISE_S, span.end_s))
    if inside.sum() < _FEWEST:
        return None
    rise = -np.expm1(-(times_s[inside] - span.start_s) / _TAUS_S[:, None])
    # The constant power that fits best.
    step_w = (rise @ above_w[inside]) / np.sum(rise * rise, axis=1)
    return _likelihood(above_w[inside] - step_w[:, None] * rise, step_w, noise_w)


def _fall(times_s: np.ndarray, above_w: np.ndarray, span: Span, idle: Idle) -> _Side | None:
    inside = (times_s > span.end_s) & (times_s <= span.end_s + _FALL_S)
    before = (times_s > span.end_s - _LAST_S) & (times_s <= span.end_s) & (times_s > span.start_s)
    if inside.sum() < _FEWEST or not before.any():
        return None
    step_w = np.full(len(_TAUS_S), float(np.mean(above_w[before])))
    fall = np.exp(-(times_s[inside] - span.end_s) / _TAUS_S[:, None])
    return _likelihood(above_w[inside] - idle.rise_w - (step_w[:, None] - idle.rise_w) * fall, step_w, idle.noise_w)


def _likelihood(off_w: np.ndarray, step_w: np.ndarray, noise_w: float) -> _Side | None:
    """From a row of deviations for each lag; ``None`` where the power makes no step that fits any."""
    if float(np.max(np.abs(step_w))) < _LEAST_STEP_W:
        return None
    error_w = np.hypot(noise_w, _SHAPE * np.abs(step_w))[:, None]
    squares = (off_w / error_w) ** 2
    misfit = float(np.min(np.mean(squares, axis=1)))
    if misfit > _WORST_FIT:
        return None
    log = -np.sum(np.log1p(squares / _FREEDOM) * (_FREEDOM + 1.0) / 2.0 + np.log(error_w), axis=1)
    return _Side(log, misfit)


def _posterior(likelihood: np.ndarray) -> Lag:
    log = _LOG_PRIOR + likelihood
    share = np.exp(log - log.max())
    share /= share.sum()
    mean_s = float(share @ _TAUS_S)
    error_s = math.sqrt(float(share @ (_TAUS_S - mean_s) ** 2))
    return Lag(mean_s, max(error_s, _USUAL_SD_S, _LEAST_SHARE * mean_s))
