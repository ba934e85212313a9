"""A small session for the tests of reports: a sweep of three points with saved runs, and what may go wrong with one."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_llem.measurement.account import ENTRIES
from pytest_llem.measurement.phases import split_phases
from pytest_llem.measurement.result import ExperimentResult, Round
from pytest_llem.meters.base import PowerCurve
from pytest_llem.records.record import OtherRun, Record
from pytest_llem.report.data import Report, build_report
from pytest_llem.report.pairs import mean_ratio
from pytest_llem.verdict.decision import Status, Verdict
from pytest_llem.verdict.history import Baseline, SavedRow
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, judge_candidates
from pytest_llem.verdict.limits import parse_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.report.pairs import Pair
    from pytest_llem.verdict.limits import Limit

CALLS = 2
FILE = "bench/llama.llem.yaml"
ENVIRONMENT = {"boards": [{"uuid": "GPU-1", "power_limit_w": 700.0}], "meter": "nvml"}
# Of the windows of a run about its level; they add up to nothing.
SCATTER = (-0.01, 0.0, 0.01, 0.0)

History = dict[tuple[str, str], list[SavedRow]]


def result(energy_j: float | None = 100.0, latency_s: float = 2.0, **changes: Any) -> ExperimentResult:
    """A result of four windows of two calls each, one second apart."""
    length_s = CALLS * latency_s
    per_round = [
        Round(
            seconds=length_s * (1 + noise / 10),
            joules=None if energy_j is None else CALLS * energy_j * (1 + noise),
            uncertainty_j=None if energy_j is None else 0.5,
            output_tokens=64,
            start_s=number * (length_s + 1),
        )
        for number, noise in enumerate(SCATTER)
    ]
    values: dict[str, Any] = {
        "output_tokens": 32.0,
        "energy_j": energy_j,
        "energy_uncertainty_j": None if energy_j is None else 0.02 * energy_j,
        "energy_per_output_token_j": None if energy_j is None else energy_j / 32,
        "latency_s": latency_s,
        "mean_power_w": None if energy_j is None else energy_j / latency_s,
        "meter": "nvml",
        "estimated": False,
        "rounds": len(per_round),
        "calls_per_round": CALLS,
        "per_round": per_round,
    }
    return ExperimentResult(**(values | changes))


BOARDS = ("GPU-0f1e2d3c-1111", "GPU-4b5a6978-2222")
PREFILL_S, IDLE_W, PREFILL_W, DECODE_W = 0.4, 10.0, 90.0, 45.0


def sampled(*boards: str, **changes: Any) -> ExperimentResult:
    """A result whose boards' power was sampled: two calls in each window, prefill and decoding, and rest about them."""
    plain = result(idle_power_w=IDLE_W, **changes)
    length_s = plain.per_round[0].seconds / CALLS
    times_s = [number * 0.1 - 1.0 for number in range(round(10 * (CALLS * length_s + 2)))]

    def power_w(time_s: float) -> float:
        if not 0 <= time_s < CALLS * length_s:
            return IDLE_W
        return PREFILL_W if time_s % length_s < PREFILL_S else DECODE_W

    curves = {board: PowerCurve(times_s, [power_w(time_s) for time_s in times_s]) for board in boards or BOARDS[:1]}
    calls_s = [number * length_s for number in range(CALLS)]
    windows = [replace(window, power_curves=curves, calls_s=calls_s) for window in plain.per_round]
    return replace(plain, per_round=windows)


def phased(found: ExperimentResult, prefill_j: float = 36.0) -> ExperimentResult:
    """A result with its phases by power samples."""
    prefill = replace(found, energy_j=prefill_j, energy_uncertainty_j=1.0, latency_s=PREFILL_S, per_round=[])
    return split_phases(found, prefill, first_tokens=4, by="power samples")


