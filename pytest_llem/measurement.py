"""The measurement protocol: warm up, size the windows, run the rounds, put the result together.

The same code measures an experiment of a YAML file, a user's own test and any callable.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_llem.distributions import t_quantile
from pytest_llem.errors import MeasurementError
from pytest_llem.results import ExperimentResult, Round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_llem.engines.base import CallTiming, Workload
    from pytest_llem.meters.base import Meter, Synchronize, Window

T = TypeVar("T")

# A calibration window may turn out shorter than asked because the calls still get faster; each repetition corrects
# the number of passes, and after this many the work is too irregular for a better answer.
_MAX_CALIBRATIONS = 5
# The calls of a window that is calibrated to just reach the asked length would fall short in half of the rounds.
_WINDOW_MARGIN = 1.05
# Instrumented passes for the times of tokens: at least one, then more while they are cheap.
_MAX_TIMING_PASSES = 3


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        rounds: number of windows, at least 1.
        warmup_rounds: passes before the windows are sized, at least 0.
        min_window_s: least seconds of a window; 0 makes every window a single pass.
    """

    rounds: int
    warmup_rounds: int
    min_window_s: float


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Windows of the same number of passes each, and what the passes returned."""

    windows: list[Window]
    outputs: list[list[T]]
    passes: int


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the collector, tracers and profilers of this interpreter out of the body.

    Coverage and debuggers trace every line; a collection in the middle of a window is work that the window's calls
    did not ask for.
    """
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()
    sys.settrace(None)
    # A profiler written in C can be taken out but not be put back; it stays.
    if callable(profiler):
        sys.setprofile(None)
    try:
        yield
    finally:
        if callable(profiler):
            sys.setprofile(profiler)
        sys.settrace(tracer)
        if collecting:
            gc.enable()


def measure_windows(
    run_pass: Callable[[], T], protocol: Protocol, meter: Meter, synchronize: Synchronize | None = None
) -> Measured[T]:
    """Warm up with the very pass that is measured, size the windows, measure the rounds.

    Args:
        run_pass: one whole pass; it may leave work queued on the device.
        synchronize: waits for queued work; default: what the meter waits for by itself.

    Returns:
        One window a round. Every window holds the same number of passes.
    """
    windows, outputs = [], []
    with undisturbed():
        for _ in range(protocol.warmup_rounds):
            run_pass()
        passes = _size_window(run_pass, protocol.min_window_s, meter, synchronize)
        for _ in range(protocol.rounds):
            # What the last window left, between the windows. A full collection walks through every object of torch
            # and transformers, which takes a large part of a second, and what it walks through has not changed.
            gc.collect(1)
            window, returned = _run_window(run_pass, passes, meter, synchronize)
            windows.append(window)
            outputs.append(returned)
    return Measured(windows, outputs, passes)


def _run_window(
    run_pass: Callable[[], T], passes: int, meter: Meter, synchronize: Synchronize | None
) -> tuple[Window, list[T]]:
    with meter.window() if synchronize is None else meter.window(synchronize) as window:
        returned = [run_pass() for _ in range(passes)]
    return window, returned


def _size_window(
    run_pass: Callable[[], Any], min_window_s: float, meter: Meter, synchronize: Synchronize | None
) -> int:
    """Passes that fill ``min_window_s``, found by running whole windows, which warms up as the rounds will run."""
    passes = 1
    if min_window_s <= 0:
        return passes
    for _ in range(_MAX_CALIBRATIONS):
        seconds = _run_window(run_pass, passes, meter, synchronize)[0].seconds
        if seconds >= min_window_s:
            break
        wanted = passes * min_window_s / seconds * _WINDOW_MARGIN
        # A first pass may be slow for reasons that end with it; growing at most tenfold at a time keeps a
        # misjudged first guess from costing minutes.
        passes = min(max(passes + 1, math.ceil(wanted)), passes * 10)
    return passes


def measure_workload(workload: Workload, protocol: Protocol, meter: Meter) -> ExperimentResult:
    """Measure one experiment.

    Raises:
        MeasurementError: the calls did not generate what the configuration fixes.
    """
    order = range(workload.calls)
    workload.reset_peak_memory()
    measured = measure_windows(lambda: [workload.run(index) for index in order], protocol, meter, workload.synchronize)
    peak_memory_bytes, no_memory = workload.peak_memory_bytes()
    tokens = [
        sum(workload.count_output_tokens(index, one) for one_pass in window for index, one in enumerate(one_pass))
        for window in measured.outputs
    ]
    _check_tokens(tokens, workload.expected_output_tokens, measured.passes)
    timings = _time_tokens(workload, protocol.min_window_s)
    calls = measured.passes * workload.calls
    per_token = [t.time_per_output_token_s for t in timings if t.time_per_output_token_s is not None]
    warnings = [f"peak_memory_bytes: {no_memory}"] if no_memory else []
    if workload.truncated_prompts:
        warnings.append(f"{workload.truncated_prompts} prompts were longer than max_input_tokens and lost their end")
    if len(set(tokens)) > 1:
        warnings.append(f"output tokens differ between rounds: {min(tokens)} to {max(tokens)} a window")
    return summarise(
        measured.windows,
        calls_per_round=calls,
        meter=meter,
        output_tokens=tokens,
        warnings=warnings,
        extra={
            "input_tokens": workload.input_tokens / workload.calls,
            "time_to_first_token_s": statistics.median(t.time_to_first_token_s for t in timings),
            "time_per_output_token_s": statistics.median(per_token) if per_token else None,
            "peak_memory_bytes": peak_memory_bytes,
        },
    )


