"""What a board drew over a stretch of windows, from samples of its power and the instants that the work is known by.

The sensor follows the true power p like a filter of first order, tau dq/dt = p - q. So between two instants::

    integral of p = integral of q + tau (q2 - q1)

and where p is constant, q tends to it exponentially. A step of power at an unknown moment between two samples
is best integrated by a trapezoid, which is right on average. At the start and the end of a window the moment is known,
so there p is taken to be constant from one known instant to the next: before the end of a window as it was before, in a
gap too short for samples idle, and after a start whatever leads to the next sample.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_llem.meters.nvidia.sensor_lag import Lag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.idle_power import Idle
    from pytest_llem.meters.nvidia.samples import PowerSample
    from pytest_llem.meters.nvidia.sensor_lag import Span

_STEP_ERROR = 0.15  # of a step between two samples: standard uncertainty of its date, in their distance
_START_ERROR_S = 0.002  # the same where a window starts: the host takes a moment to bring its device to work
# The power in a gap, standard uncertainty: how much of the work's is left, for 0.4 ms at most (in two recordings of
# an H200 the sensor lagged no more after the end of work than after its start), and idle power itself.
_GAP_ERROR, _GAP_ERROR_S, _GAP_ERROR_W = 0.05, 0.0004, 2.0
_USUAL_DOUBT = 0.1  # uncertainty of a usual lag, as a share of it
_UNSEEN = 0.8  # of what power changes by from sample to sample (root mean square), where no sample shows it
_ALIKE = (1.0 + 0.85) / (1.0 - 0.85)  # variance of a sum of samples, beside that of independent ones
_HOLE_S = 0.09  # without samples for so long, nothing is known of the power
_HOLE_ERROR = 0.5  # of the power before it
_AFTER_JUMP_LAGS = 3.0
_TOLD_LAGS = 0.7  # how long before a sample a step must be for its power to be told


class Drawn(NamedTuple):
    """State at an instant.

    Attributes:
        energy_j: what the board has drawn since the first sample, in joules.
        sensed_w: what its sensor shows, in watts.
        variance_j2: its variance since the part began, in joules squared, which grows like that of a random walk.
        part: number of stretches without samples so far: what was drawn in them is not known.
    """

    energy_j: float
    sensed_w: float
    variance_j2: float
    part: int = 0


class _Node(NamedTuple):
    time_s: float
    energy_j: float
    sensed_w: float
    variance_j2: float
    part: int
    power_w: float | None  # until the next node, where that is taken to be constant


class PowerTrace:
    """The power of a board, integrated; see the module."""

    def __init__(self, samples: Sequence[PowerSample], spans: Sequence[Span], idle: Idle, lag: Lag) -> None:
        """Integrate.

        Args:
            samples: oldest first, at least two, from before the first span to the newest.
            spans: the windows, in their order.
            idle: power while nothing runs.
            lag: of the sensor.
        """
        self._tau_s = tau_s = lag.seconds
        self._idle = idle
        # A lag that is not known misplaces what a sample within a gap shows.
        self._doubt = max(lag.error_s / (_USUAL_DOUBT * max(lag.seconds, Lag().seconds)), 1.0)
        self._nodes: list[_Node] = []
        self._last_jump_s = -math.inf
        self._work_w = idle.power_w
        self._restless_w = _restlessness_w(samples, spans, lag)
        starts = {span.start_s for span in spans}
        jumps_s = sorted({instant_s for span in spans for instant_s in span})
        state = Drawn(0.0, samples[0].power_w, 0.0)
        now_s, power_w = samples[0].time_s - lag.dated_late_s, samples[0].power_w
        working, seen = False, True
        place = bisect.bisect_right(jumps_s, now_s)
        for sample in samples[1:]:
            until_s = sample.time_s - lag.dated_late_s
            began_s = now_s
            while place < len(jumps_s) and jumps_s[place] <= until_s:
                jump_s = jumps_s[place]
                unseen = now_s != began_s or not seen
                if unseen or (not working and now_s - self._last_jump_s < _HOLE_S):
                    # Too short to be seen: idle between windows, and a window as the last one was.
                    power_w = self._work_w if working else idle.power_w
                error_j = self._guess_error_j(jump_s - now_s, working, unseen)
                state = self._constant(now_s, jump_s, state, power_w, error_j)
                now_s, self._last_jump_s = jump_s, jump_s
                working = jump_s in starts
                place += 1
            state, power_w = self._to_sample(now_s, until_s, state, sample.power_w, now_s != began_s, working)
            seen = now_s == began_s or until_s - now_s >= _TOLD_LAGS * tau_s
            if working and seen:
                self._work_w = power_w
            now_s = until_s
        self._nodes.append(_Node(now_s, *state, power_w))
        self._times_s = [node.time_s for node in self._nodes]

    def at(self, instant_s: float) -> Drawn:
        """State at an instant; beyond the newest sample with the last power."""
        place = max(bisect.bisect_right(self._times_s, instant_s) - 1, 0)
        node = self._nodes[place]
        elapsed_s = instant_s - node.time_s
        following = self._nodes[place + 1] if place + 1 < len(self._nodes) else None
        if node.power_w is not None or following is None:
            power_w = self._work_w if node.power_w is None else node.power_w
            sensed_w = power_w + (node.sensed_w - power_w) * math.exp(-elapsed_s / self._tau_s)
            energy_j = node.energy_j + power_w * elapsed_s
        else:
            share = elapsed_s / (following.time_s - node.time_s)
            sensed_w = node.sensed_w + share * (following.sensed_w - node.sensed_w)
            mean_w = (node.sensed_w + sensed_w) / 2.0
            energy_j = node.energy_j + mean_w * elapsed_s + self._tau_s * (sensed_w - node.sensed_w)
        if following is None or following.part != node.part:
            grown_j2 = (_HOLE_ERROR * node.sensed_w * elapsed_s) ** 2
        else:
            grown_j2 = following.variance_j2 - node.variance_j2
            grown_j2 *= elapsed_s / max(following.time_s - node.time_s, 1e-9)
        return Drawn(energy_j, sensed_w, node.variance_j2 + grown_j2, node.part)

    def _constant(self, from_s: float, to_s: float, state: Drawn, power_w: float, error_j: float) -> Drawn:
        self._nodes.append(_Node(from_s, *state, power_w))
        seconds = to_s - from_s
        return Drawn(
            state.energy_j + power_w * seconds,
            power_w + (state.sensed_w - power_w) * math.exp(-seconds / self._tau_s),
            state.variance_j2 + error_j**2 + self._noise_j2(seconds),
            state.part,
        )

    def _to_sample(
        self, from_s: float, to_s: float, state: Drawn, sensed_w: float, jumped: bool, working: bool
    ) -> tuple[Drawn, float]:
        """Go on to the next sample; the state there, and the mean power until it."""
        seconds, tau_s = to_s - from_s, self._tau_s
        if seconds <= 0.0:
            return state._replace(sensed_w=sensed_w), self._idle.power_w
        step_w = abs(sensed_w - state.sensed_w)
        if from_s - self._last_jump_s < _AFTER_JUMP_LAGS * tau_s:
            decay = math.exp(-seconds / tau_s)
            power_w = (sensed_w - decay * state.sensed_w) / (1.0 - decay)
            error_j = _STEP_ERROR * seconds * step_w
            if jumped:
                above_w = abs(power_w - self._idle.power_w)
                error_j = self._gap_error_j(seconds, above_w)
                if working:
                    error_j = math.hypot(_START_ERROR_S * above_w, _UNSEEN * self._restless_w * seconds)
            constant_w: float | None = power_w
        else:
            power_w = (state.sensed_w + sensed_w) / 2.0 + tau_s * (sensed_w - state.sensed_w) / seconds
            error_j = _STEP_ERROR * seconds * step_w
            constant_w = None
        self._nodes.append(_Node(from_s, *state, constant_w))
        energy_j = state.energy_j + power_w * seconds
        if seconds > _HOLE_S:
            return Drawn(energy_j, sensed_w, 0.0, state.part + 1), power_w
        variance_j2 = state.variance_j2 + error_j**2 + self._noise_j2(seconds)
        return Drawn(energy_j, sensed_w, variance_j2, state.part), power_w

    def _guess_error_j(self, seconds: float, working: bool, unseen: bool) -> float:
        """Of a stretch before a known instant, whose power no sample shows.

        Args:
            seconds: how long it is.
            working: whether it is of a window.
            unseen: whether no earlier sample shows the power of that window either.
        """
        above_w = abs(self._work_w - self._idle.power_w)
        if working:
            return math.hypot(self._restless_w, above_w if unseen else 0.0) * _UNSEEN * seconds
        return self._gap_error_j(seconds, above_w)

    def _gap_error_j(self, seconds: float, above_w: float) -> float:
        return self._doubt * min(_GAP_ERROR * seconds, _GAP_ERROR_S) * above_w + _GAP_ERROR_W * seconds

    def _noise_j2(self, seconds: float) -> float:
        return _ALIKE * (self._idle.noise_w * seconds) ** 2


def _restlessness_w(samples: Sequence[PowerSample], spans: Sequence[Span], lag: Lag) -> float:
    """How much the power changes from one sample to the next while the board works: root mean square, in watts."""
    times_s = np.array([sample.time_s - lag.dated_late_s for sample in samples])
    sensed_w = np.array([sample.power_w for sample in samples])
    powers_w = sensed_w[1:] + lag.seconds * np.diff(sensed_w) / np.maximum(np.diff(times_s), 1e-3)
    before = np.searchsorted([span.start_s for span in spans], times_s[:-2] - _AFTER_JUMP_LAGS * lag.seconds) - 1
    ends_s = np.array([span.end_s for span in spans])
    inside = (before >= 0) & (times_s[2:] <= ends_s[before])
    changes_w = np.diff(powers_w)[inside]
    return float(np.sqrt(np.mean(changes_w**2))) if len(changes_w) else 0.0