def experiment(name: str = "llama", **changes: Any) -> Record:
    """An experiment as the session hands it over."""
    one = Record(
        nodeid=f"{FILE}::{name}",
        name=name,
        file=FILE,
        result=result(),
        config={"name": name.partition("[")[0], "model": "builtin:tiny-llama", "pytorch": {"batch_size": 4}},
        workload_hash=f"work of {name}",
        environment=ENVIRONMENT,
    )
    return replace(one, **changes)


def sweep() -> list[Record]:
    """Three points of a sweep."""
    return [
        experiment(
            f"llama[batch_size:{size}]",
            result=result(100.0 * size**0.5, 2.0 * size**0.25, output_tokens=32.0 * size),
            swept={"pytorch.batch_size": size},
        )
        for size in (1, 4, 16)
    ]


def on_both_engines() -> list[Record]:
    """A sweep of two engines: a call of the second one is four of the first."""
    measured = {"pytorch": result(), "vllm": result(150.0, 4.0, output_tokens=128.0)}
    return [
        experiment(
            f"llama[backend:{backend}]",
            result=found,
            swept={"backend": backend},
            config={"name": "llama", "model": "builtin:tiny-llama", "backend": backend},
        )
        for backend, found in measured.items()
    ]


def row(one: Record, metric: str = "energy", level: float = 100.0, **changes: Any) -> SavedRow:
    """A row of the experiment with one run at this level."""
    saved = SavedRow(
        fullname=one.nodeid,
        metric=metric,
        runs=(tuple(level * (1 + noise) for noise in SCATTER),),
        workload_hash=one.workload_hash,
        environment_hash="environment",
        environment=one.environment,
    )
    return replace(saved, **changes)


def saved_runs(one: Record, levels: list[float], metric: str = "energy") -> History:
    """The saved runs of one metric, a commit each."""
    rows = [
        row(one, metric, level, commit=f"{number:040x}", when=f"2026-01-{number + 1:02}T00:00:00")
        for number, level in enumerate(levels)
    ]
    return {(one.nodeid, metric): rows}


def judged(one: Record, history: History, level: float, limit: str = "2%..5%") -> list[Judged]:
    """The verdict on a run at this level."""
    candidate = Candidate(one.nodeid, one.name, "energy", parse_limit(limit), row(one, level=level))
    return judge_candidates([candidate], history, rates=ErrorRates(), last=20)


def report(experiments: list[Record], verdicts: list[Judged] | None = None, history: History | None = None) -> Report:
    """A session of these experiments."""
    commit = {"id": "5b8c3a1d9e4f7a60", "branch": "main", "dirty": True}
    return build_report(experiments, verdicts or [], history or {}, {"node": "runner"}, commit, "2026-02-03 04:05")


def regression() -> Report:
    """A sweep, its first point 10% worse than six saved runs."""
    points = sweep()
    history = saved_runs(points[0], [99.0, 100.0, 101.0, 100.5, 99.5, 100.0])
    return report(points, judged(points[0], history, 110.0), history)


def timed_sweep() -> list[Record]:
    """Points whose power was sampled, with their phases, host and times of tokens: the second one has the least joules,
    the first one is the fastest, the third one is neither."""
    return [
        replace(
            one, result=_whole_result(energy_j, one.result.latency_s or 0.0, one.result.output_tokens or 0.0, time_s)
        )
        for one, energy_j, time_s in zip(sweep(), (100.0, 160.0, 900.0), (0.010, 0.013, 0.021), strict=True)
    ]


def _whole_result(energy_j: float, latency_s: float, tokens: float, time_per_token_s: float) -> ExperimentResult:
    found = sampled(
        *BOARDS,
        energy_j=energy_j,
        latency_s=latency_s,
        output_tokens=tokens,
        energy_per_output_token_j=energy_j / tokens,
        output_tokens_per_s=tokens / latency_s,
        time_to_first_token_s=PREFILL_S,
        time_per_output_token_s=time_per_token_s,
        idle_share=IDLE_W * latency_s / energy_j,
        idle_power_uncertainty_w=0.5,
        energy_host_j=0.4 * energy_j,
        energy_host_uncertainty_j=0.01 * energy_j,
        energy_total_j=1.4 * energy_j,
        energy_total_uncertainty_j=0.022 * energy_j,
        spent_s={"load": 12.0, "warm-up": 3.0, "measured": 40.0, "sensor": 8.0, "other": 2.5},
    )
    return phased(found, prefill_j=0.36 * energy_j)