def run_once(workload: Workload, meter: Meter) -> ExperimentResult:
    """One plain pass without statistics, as ``--benchmark-disable`` asks."""
    tokens = sum(workload.count_output_tokens(index, workload.run(index)) for index in range(workload.calls))
    _check_tokens([tokens], workload.expected_output_tokens, 1)
    return ExperimentResult(
        input_tokens=workload.input_tokens / workload.calls,
        output_tokens=tokens / workload.calls,
        meter=meter.name,
        estimated=meter.estimated,
        rounds=0,
        calls_per_round=workload.calls,
        warnings=["nothing was measured: benchmarks are disabled"],
    )


def _check_tokens(tokens: Sequence[int], expected_a_pass: int | None, passes: int) -> None:
    if expected_a_pass is None:
        return
    for found in tokens:
        if found != expected_a_pass * passes:
            raise MeasurementError(
                f"wrong token count: the configuration fixes {expected_a_pass * passes} output tokens in "
                f"{passes} passes, generate() returned {found}"
            )


def _time_tokens(workload: Workload, budget_s: float) -> list[CallTiming]:
    """Instrumented calls of their own: watching tokens appear must not slow the calls whose energy is read."""
    timings: list[CallTiming] = []
    started_s = time.perf_counter()
    with undisturbed():
        for _ in range(_MAX_TIMING_PASSES):
            timings += [workload.time_tokens(index) for index in range(workload.calls)]
            if time.perf_counter() - started_s > budget_s:
                break
    return timings


def summarise(
    windows: Sequence[Window],
    *,
    calls_per_round: int,
    meter: Meter,
    output_tokens: Sequence[int] | None = None,
    warnings: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> ExperimentResult:
    """Put windows together into one result. Ratios are of totals over the same windows, never means of ratios."""
    notes = list(dict.fromkeys([*warnings, *(text for window in windows for text in window.warnings)]))
    calls = calls_per_round * len(windows)
    seconds = math.fsum(window.seconds for window in windows)
    tokens = None if output_tokens is None else sum(output_tokens)
    joules, half_width_j = _mean_energy(windows)
    if joules is None and meter.reports_energy:
        reasons = dict.fromkeys(window.reason or "no reason given" for window in windows if window.joules is None)
        notes.append(f"energy_j: not measured: {'; '.join(reasons)}")
    elif joules is not None and half_width_j is None and not meter.estimated:
        notes.append(f"energy_uncertainty_j: the {meter.name} meter states no uncertainty")
    energy_j = None if joules is None else joules / calls_per_round
    boards = {
        board: math.fsum(window.boards_j[board] for window in windows) / calls
        for board in windows[0].boards_j
        if joules is not None
    }
    return ExperimentResult(
        output_tokens=None if tokens is None else tokens / calls,
        energy_j=energy_j,
        energy_uncertainty_j=None if half_width_j is None else half_width_j / calls_per_round,
        energy_per_output_token_j=joules * len(windows) / tokens if joules is not None and tokens else None,
        latency_s=seconds / calls,
        output_tokens_per_s=tokens / seconds if tokens is not None and seconds > 0 else None,
        mean_power_w=joules * len(windows) / seconds if joules is not None and seconds > 0 else None,
        meter=meter.name,
        estimated=meter.estimated,
        rounds=len(windows),
        calls_per_round=calls_per_round,
        valid=all(window.valid for window in windows),
        warnings=notes,
        per_round=[
            Round(
                seconds=window.seconds,
                joules=window.joules,
                uncertainty_j=window.uncertainty_j,
                output_tokens=None if output_tokens is None else output_tokens[number],
                valid=window.valid,
                sm_clock_hz=window.sm_clock_hz,
                power_limit_w=window.power_limit_w,
            )
            for number, window in enumerate(windows)
        ],
        boards=boards,
        **(extra or {}),
    )


def _mean_energy(windows: Sequence[Window]) -> tuple[float | None, float | None]:
    """Mean joules of a window and the half-width of its 95% interval.

    With s the standard deviation between B windows and u_i the standard uncertainty of each reading, the mean has
    u^2 = s^2 / B + mean(u_i^2) / B, and the half-width is t(0.975, B - 1) u. The readings' own errors are part of s as
    well: counting them twice errs on the wide side, and keeps a few windows that agree by chance from claiming more
    than their sensor can know.

    Source: JCGM 100:2008 (GUM), 5.1 and G.3.
    """
    joules = [window.joules for window in windows if window.joules is not None]
    if len(joules) < len(windows):
        return None, None
    mean_j = statistics.fmean(joules)
    half_widths = [window.uncertainty_j for window in windows if window.uncertainty_j is not None]
    if len(half_widths) < len(windows):
        return mean_j, None
    if len(windows) == 1:
        return mean_j, half_widths[0]
    z = statistics.NormalDist().inv_cdf(0.975)
    variance = (statistics.variance(joules) + statistics.fmean((h / z) ** 2 for h in half_widths)) / len(windows)
    return mean_j, t_quantile(0.975, len(windows) - 1) * math.sqrt(variance)
