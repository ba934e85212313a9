"""The energy of a window from counter edges outside it, with its 95% interval.

A window starts just after an edge and ends somewhere between two: the counter's next edge also holds the
*tail*, what the board used from the end of the work to that edge. After work the power of a board does not
step to idle, it decays for tens to hundreds of milliseconds, so the tail cannot be taken at idle power. Later
edges show the decay, and :mod:`pytest_llem.meters.decay` fits it. What the fit learns about the board and the
workload, :class:`TailModel` carries from window to window.

The interval is the one about the mean that holds 95% of the mixture of fits, widened by the misfit of earlier
windows (Birge ratio, as in the CODATA adjustments). It does not hold the gain error of the board's sensor,
nor a delay between what the counter says and when it says it: outside the work neither can be seen. A delay
costs its length times the power by which the board falls at the end of the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pytest_llem.meters.decay import CANDIDATES, PowerPrior, carry_weights, fit_decays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.alignment import CounterTiming, Edge
    from pytest_llem.meters.decay import Candidate, DecayFit, Mixture

_COVERAGE = 0.95
_COVERAGE_FACTOR = 1.96
_SQRT12 = math.sqrt(12.0)

# A in units of the mean power above idle during the work: below one, since prefill draws more than the decode
# steps that follow it. How it differs between workloads, between windows of one workload, and how fast a
# session drifts.
_END_TO_MEAN = 0.85
_END_TO_MEAN_SD = 0.35
_END_TO_MEAN_WINDOW_SD = 0.3
_END_TO_MEAN_DRIFT = 0.05

_ASSUMED_IDLE_ERROR = 0.02  # relative standard uncertainty of an idle power given without one
_UNKNOWN_IDLE_SD = 0.3  # relative; the power before the last edge stands in for an idle power never measured
# Relative change of idle power from one window to the next: the board warms up and cools down.
_IDLE_DRIFT = 0.01

# Relative error of what a fitted decay says about the power long after its last edge.
_LINGERING_ERROR = 0.1
# Relative error of the tail's energy above idle for a decay of none of the forms: so much, and as much again
# for every time that this energy is larger than what the edges showed of the decay.
_FORM_ERROR = 0.02
_LARGEST_FORM_ERROR = 0.3

_MISFIT_PRIOR = 4.0  # degrees of freedom that the assumption "the model fits" is worth
_MISFIT_MEMORY = 0.9

_LEARNED_AFTER = 3  # windows
_UNLEARNED_WAIT_PERIODS = 5.0
# The wait ends in the last period before this limit: three periods on average where the phase is random.
_LEARNED_WAIT_PERIODS = 3.4


class WindowEnergy(NamedTuple):
    """Energy of a window.

    Attributes:
        joules: the energy, in joules.
        uncertainty_j: half-width of its 95% interval, in joules.
    """

    joules: float
    uncertainty_j: float


@dataclass(frozen=True)
class _Tail:
    """What followed an earlier window: its end, its last edge, and the decays that may have been."""

    end_s: float
    last_edge: Edge
    decays: tuple[tuple[float, Candidate], ...]

    def mean_excess_w(self, from_s: float, to_s: float) -> float:
        """Mean power above idle between two instants, in watts."""
        excess_j = sum(
            excess_w * (candidate.integral_s(to_s - self.end_s) - candidate.integral_s(from_s - self.end_s))
            for excess_w, candidate in self.decays
        )
        return excess_j / (to_s - from_s)


class TailModel:
    """What is known about one board's power around work, learned from window to window.

    Args:
        idle_power_w: idle power with the model loaded, in watts, where it was measured.
        idle_uncertainty_w: its standard uncertainty, in watts; default: 2%.

    Attributes:
        idle_power_w: idle power of the warm board, in watts; ``None`` before the first window where none was
            given.
        idle_uncertainty_w: its standard uncertainty, in watts.
        end_to_mean: power above idle at the end of the work, in units of its mean during the work.
        windows: how many windows it has learned from.
    """

    def __init__(self, idle_power_w: float | None = None, idle_uncertainty_w: float | None = None) -> None:
        self.idle_power_w: float | None = None
        self.idle_uncertainty_w: float | None = None
        self.windows = 0
        self._weights = [candidate.prior for candidate in CANDIDATES]
        self.end_to_mean = _END_TO_MEAN
        self._end_to_mean_variance = _END_TO_MEAN_SD**2
        self._misfit = 0.0
        self._freedom = 0.0
        self._previous: _Tail | None = None
        if idle_power_w is not None:
            if idle_uncertainty_w is None:
                idle_uncertainty_w = _ASSUMED_IDLE_ERROR * idle_power_w
            self.set_idle_power(idle_power_w, idle_uncertainty_w)

    @property
    def learned(self) -> bool:
        """Whether idle power and decay are known, so that fewer edges are enough."""
        return self.windows >= _LEARNED_AFTER

    def set_idle_power(self, power_w: float, uncertainty_w: float) -> None:
        """Take over a measured idle power and its standard uncertainty, in watts."""
        self.idle_power_w = power_w
        self.idle_uncertainty_w = uncertainty_w

    def interrupt(self) -> None:
        """The counter was reset: what it shows next does not continue the last window's tail."""
        self._previous = None

    def wants_another_edge(self, edges: int, waited_s: float, timing: CounterTiming) -> bool:
        """Whether to wait for one more edge after the work: two at least, more while the wait is short.

        The wait is five update periods at most while the board is unknown, three on average once it is known.

        Args:
            edges: how many were found after the work.
            waited_s: how long the meter has waited for this window, before and after the work, in seconds.
            timing: the counter's behaviour.
        """
        if edges < 2:
            return True
        next_s = waited_s + timing.period_s
        if self.learned:
            return next_s <= _LEARNED_WAIT_PERIODS * timing.period_s
        # Three standard deviations of a gap, so that a late edge keeps to the limit as well.
        late_s = 3.0 * math.sqrt(2.0) * timing.jitter_s + 0.05 * timing.period_s
        return next_s + late_s <= _UNLEARNED_WAIT_PERIODS * timing.period_s

    def window_energy(
        self, before: Edge, start_s: float, end_s: float, after: Sequence[Edge], timing: CounterTiming
    ) -> WindowEnergy:
        """Energy between ``start_s`` and ``end_s``; the model learns from the window.

        Between ``before`` and the start the power is idle and what is left of the last window's tail. That
        takes as long as a read where the work starts at the edge, and up to a period where it waited for
        other boards' edges.

        Args:
            before: the last edge before the work.
            start_s: when the work started, in seconds, on the clock of the edges.
            end_s: when it had ended: the device was synchronised.
            after: the edges after the work, oldest first. One gives a wide interval, from two on the decay is
                seen; one is enough only where the idle power is known.
            timing: the counter's behaviour.

        Raises:
            ValueError: the edges do not enclose the window, or there are too few.
        """
        if not after or not before.time_s - 3.0 * before.uncertainty_s <= start_s < end_s:
            raise ValueError("a window starts after an edge and is followed by at least one")
        self._learn_from_pause(before)
        idle_w, idle_sd_w = self._idle_prior(after)
        head_s = max(start_s - before.time_s, 0.0)
        head_w, head_sd_w = self._head_power(before, start_s, idle_w, idle_sd_w)
        # Counted from the first edge after the work, so that differences of large numbers are taken once.
        start_j = before.energy_j + head_w * head_s - after[0].energy_j
        work_s, gap_s = end_s - start_s, after[0].time_s - end_s
        mean_excess_w = (-start_j - idle_w * (work_s + gap_s)) / (work_s + gap_s / 2.0)
        mean_excess_w = max(mean_excess_w, 0.05 * idle_w)

        prior = PowerPrior(idle_w, idle_sd_w, mean_excess_w, self.end_to_mean, self._ratio_variance)
        mixture = fit_decays(
            self._weights,
            [edge.time_s - end_s for edge in after],
            [edge.energy_j - after[0].energy_j for edge in after],
            _edge_variances(after, idle_w, timing),
            start_j=start_j,
            work_s=work_s,
            prior=prior,
            inflation=self._inflation,
        )
        end_j = sum(weight * fit.end_j for weight, fit in mixture)
        excess_w = max(sum(weight * fit.excess_w for weight, fit in mixture), 0.0)
        common_variance = (
            (math.hypot(head_w, head_sd_w) * before.uncertainty_s) ** 2
            + (head_sd_w * head_s) ** 2
            + timing.resolution_j**2 / 6.0
            # Where inside a read the driver looks is unknown but the same for every edge: it shifts them all,
            # which costs the difference between the powers that follow the two ends of the window.
            + (excess_w * timing.read_cost_s / _SQRT12) ** 2
        )
        parts = []
        for weight, fit in mixture:
            if weight > 1e-5:
                variance = self._inflation * fit.end_variance + common_variance
                variance += _form_error_j(fit, gap_s, after[-1].time_s - end_s) ** 2
                parts.append((weight, fit.end_j - end_j, math.sqrt(variance)))
        self._learn(mixture, idle_w, mean_excess_w, max(len(after) - 1, 1))
        decays = ((w * fit.excess_w, fit.candidate) for w, fit in mixture if w > 1e-3)
        self._previous = _Tail(end_s, after[-1], tuple(decays))
        return WindowEnergy(end_j - start_j, _half_width(parts))

    @property
    def _ratio_variance(self) -> float:
        return self._end_to_mean_variance + _END_TO_MEAN_WINDOW_SD**2

    @property
    def _inflation(self) -> float:
        """Factor on variances: misfit per degree of freedom where it is above one (squared Birge ratio)."""
        return max(1.0, (self._misfit + _MISFIT_PRIOR) / (self._freedom + _MISFIT_PRIOR))

    def _idle_prior(self, after: Sequence[Edge]) -> tuple[float, float]:
        if self.idle_power_w is not None and self.idle_uncertainty_w is not None:
            return self.idle_power_w, math.hypot(self.idle_uncertainty_w, _IDLE_DRIFT * self.idle_power_w)
        if len(after) < 2:
            raise ValueError("without a known idle power at least two edges after the work are needed")
        power_w = _mean_power_w(after[-2], after[-1])
        # The tail may still be there: the idle power is rather below than above.
        return (1.0 - _UNKNOWN_IDLE_SD / 3.0) * power_w, _UNKNOWN_IDLE_SD * power_w

    def _learn_from_pause(self, before: Edge) -> None:
        """Improve the idle power by what the counter gained since the last window's last edge."""
        previous = self._previous
        if previous is None or self.idle_power_w is None or self.idle_uncertainty_w is None:
            return
        pause_s = before.time_s - previous.last_edge.time_s
        if pause_s <= 0.0:
            return
        lingering_w = previous.mean_excess_w(previous.last_edge.time_s, before.time_s)
        seen_w = _mean_power_w(previous.last_edge, before) - lingering_w
        dating_s = math.hypot(previous.last_edge.uncertainty_s, before.uncertainty_s)
        seen_sd_w = math.hypot(
            _LINGERING_ERROR * lingering_w,
            _IDLE_DRIFT * self.idle_power_w,
            seen_w * dating_s / pause_s,
        )
        # Other work in the pause only adds power: a mean far above idle says nothing about it.
        if seen_w - self.idle_power_w > 3.0 * math.hypot(self.idle_uncertainty_w, seen_sd_w):
            return
        gain = self.idle_uncertainty_w**2 / (self.idle_uncertainty_w**2 + seen_sd_w**2)
        idle_w = self.idle_power_w + gain * (seen_w - self.idle_power_w)
        self.set_idle_power(idle_w, math.sqrt(gain) * seen_sd_w)

    def _head_power(self, before: Edge, start_s: float, idle_w: float, idle_sd_w: float) -> tuple[float, float]:
        """Mean power from ``before`` to the start and its standard uncertainty, in watts.

        What the counter gained since the last window says whether the board was left alone in between: power
        that nothing explains is uncertainty.
        """
        previous = self._previous
        if previous is None or before.time_s <= previous.last_edge.time_s:
            return idle_w, idle_sd_w
        lingering_w = previous.mean_excess_w(before.time_s, max(start_s, before.time_s + 1e-5))
        expected_w = idle_w + previous.mean_excess_w(previous.last_edge.time_s, before.time_s)
        unexplained_w = _mean_power_w(previous.last_edge, before) - expected_w
        return idle_w + lingering_w, math.hypot(idle_sd_w, _LINGERING_ERROR * lingering_w, unexplained_w)

    def _learn(self, mixture: Mixture, idle_prior_w: float, mean_excess_w: float, freedom: int) -> None:
        idle_w = sum(weight * fit.idle_w for weight, fit in mixture)
        variance = sum(w * (fit.idle_variance + (fit.idle_w - idle_w) ** 2) for w, fit in mixture)
        if self.idle_power_w is not None:
            # Idle power that moved by more than its uncertainty is less certain than the fit alone says.
            variance += 0.25 * (idle_w - idle_prior_w) ** 2
        self.set_idle_power(idle_w, math.sqrt(variance))
        self._learn_ratio(mixture, mean_excess_w)
        # One disturbed window must not spoil the session: its misfit counts as five deviations at most.
        misfit = sum(weight * fit.misfit for weight, fit in mixture)
        self._misfit = _MISFIT_MEMORY * self._misfit + min(misfit, 25.0 * freedom)
        self._freedom = _MISFIT_MEMORY * self._freedom + freedom
        self._weights = carry_weights([weight for weight, _ in mixture])
        self.windows += 1

    def _learn_ratio(self, mixture: Mixture, mean_excess_w: float) -> None:
        # Kalman filter for the workload's mean ratio, in terms of what a fit gives: the ratio's mean and
        # variance before and after it. Without it the same wrong guess in every window would be learned as a
        # wrong decay.
        before = self._ratio_variance
        excess_w = sum(weight * fit.excess_w for weight, fit in mixture)
        after = sum(w * (fit.excess_variance + (fit.excess_w - excess_w) ** 2) for w, fit in mixture)
        after = min(after / mean_excess_w**2, before)
        gain = self._end_to_mean_variance / before
        self.end_to_mean += gain * (excess_w / mean_excess_w - self.end_to_mean)
        self._end_to_mean_variance += _END_TO_MEAN_DRIFT**2 - gain**2 * (before - after)


