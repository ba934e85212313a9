"""The power of prefill and of decoding, fitted to samples of power that lag behind them.

In window w the power is taken to be::

    decoding_w + (prefill - decoding) [in prefill] + slope (u - 1/2) [decoding, u from 0 to 1] + (gap - decoding) [gap]

with the differences common to all windows and the level ``decoding_w`` of each its own: rounds differ by more than
noise where a host is shared.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_llem.distributions import t_quantile
from pytest_llem.measurement.sensors import KINDS, LAGS_S, LOG_PRIOR, SENSORS, USUAL, Sensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.measurement.phased_windows import FirstTokens, PhasedWindow

_COVERAGE_FACTOR = 2.0
# Samples this long before a window show what the sensor remembers at its start.
_BEFORE_S = 0.045
# Of the samples' noise: 0.85 from one to the next, 20 ms later; a part has no correlation.
_CORRELATION_S = 0.123
_WHITE_SHARES = (0.03, 0.2, 1.0)
_NOISE_SHARES = np.geomspace(0.2, 1.4, 7)  # of the residuals' root mean square
_PIECE = 60  # samples whose noise is looked at together: ten times as long as it correlates
# Of a board, in pieces spread evenly: more of them take the host long, and little of the interval is noise by then.
_MOST_SAMPLES = 3000
_LEAST_NOISE_W = 0.3
# Standard deviations, of the window's power: how much it changes over a call, and that between two calls.
_SLOPE_SD, _GAP_SD = 0.15, 0.5
_GAIN_SD = 0.002  # of samples beside the counter, on two H200
_DATE_SD_S = 0.0007  # of the samples of a window, all shifted together
# First tokens that are tried about their mean, in standard deviations, and their weights.
_NODES = np.linspace(-3.0, 3.0, 9)
_NODE_WEIGHTS = np.exp(-(_NODES**2) / 2.0) / np.exp(-(_NODES**2) / 2.0).sum()
_BETWEEN_NODES = 0.3
_NODE_VARIANCE = float(_NODE_WEIGHTS @ _NODES**2)


# Of sensors that are none of these; and when one of them, or how far the first tokens are moved, says that it is one.
_LAGS_BEYOND_S = (0.003, 0.006, 0.02, 0.03, 0.05, 0.09)
_CLEARLY_BETTER, _MOST_MOVED_BY = 15.0, 2.0
_TENTHS = 10
# How far the delay of the sensor may be off even where the samples seem to tell it.
_DELAY_SD_S = 0.0006
# Prefill is no rectangle of power, so what seems to tell the sensor may tell that: it counts for a part.
_TEMPER = 4.0
# Columns of a design: those that all windows share, then a window's own. The token's is how far first tokens come later
# than in the instrumented passes, in units of that.
_TOKEN, _PREFILL, _SLOPE, _GAP, _OWN, _BEFORE = range(6)
_SHARED = 4
_ITERATIONS, _MOST_MOVED = 4, 0.3


@dataclass(frozen=True)
class Stretch:
    """The samples of one board about one window."""

    window: PhasedWindow
    times_s: np.ndarray
    powers_w: np.ndarray
    joules: float | None
    error_j: float
    starts_s: np.ndarray
    ends_s: np.ndarray

    @classmethod
    def of(cls, window: PhasedWindow, uuid: str) -> Stretch | None:
        curve = window.power_curves.get(uuid)
        if curve is None or not window.calls:
            return None
        times_s, powers_w = np.array(curve.times_s), np.array(curve.powers_w)
        inside = (times_s >= -_BEFORE_S) & (times_s <= window.seconds)
        if not inside.any():
            return None  # the driver no longer had any
        joules = window.boards_j.get(uuid)
        error_j = (window.uncertainty_j or 0.0) / _COVERAGE_FACTOR
        if joules is not None:
            error_j = math.hypot(error_j, _GAIN_SD * joules)
        return cls(
            window,
            times_s[inside],
            powers_w[inside],
            joules,
            error_j,
            np.array([call.start_s for call in window.calls]),
            np.array([call.end_s for call in window.calls]),
        )


@dataclass(frozen=True)
class _Piece:
    """Neighbouring samples of a stretch, which is the ``number``-th."""

    number: int
    times_s: np.ndarray
    powers_w: np.ndarray

    @property
    def columns(self) -> list[int]:
        """Those of a design, among all levels."""
        own = _SHARED + 2 * self.number
        return [*range(_SHARED), own, own + 1]


@dataclass(frozen=True)
class Prefill:
    """The prefill of a call on one board.

    Attributes:
        joules: of it.
        half_width_j: of the 95% interval.
        scale: how long it takes, in units of what the instrumented passes say.
        unknown_sensor: whether the samples follow the power as no sensor that is known does.
    """

    joules: float
    half_width_j: float
    scale: float
    unknown_sensor: bool


def prefill_energy(stretches: Sequence[Stretch], tokens: FirstTokens) -> Prefill:
    model = Model(stretches, tokens)
    estimates = [model.fit(sensor) for sensor in SENSORS]
    chi2 = np.array([estimate.chi2 for estimate in estimates])
    joules = np.array([estimate.joules for estimate in estimates])
    variances = np.array([estimate.variance_j2 for estimate in estimates])
    # A shape that is none of these leaves a misfit: the factor of Birge, as in the CODATA adjustments.
    misfit = max(1.0, float(chi2.min()) / model.degrees)
    log_weights = LOG_PRIOR - chi2 / (2.0 * _TEMPER * misfit)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean_j = float(weights @ joules)
    variance_j2 = float(weights @ (misfit * variances + (joules - mean_j) ** 2))
    best = int(np.argmax(log_weights))
    shifted_s = (SENSORS[best].delay_s - _DELAY_SD_S, SENSORS[best].delay_s + _DELAY_SD_S)
    shifted_j = [model.fit(replace(SENSORS[best], delay_s=delay_s)).joules for delay_s in shifted_s]
    delay_j = math.sqrt(statistics.fmean((shifted - joules[best]) ** 2 for shifted in shifted_j))
    half_width_j = _COVERAGE_FACTOR * math.hypot(math.sqrt(variance_j2), delay_j)
    if len(stretches) > 1:
        # Rounds differ: the same term as in the mean energy of a call.
        between_j = statistics.stdev(estimates[best].of_windows_j)
        half_width_j = math.hypot(
            half_width_j, t_quantile(0.975, len(stretches) - 1) * between_j / math.sqrt(len(stretches))
        )
    half_width_j *= _repetition(stretches)
    scale = float(weights @ np.array([estimate.scale for estimate in estimates]))
    return Prefill(mean_j, half_width_j, scale, _is_unknown(model, chi2, misfit, abs(scale - 1.0) / tokens.error))


def _repetition(stretches: Sequence[Stretch]) -> float:
    """In how many tenths of their period samples would meet these calls by chance, over those in which they have.

    Where calls last a multiple of that period, the same part of each phase is seen again and again, and the rest never.
    """
    period_s = float(np.median(np.concatenate([np.diff(stretch.times_s) for stretch in stretches])))
    # Calls that are shorter than it have no later part that samples could meet.
    usual_s = float(np.median(np.concatenate([stretch.ends_s - stretch.starts_s for stretch in stretches])))
    period_s = min(period_s, usual_s)
    met: set[int] = set()
    calls = 0
    for stretch in stretches:
        call = np.searchsorted(stretch.starts_s, stretch.times_s, side="right") - 1
        inside = (call >= 0) & (stretch.times_s <= stretch.ends_s[call])
        since_s = stretch.times_s[inside] - stretch.starts_s[call[inside]]
        met.update(np.floor(since_s % period_s / period_s * _TENTHS).astype(int).tolist())
        calls += len(np.unique(call[inside]))
    return max(_TENTHS * (1.0 - (1.0 - 1.0 / _TENTHS) ** calls) / max(len(met), 1), 1.0)


def _is_unknown(model: Model, chi2: np.ndarray, misfit: float, moved: float) -> bool:
    """Whether the sensor is none of those that are tried: it would be taken for the nearest one and for a prefill of
    another length and power.

    Args:
        moved: how far the samples have moved the first tokens, in standard uncertainties of these.
    """
    nearest = SENSORS[int(np.argmin(chi2))]
    if nearest.mean_s or nearest.lag_s in (LAGS_S[0], LAGS_S[-1]):
        beyond = min(model.fit(Sensor(USUAL.delay_s, lag_s)).chi2 for lag_s in _LAGS_BEYOND_S)
        return moved > _MOST_MOVED_BY or float(chi2.min()) - beyond > _CLEARLY_BETTER * misfit
    return False


@dataclass(frozen=True)
class Fit:
    joules: float
    variance_j2: float
    chi2: float
    scale: float
    of_windows_j: list[float]
    levels: np.ndarray
    residuals_w: list[np.ndarray]


class Model:
    """Least squares over all stretches, with the noise as the samples have it.

    Attributes:
        degrees: degrees of freedom.
    """

    def __init__(self, stretches: Sequence[Stretch], tokens: FirstTokens) -> None:
        self._stretches = stretches
        self._spread = max(tokens.spread, 1e-3)
        self._first_s = [np.array([tokens.mean_s[c.index] for c in s.window.calls]) for s in stretches]
        self._power_w = statistics.fmean(float(np.mean(s.powers_w)) for s in stretches)
        self._count = sum(len(first_s) for first_s in self._first_s)
        every = _PIECE * math.ceil(sum(len(s.times_s) for s in stretches) / _MOST_SAMPLES)
        self._pieces = [
            _Piece(number, s.times_s[first : first + _PIECE], s.powers_w[first : first + _PIECE])
            for number, s in enumerate(stretches)
            for first in range(0, len(s.times_s), every)
        ]
        samples = sum(len(piece.times_s) for piece in self._pieces)
        self.degrees = max(samples - 2 * len(stretches) - 1, 1)
        self._token_sd = tokens.error
        self._scale = 1.0
        self._sensor = USUAL
        self._levels = np.zeros(_SHARED + 2 * len(stretches))
        self._whitening = [np.eye(len(piece.times_s)) for piece in self._pieces]
        for _ in range(_ITERATIONS):
            # Gauss and Newton: first tokens enter not linearly.
            fits = {sensor: self.fit(sensor) for sensor in KINDS}
            self._sensor = min(KINDS, key=lambda sensor: fits[sensor].chi2)
            fit = fits[self._sensor]
            self._levels = fit.levels.copy()
            self._whitening = self._noise(fit)
            self._scale *= 1.0 + min(max(fit.levels[_TOKEN], -_MOST_MOVED), _MOST_MOVED)
            self._levels[_TOKEN] = 0.0

    def _design(self, piece: _Piece, sensor: Sensor) -> np.ndarray:
        """What a sensor shows of each level, with the first tokens' column linear about the levels found so far."""
        designs = self._designs(piece.number, sensor, piece.times_s)
        design: np.ndarray = np.tensordot(_NODE_WEIGHTS, designs, axes=1)
        moved = np.tensordot(_NODE_WEIGHTS * _NODES, designs, axes=1) / _NODE_VARIANCE / self._spread
        design[:, _TOKEN] = moved @ self._levels[piece.columns]
        return design

    def fit(self, sensor: Sensor) -> Fit:
        """The levels that fit best through this sensor, and the prefill's joules of a call."""
        size = _SHARED + 2 * len(self._stretches)
        normal, right, squares = np.zeros((size, size)), np.zeros(size), 0.0
        weights = np.zeros(size)
        designs = [self._design(piece, sensor) for piece in self._pieces]
        equations = [
            (piece.columns, white @ design, white @ piece.powers_w)
            for piece, white, design in zip(self._pieces, self._whitening, designs, strict=True)
        ]
        equations += [found for number in range(len(self._stretches)) for found in self._counted(number)]
        for columns, rows, values in equations:
            normal[np.ix_(columns, columns)] += rows.T @ rows
            right[columns] += rows.T @ values
            squares += float(values @ values)
        for number in range(len(self._stretches)):
            prefill_s = self._scale * float(self._first_s[number].sum()) / self._count
            weights[_PREFILL] += prefill_s
            weights[_SHARED + 2 * number] = prefill_s
            weights[_TOKEN] += prefill_s * (self._levels[_PREFILL] + self._levels[_SHARED + 2 * number])
        # The scale so far times 1 + x is 1 but for the error of the first tokens.
        normal[_TOKEN, _TOKEN] += (self._scale / self._token_sd) ** 2
        right[_TOKEN] += self._scale * (1.0 - self._scale) / self._token_sd**2
        squares += ((1.0 - self._scale) / self._token_sd) ** 2
        normal[_SLOPE, _SLOPE] += (_SLOPE_SD * self._power_w) ** -2
        normal[_GAP, _GAP] += (_GAP_SD * self._power_w) ** -2
        # Columns that nothing tells of (windows back to back have no level before them) stay at zero.
        normal += np.diag(np.where(np.diag(normal) == 0.0, 1.0, 0.0))
        inverse = np.linalg.pinv(normal, hermitian=True)
        levels = inverse @ right
        residuals_w = [
            piece.powers_w - design @ levels[piece.columns] for piece, design in zip(self._pieces, designs, strict=True)
        ]
        chi2 = squares - float(right @ levels)
        scale = self._scale * (1.0 + float(levels[_TOKEN]))
        mean_s = self._scale * float(np.mean(np.concatenate(self._first_s)))
        of_windows_j = [mean_s * float(levels[_PREFILL] + own) for own in levels[_SHARED::2]]
        return Fit(
            float(weights @ levels), float(weights @ inverse @ weights), chi2, scale, of_windows_j, levels, residuals_w
        )

    def _counted(self, number: int) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """The window's joules as one more equation, in units of their error, where they are known."""
        stretch = self._stretches[number]
        if stretch.joules is None or stretch.error_j == 0.0:
            return
        gap_s = stretch.window.seconds - float(np.sum(stretch.ends_s - stretch.starts_s))
        prefill_s = self._scale * float(self._first_s[number].sum())
        row = np.array([[prefill_s * self._levels[_PREFILL], prefill_s, 0.0, gap_s, stretch.window.seconds]])
        columns = [*range(_SHARED), _SHARED + 2 * number]
        yield columns, row / stretch.error_j, np.array([stretch.joules / stretch.error_j])

    def _noise(self, fit: Fit) -> list[np.ndarray]:
        """For each piece what makes its noise white: the one that makes the residuals most probable."""
        fixed_w2 = [self._fixed_noise(piece, fit.levels) for piece in self._pieces]
        lags_s = [np.abs(piece.times_s[:, None] - piece.times_s) for piece in self._pieces]
        residuals_w = fit.residuals_w
        rms_w = float(np.sqrt(np.mean(np.concatenate(residuals_w) ** 2)))
        best, found = -math.inf, []
        for white in _WHITE_SHARES:
            alike = [(1.0 - white) * np.exp(-lag_s / _CORRELATION_S) + white * np.eye(len(lag_s)) for lag_s in lags_s]
            for noise_w in np.unique(np.maximum(rms_w * _NOISE_SHARES, _LEAST_NOISE_W)):
                whitening = [
                    np.linalg.inv(np.linalg.cholesky(noise_w**2 * noise + of_piece_w2))
                    for noise, of_piece_w2 in zip(alike, fixed_w2, strict=True)
                ]
                log_likelihood = sum(
                    -0.5 * float(np.sum((w @ r) ** 2)) + float(np.sum(np.log(np.diag(w))))
                    for w, r in zip(whitening, residuals_w, strict=True)
                )
                if log_likelihood > best:
                    best, found = log_likelihood, whitening
        return found

    def _fixed_noise(self, piece: _Piece, levels: np.ndarray) -> np.ndarray:
        """Covariance from what is off in time: first tokens from call to call, the dates of all samples together."""
        own = levels[piece.columns]
        designs = self._designs(piece.number, self._sensor, piece.times_s)
        deviations_w = (designs - np.tensordot(_NODE_WEIGHTS, designs, axes=1)) @ own
        # A first token that is late moves the samples of its own call, and no others.
        starts_s = self._stretches[piece.number].starts_s
        call = np.searchsorted(starts_s, piece.times_s - self._sensor.delay_s)
        covariance: np.ndarray = (deviations_w.T * _NODE_WEIGHTS) @ deviations_w * (call[:, None] == call[None, :])
        # A step is at any instant, not at these few: the samples about it are less alike than they make them.
        covariance += _BETWEEN_NODES * np.diag(np.diag(covariance))
        moved = [
            np.tensordot(_NODE_WEIGHTS, self._designs(piece.number, self._sensor, piece.times_s + s), axes=1)
            for s in (-5e-4, 5e-4)
        ]
        slopes = (moved[1] - moved[0]) @ own / 1e-3
        total: np.ndarray = covariance + np.outer(slopes, slopes) * _DATE_SD_S**2
        return total

    def _designs(self, number: int, sensor: Sensor, times_s: np.ndarray) -> np.ndarray:
        """What a sensor shows of each level at these dates, for several first tokens: (token, date, level)."""
        at_s = times_s[:, None] - sensor.ages_s()
        # NumPy's difference runs from the youngest to the oldest.
        means = np.diff(self._areas(number, at_s), axis=2) / np.diff(at_s, axis=1)[None, :, :, None]
        shown: np.ndarray = np.mean(means, axis=2)
        return shown

    def _areas(self, number: int, at_s: np.ndarray) -> np.ndarray:
        """Integrals of each level's indicator from the window's start to instants: (token, date, instant, level)."""
        stretch = self._stretches[number]
        starts_s, lengths_s = stretch.starts_s, stretch.ends_s - stretch.starts_s
        call = np.searchsorted(starts_s, at_s, side="right") - 1
        begun = call >= 0
        call = np.maximum(call, 0)
        since_s = np.where(begun, np.minimum(at_s - starts_s[call], lengths_s[call]), 0.0)
        calls_s = np.concatenate(([0.0], np.cumsum(lengths_s)))[call]
        inside_s, before_s = np.maximum(at_s, 0.0), np.minimum(at_s, 0.0)
        areas = np.zeros((len(_NODES), *at_s.shape, _SHARED + 2))
        areas[..., _GAP] = inside_s - calls_s - since_s
        areas[..., _OWN] = inside_s
        if stretch.window.previous_end_s is None:
            areas[..., _BEFORE] = before_s
        else:
            areas[..., _OWN] += before_s
            areas[..., _GAP] += np.maximum(before_s, stretch.window.previous_end_s)
        for node, shown in zip(_NODES, areas, strict=True):
            first_s = np.clip(self._first_s[number] * self._scale * (1.0 + self._spread * node), 0.0, lengths_s)
            decode_s = np.maximum(lengths_s - first_s, 1e-9)
            done_s = np.concatenate(([0.0], np.cumsum(first_s)))
            in_prefill_s = np.minimum(since_s, first_s[call])
            in_decode_s = since_s - in_prefill_s
            shown[..., _PREFILL] = done_s[call] + in_prefill_s
            shown[..., _SLOPE] = in_decode_s * (in_decode_s / decode_s[call] - 1.0) / 2.0
        return areas
