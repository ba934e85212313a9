"""Windows become one result: per call, with the uncertainty of the mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.measurement.precision import drift, mean_energy, mean_with_host
from pytest_llem.measurement.result import ExperimentResult, Round

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import IdlePower, Meter, Window

# A drift from end to end worth a warning.
_NOTED_DRIFT = 0.02
# Samples of power that a result keeps, and least ones of a window.
_CURVE_POINTS, _FEWEST_POINTS = 600, 12
MOST_CALLS = 20
"""Calls of a window whose beginnings a result keeps: more cannot be drawn."""

# Reasons of windows without joules that a result spells out.
_NAMED_REASONS = 3


def summarise(
    windows: Sequence[Window],
    *,
    calls_per_round: int,
    meter: Meter,
    output_tokens: Sequence[int] | None = None,
    starts_s: Sequence[float] | None = None,
    calls_s: Sequence[Sequence[float]] = (),
    warnings: Sequence[str] = (),
    idle: IdlePower | None = None,
    total: Window | None = None,
    sequential: bool = False,
) -> ExperimentResult:
    """Summarise windows as one result. Ratios are of totals over the same windows, never means of ratios.

    Args:
        calls_s: when the calls of each window began, in seconds since its start; empty where they are not told apart.
        total, sequential: see :func:`pytest_llem.measurement.precision.mean_energy`.
    """
    notes = list(dict.fromkeys([*warnings, *(text for window in windows for text in window.warnings)]))
    for quantity, values in (("time", [w.seconds for w in windows]), ("energy", [w.joules for w in windows])):
        known = [value for value in values if value is not None]
        change = drift(known) if len(known) == len(windows) else None
        if change is not None and abs(change) > _NOTED_DRIFT:
            notes.append(f"drift: the {quantity} of a window changed by {change:+.1%} from the first round to the last")
    calls = calls_per_round * len(windows)
    seconds = math.fsum(window.seconds for window in windows)
    tokens = None if output_tokens is None else sum(output_tokens)
    joules, half_width_j = mean_energy(windows, total, sequential=sequential)
    missing = {}
    if joules is None:
        reasons = dict.fromkeys(window.reason or "no reason given" for window in windows if window.joules is None)
        missing["energy_j"] = f"not measured: {'; '.join(_few(list(reasons)))}"
    elif half_width_j is None and not meter.estimated:
        missing["energy_uncertainty_j"] = f"the {meter.name} meter states no uncertainty"
    energy_j = None if joules is None else joules / calls_per_round
    host, both = mean_with_host(windows, total, sequential=sequential)
    host_j, host_uncertainty_j, total_j, total_uncertainty_j = (
        None if mean_j is None else mean_j / calls_per_round for mean_j in (*host, *both)
    )
    boards = {
        board: math.fsum(window.boards_j[board] for window in windows) / calls
        for board in windows[0].boards_j
        if joules is not None
    }
    points = max(_CURVE_POINTS // sum(max(len(window.power_curves), 1) for window in windows), _FEWEST_POINTS)
    few_calls = calls_per_round <= MOST_CALLS
    result = ExperimentResult(
        output_tokens=None if tokens is None else tokens / calls,
        energy_j=energy_j,
        energy_uncertainty_j=None if half_width_j is None else half_width_j / calls_per_round,
        energy_host_j=host_j,
        energy_host_uncertainty_j=host_uncertainty_j,
        energy_total_j=total_j,
        energy_total_uncertainty_j=total_uncertainty_j,
        host_sensor=next((window.host.sensor for window in windows if window.host is not None), None),
        energy_per_output_token_j=joules * len(windows) / tokens if joules is not None and tokens else None,
        latency_s=seconds / calls,
        output_tokens_per_s=tokens / seconds if tokens is not None and seconds > 0 else None,
        mean_power_w=joules * len(windows) / seconds if joules is not None and seconds > 0 else None,
        meter=meter.name,
        estimated=meter.estimated,
        rounds=len(windows),
        calls_per_round=calls_per_round,
        boundaries="settled" if total is None else "joined",
        valid=all(window.valid for window in windows),
        warnings=notes,
        per_round=[
            Round(
                seconds=window.seconds,
                joules=window.joules,
                uncertainty_j=window.uncertainty_j,
                host_j=window.host_joules,
                host_uncertainty_j=window.host_uncertainty_j,
                output_tokens=None if output_tokens is None else output_tokens[number],
                valid=window.valid,
                start_s=None if starts_s is None else starts_s[number],
                sm_clock_hz=window.sm_clock_hz,
                power_limit_w=window.power_limit_w,
                power_curves={uuid: curve.thinned(points) for uuid, curve in window.power_curves.items()},
                calls_s=[round(call_s, 4) for call_s in calls_s[number]] if calls_s and few_calls else [],
            )
            for number, window in enumerate(windows)
        ],
        labels=list(dict.fromkeys(label for window in windows for label in window.labels)),
        boards=boards,
    ).lacking(**missing)
    result = replace(result, missing={**result.missing, **_no_host(windows, missing.get("energy_j"))})
    return result if idle is None else _less_idle(result, idle)


def _no_host(windows: Sequence[Window], no_boards: str | None) -> dict[str, str]:
    """Why the host's joules are missing, or the total's. That is no warning: most results of a machine would have the
    same one.

    Args:
        no_boards: why those of the boards are.
    """
    reasons = dict.fromkeys(window.host_reason for window in windows if window.host_reason is not None)
    text = "; ".join(_few([reason for reason in reasons if reason is not None]))
    if text:
        return {"energy_host_j": text, "energy_total_j": text}
    read = any(window.host is not None for window in windows)
    return {"energy_total_j": no_boards} if read and no_boards is not None else {}


def _few(reasons: Sequence[str]) -> Sequence[str]:
    """Reasons that name numbers of their window are as many as the windows."""
    left = len(reasons) - _NAMED_REASONS
    return [*reasons[:_NAMED_REASONS], f"and {left} such reasons of other windows"] if left > 1 else reasons


def _less_idle(result: ExperimentResult, idle: IdlePower) -> ExperimentResult:
    """Add the idle power, and the energy that the work took beyond it.

    The net energy is E - P_idle * t, with u^2 = u_E^2 + (u_idle * t)^2: the two are measured apart.
    """
    if idle.reason is not None:
        result = result.lacking(idle_power_w=idle.reason)
    net_j = net_uncertainty_j = idle_share = None
    if idle.power_w is not None and result.energy_j is not None and result.latency_s is not None:
        net_j = result.energy_j - idle.power_w * result.latency_s
        if result.energy_j > 0:
            idle_share = idle.power_w * result.latency_s / result.energy_j
        if result.energy_uncertainty_j is not None and idle.uncertainty_w is not None:
            net_uncertainty_j = math.hypot(result.energy_uncertainty_j, idle.uncertainty_w * result.latency_s)
    return replace(
        result,
        idle_power_w=idle.power_w,
        idle_power_uncertainty_w=idle.uncertainty_w,
        energy_net_j=net_j,
        energy_net_uncertainty_j=net_uncertainty_j,
        idle_share=idle_share,
    )