def whole_session() -> Report:
    """All that a report shows: a sweep with its front, a regression, power samples, parts of the joules, pairs, an
    invalid result with the longest names of boards and options, and one without joules."""
    points, pairs = timed_sweep(), in_pairs("paired", change=0.1)
    boards = {"GPU-01234567-89ab-cdef-0123-456789abcdef": 100.0}
    invalid = experiment(
        "throttled",
        result=result(valid=False, warnings=["throttled"], boards=boards, spent_s=dict.fromkeys(ENTRIES, 12.3)),
        config={"passthrough": {"from_pretrained": {"an_option_whose_name_is_long": True}}},
    )
    history = saved_runs(points[0], [99.0, 100.0, 101.0, 100.5, 99.5, 100.0])
    verdicts = [*judged(points[0], history, 110.0), *judged_pairs(pairs)]
    return report([*points, invalid, experiment("unmeasured", result=result(None)), pairs], verdicts, history)


# Of the pairs about their change, and which side begins: the other, this, this, the other.
PAIR_NOISE = (0.0, 0.006, -0.006, 0.002)
OTHER_FIRST = (True, False, False, True)


def in_pairs(name: str = "llama", change: float = 0.0, pairs: int = 4, **changes: Any) -> Record:
    """An experiment whose energy is worse by this than on main, half of it by the time and half by the power."""
    energies_j = [100.0 * (1 + change) * (1 + noise) for noise in PAIR_NOISE[:pairs]]
    latencies_s = [2.0 * (1 + change) ** 0.5 * (1 + noise / 2) for noise in PAIR_NOISE[:pairs]]
    first, *more = (result(energy, latency) for energy, latency in zip(energies_j, latencies_s, strict=True))
    one = experiment(name, result=first, more_runs=tuple(more), against="main")
    others = tuple(other_run(one, first=first) for first in OTHER_FIRST[:pairs])
    return replace(one, **{"other_runs": others, **changes})


def other_run(one: Record, measured: ExperimentResult | None = None, **changes: Any) -> OtherRun:
    """What main measured, in the same environment if nothing else is said."""
    values = {"environment": one.environment, "first": True, **changes}
    return OtherRun(measured or result(), one.workload_hash, **values)


def look(pairs: Sequence[Pair], limit: Limit, by_turns: bool) -> Verdict:
    """A simple stand-in for the verdict on pairs: the 95% interval of their mean, from the third on."""
    ratios = [statistics.fmean(this) / statistics.fmean(other) for this, other in pairs]
    found = mean_ratio(ratios)
    interval = None if found.interval is None or len(pairs) < 3 else tuple(end - 1 for end in found.interval)
    status = Status.INCONCLUSIVE
    if interval is not None:
        status = Status.REGRESSED if interval[0] > limit.tolerance else Status.OK
    reason = "in blocks" if by_turns else "one after the other"
    values: Any = (found.value - 1, interval, None, len(pairs), len(pairs), limit, reason, interval is None, None)
    return Verdict(status, *values)


def judged_pairs(one: Record, *metrics: str, limit: str = "2.5%..5%") -> list[Judged]:
    """The verdicts on pairs."""
    found = []
    for metric in metrics or sorted(one.metrics):
        candidate = Candidate(one.nodeid, one.name, metric, parse_limit(limit), None, against=one.against)
        by_turns = all(run.by_turns for run in one.other_runs)
        found.append(Judged(candidate, look(one.pairs(metric), candidate.limit, by_turns), Baseline(())))
    return found


def report_of_pairs(*records: Record) -> Report:
    """A session of experiments in pairs, all of them judged."""
    verdicts = [found for one in records for found in judged_pairs(one)]
    return build_report(records, verdicts, {}, {"node": "runner"}, {}, "2026-02-03 04:05", look)
