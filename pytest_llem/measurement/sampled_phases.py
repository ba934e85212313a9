"""Joules of prefill from the windows that measured the whole calls, by the driver's power samples.

A window holds calls whose edges are known, and instrumented passes of the same calls say when their first token
comes. So at every instant it is known what ran: prefill, decoding, or the host alone between two calls. The power of
each is found by least squares from all samples of all windows, as a sensor shows it that lags (a first-order filter
and a dead time) or shows means. Samples every 20 ms meet the calls at ever other phases, which resolves a prefill
shorter than that. The window's own joules fix the mean power, so that the samples have to tell the differences alone.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_llem.measurement.phase_power import Stretch, prefill_energy
from pytest_llem.measurement.phased_windows import FirstTokens, PhasedWindow, TimedCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PhasedWindow", "SampledPhases", "TimedCall", "sampled_phases"]

_FEWEST_SAMPLES = 12
_MOST_UNCERTAIN = 0.25  # of the prefill's joules: a wider interval says nothing


@dataclass(frozen=True)
class SampledPhases:
    """The prefill of a call, the mean over all calls of all windows; what is unknown is ``None``.

    Attributes:
        prefill_energy_j: from the call to its first token, in joules.
        prefill_energy_uncertainty_j: half-width of its 95% interval.
        prefill_latency_s: time to the first token, in seconds.
        reason: why the energy is ``None``.
    """

    prefill_energy_j: float | None = None
    prefill_energy_uncertainty_j: float | None = None
    prefill_latency_s: float | None = None
    reason: str | None = None


def sampled_phases(windows: Sequence[PhasedWindow], first_tokens_s: Mapping[int, Sequence[float]]) -> SampledPhases:
    """Find the prefill in the energy of a call; decoding, with the time between two calls, is the rest.

    Args:
        windows: all windows of a measurement.
        first_tokens_s: times to the first token in instrumented passes, in seconds, by the call's index.
    """
    calls = [call for window in windows for call in window.calls]
    if not calls or any(not first_tokens_s.get(call.index) for call in calls):
        return SampledPhases(reason="the times of the first tokens are not known")
    tokens = FirstTokens.of(first_tokens_s, windows)
    prefill_s = statistics.fmean(tokens.mean_s[call.index] for call in calls)
    known = SampledPhases(prefill_latency_s=prefill_s)
    if any(tokens.mean_s[call.index] >= call.end_s - call.start_s for call in calls):
        return replace(known, reason="in a measured call the first token would come after its end")
    boards = list(dict.fromkeys(uuid for window in windows for uuid in window.power_curves))
    measured = list(dict.fromkeys(uuid for window in windows for uuid in window.boards_j))
    if not boards or set(measured) - set(boards):
        return replace(known, reason="a board's driver keeps no power samples")
    fits = []
    for uuid in boards:
        stretches = [stretch for window in windows if (stretch := Stretch.of(window, uuid)) is not None]
        if sum(len(stretch.times_s) for stretch in stretches) < _FEWEST_SAMPLES:
            return replace(known, reason="there are too few power samples of the windows")
        try:
            fits.append(prefill_energy(stretches, tokens))
        except np.linalg.LinAlgError as error:
            return replace(known, reason=f"the fit to the power samples failed: {error}")
    if any(fit.unknown_sensor for fit in fits):
        return replace(known, reason="the power samples follow the power as those of no sensor that is known do")
    # What is wrong with dates and lag is so for all boards alike.
    prefill_j = math.fsum(fit.joules for fit in fits)
    half_width_j = math.fsum(fit.half_width_j for fit in fits)
    if half_width_j > _MOST_UNCERTAIN * prefill_j:
        return replace(
            known,
            reason=f"prefill of {prefill_s * 1e3:.3g} ms is not resolved by the power samples: "
            f"{prefill_j:.3g} +- {half_width_j:.2g} J",
        )
    return SampledPhases(prefill_j, half_width_j, prefill_s * statistics.fmean(fit.scale for fit in fits))
