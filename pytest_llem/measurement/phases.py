"""Prefill and decoding apart: from the power samples of the windows of whole calls, or from calls of one token.

Both give what a call takes until its first token; decoding is the rest of the call. The first costs no time and needs
samples of the power; the second is a measurement of its own, and the prefill in it follows another prefill.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_llem.measurement.phased_windows import PhasedWindow
from pytest_llem.measurement.sampled_phases import sampled_phases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.measurement.result import ExperimentResult, PhasesBy
    from pytest_llem.measurement.windows import Measured

Phases = bool | Literal["one-token", "both"]
"""``False``; ``True``: by samples, or where they do not tell it, by calls of one token; by these alone; by both."""


def by_power_samples(
    result: ExperimentResult,
    measured: Measured[Any],
    first_tokens_s: Mapping[int, Sequence[float]],
    sequences: float,
) -> tuple[ExperimentResult | None, str | None]:
    """The result with its phases by the power samples of its own windows; or ``None`` and the reason.

    Args:
        measured: the windows of the result.
        first_tokens_s: times to the first token in instrumented passes, in seconds, by the call's index.
        sequences: of a call, each of which has its first token from prefill.
    """
    found = sampled_phases(_phased(measured), first_tokens_s)
    if found.prefill_energy_j is None:
        return None, found.reason
    prefill = replace(
        result,
        energy_j=found.prefill_energy_j,
        energy_uncertainty_j=found.prefill_energy_uncertainty_j,
        latency_s=found.prefill_latency_s,
        per_round=[],
        warnings=[],
        valid=True,
    )
    return split_phases(result, prefill, first_tokens=sequences, by="power samples"), None


def cross_checked(
    by_samples: ExperimentResult | None, by_calls: ExperimentResult, why_not: str | None
) -> ExperimentResult:
    """Both ways beside each other: what calls of one token say is kept beside what the samples say."""
    if by_samples is None:
        note = f"phases: the board's power samples do not tell them: {why_not}"
        return replace(by_calls, warnings=[*by_calls.warnings, note])
    result = replace(
        by_samples,
        warnings=list(dict.fromkeys([*by_samples.warnings, *by_calls.warnings])),
        valid=by_samples.valid and by_calls.valid,
        prefill_rounds=by_calls.prefill_rounds,
        prefill_energy_one_token_j=by_calls.prefill_energy_j,
        prefill_energy_one_token_uncertainty_j=by_calls.prefill_energy_uncertainty_j,
    )
    pairs = [(by_samples.prefill_energy_j, by_samples.prefill_energy_uncertainty_j)]
    pairs.append((by_calls.prefill_energy_j, by_calls.prefill_energy_uncertainty_j))
    values = [value for pair in pairs for value in pair if value is not None]
    if len(values) < 4:
        return result
    apart_j, allowed_j = abs(values[0] - values[2]), math.hypot(values[1], values[3])
    if apart_j <= allowed_j:
        return result
    note = (
        f"phases: prefill takes {values[0]:.3g} J by the power samples and {values[2]:.3g} J in calls of one token; "
        f"they may differ by {allowed_j:.2g} J"
    )
    return replace(result, warnings=[*result.warnings, note])


def _phased(measured: Measured[Any]) -> list[PhasedWindow]:
    windows = []
    ended_s: float | None = None
    for window, calls, start_s in zip(measured.windows, measured.timed_calls, measured.starts_s, strict=True):
        windows.append(PhasedWindow.of(window, calls, None if ended_s is None else min(ended_s - start_s, 0.0)))
        ended_s = start_s + window.seconds if measured.total is not None else None
    return windows


def split_phases(
    result: ExperimentResult, prefill: ExperimentResult, *, first_tokens: float, by: PhasesBy
) -> ExperimentResult:
    """Split a result into prefill and decoding.

    Args:
        prefill: the same calls until their first token.
        by: how that was measured.
        first_tokens: tokens of a call that prefill already gave: one for each sequence.

    Returns:
        ``result`` with its phases. Decoding is the difference of the two, with u^2 the sum of both; where there is
        nothing to decode, no energy, or less than nothing left, its quantities stay ``None`` with the reason.
    """
    of_prefill = [f"prefill: {text}" for text in prefill.warnings if text not in result.warnings]
    result = replace(result, warnings=[*result.warnings, *of_prefill])
    decode_j = decode_uncertainty_j = decode_per_token_j = decode_s = None
    decoded = (result.output_tokens or 0) - first_tokens
    if decoded <= 0:
        result = result.lacking(decode_energy_j="every sequence ends with its first token, which belongs to prefill")
    else:
        if result.latency_s is not None and prefill.latency_s is not None:
            decode_s = result.latency_s - prefill.latency_s
        if result.energy_j is not None and prefill.energy_j is not None:
            decode_j = result.energy_j - prefill.energy_j
            decode_per_token_j = decode_j / decoded
            if result.energy_uncertainty_j is not None and prefill.energy_uncertainty_j is not None:
                decode_uncertainty_j = math.hypot(result.energy_uncertainty_j, prefill.energy_uncertainty_j)
        if (decode_s or 0.0) < 0 or (decode_j or 0.0) + (decode_uncertainty_j or 0.0) < 0:
            decode_j = decode_uncertainty_j = decode_per_token_j = decode_s = None
            result = result.lacking(decode_energy_j="prefill alone took more than whole calls: the machine changed")
    per_input_token_j = None
    if prefill.energy_j is not None and result.input_tokens:
        per_input_token_j = prefill.energy_j / result.input_tokens
    return replace(
        result,
        valid=result.valid and prefill.valid,
        prefill_energy_j=prefill.energy_j,
        prefill_energy_uncertainty_j=prefill.energy_uncertainty_j,
        prefill_latency_s=prefill.latency_s,
        prefill_rounds=prefill.per_round,
        phases_by=by,
        energy_per_input_token_j=per_input_token_j,
        decode_energy_j=decode_j,
        decode_energy_uncertainty_j=decode_uncertainty_j,
        decode_latency_s=decode_s,
        decode_energy_per_output_token_j=decode_per_token_j,
    )