def interpolated_energy(
    before: Edge, start_s: float, end_s: float, after: Edge, idle_power_w: float, idle_uncertainty_w: float
) -> WindowEnergy | None:
    """Energy of a window from two plain reads, for where waiting is not wanted.

    Both reads show an update that lies before them (:meth:`~pytest_llem.meters.alignment.EdgeFinder.glance`):
    what the board used before the start is taken at idle power, what it used after the last update at the
    window's mean power. An update of unknown phase has the standard uncertainty T / sqrt(12); at the end that
    costs the power times as much.

    Args:
        before: the update that the counter showed at the start.
        start_s: when the work started, in seconds.
        end_s: when it had ended, in seconds.
        after: the update that the counter showed at the end.
        idle_power_w: power before the start, in watts.
        idle_uncertainty_w: its standard uncertainty, in watts.

    Returns:
        The energy and the half-width of its 95% interval, in joules; ``None`` when no update of the counter
        is known to lie inside the window: it is below the counter's resolution.
    """
    seen_s = after.time_s - start_s
    if after.energy_j <= before.energy_j or seen_s <= after.uncertainty_s:
        return None
    head_s = max(start_s - before.time_s, 0.0)
    seen_j = after.energy_j - before.energy_j - idle_power_w * head_s
    mean_w = seen_j / seen_s
    missing_s = max(end_s - after.time_s, 0.0)
    excess_w = max(mean_w - idle_power_w, 0.0)
    variance = (
        # A later update means that less is missing, and that the mean power was lower.
        (mean_w * (1.0 + missing_s / seen_s) * after.uncertainty_s) ** 2
        + (idle_power_w * before.uncertainty_s) ** 2
        + (idle_uncertainty_w * head_s) ** 2
        + (math.hypot(_END_TO_MEAN_SD, _END_TO_MEAN_WINDOW_SD) * excess_w * missing_s) ** 2
    )
    return WindowEnergy(seen_j + mean_w * missing_s, _COVERAGE_FACTOR * math.sqrt(variance))


def _mean_power_w(earlier: Edge, later: Edge) -> float:
    return (later.energy_j - earlier.energy_j) / (later.time_s - earlier.time_s)


def _edge_variances(after: Sequence[Edge], idle_w: float, timing: CounterTiming) -> list[float]:
    """Variances of the edges' energies, in square joules: an edge dated wrongly by dt is wrong by P dt."""
    powers_w = [max(_mean_power_w(earlier, later), idle_w) for earlier, later in pairwise(after)]
    # The power falls, so at the first edge it is above the mean that follows.
    first_w = idle_w + 1.5 * (powers_w[0] - idle_w) if powers_w else 3.0 * idle_w
    return [
        (power_w * edge.uncertainty_s) ** 2 + timing.resolution_j**2 / 12.0
        for edge, power_w in zip(after, [first_w, *powers_w], strict=True)
    ]


def _form_error_j(fit: DecayFit, gap_s: float, last_s: float) -> float:
    tail_s = fit.candidate.integral_s(gap_s)
    seen_s = fit.candidate.integral_s(last_s) - tail_s
    relative = min(_FORM_ERROR * (1.0 + tail_s / max(seen_s, 1e-9)), _LARGEST_FORM_ERROR)
    return relative * fit.excess_w * tail_s


def _half_width(parts: Sequence[tuple[float, float, float]]) -> float:
    """Half-width about zero that holds 95% of a mixture of normals, each (weight, mean, standard
    deviation)."""
    total = sum(weight for weight, _, _ in parts)
    low, high = 0.0, max(abs(mean) + 6.0 * deviation for _, mean, deviation in parts)
    for _ in range(24):
        middle = (low + high) / 2.0
        inside = 0.0
        for weight, mean, deviation in parts:
            scale = 1.0 / (deviation * math.sqrt(2.0))
            inside += 0.5 * weight * (math.erf((middle - mean) * scale) + math.erf((middle + mean) * scale))
        low, high = (low, middle) if inside >= _COVERAGE * total else (middle, high)
    return high
