"""The verdicts of a comparison: each gated metric by the pairs that were measured of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_llem.session.gating import repeats, row_of
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.history import Baseline, tokens_differ
from pytest_llem.verdict.judging import Candidate, Judged
from pytest_llem.verdict.outputs import judge_outputs
from pytest_llem.verdict.pairs import judge_pairs, spread_of_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record
    from pytest_llem.report.pairs import Look
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.decision import Verdict
    from pytest_llem.verdict.limits import Limit
    from pytest_llem.verdict.spread import Run, Spread


def judge(state: LlemSession, unmeasured: Sequence[Candidate]) -> None:
    """Judge all that was measured; the records hold their verdicts afterwards.

    Args:
        unmeasured: what has a gate and no result.
    """
    state.judged = []
    for record in list(state.records.values()):
        found = judge_record(record, state.settings)
        state.judged += found
        verdicts = {judged.candidate.metric: judged.verdict for judged in found}
        statuses = {metric: verdict.status.value for metric, verdict in verdicts.items()}
        changes = {metric: (verdict.change, verdict.interval) for metric, verdict in verdicts.items()}
        state.count(replace(record, verdicts=statuses, changes=changes))
    state.judged += [
        _judged(replace(candidate, against=state.settings.against or ""), [], state.settings, candidate.missing)
        for candidate in unmeasured
    ]


def judge_record(record: Record, settings: Settings) -> list[Judged]:
    """The verdicts on an experiment, one for each of its gates."""
    judged = [_judge_metric(record, metric, limit, settings) for metric, limit in record.gates.items()]
    return [replace(found, remarks=_left_out(record)) for found in judged]


def _other_host(record: Record, metric: str) -> str | None:
    """That the host was read by other sensors, which differ in what they read."""
    sensors = {run.host_sensor for run in (record.result, *record.more_runs, *(o.result for o in record.other_runs))}
    if metric != "energy_total" or len(sensors) == 1:
        return None
    return f"the host was not read by one sensor: {', '.join(sorted(sensor or 'none' for sensor in sensors))}"


def _left_out(record: Record) -> tuple[str, ...]:
    """That pairs were disturbed: one that is left out may have been the one that tells."""
    if not (count := len(record.disturbed)):
        return ()
    pairs = "1 pair of it was" if count == 1 else f"{count} pairs of it were"
    return (f"{pairs} disturbed and {'does' if count == 1 else 'do'} not count, the last: {record.disturbed[-1]}",)


def _judge_metric(record: Record, metric: str, limit: Limit, settings: Settings) -> Judged:
    if metric == OUTPUT:
        row = None if record.result.output_tokens_hash is None else row_of(record, "latency")
        candidate = Candidate(record.nodeid, record.name, metric, limit, row, against=record.against)
        return Judged(candidate, judge_output(record), Baseline(()))
    measured = metric in record.metrics
    candidate = Candidate(
        record.nodeid,
        record.name,
        metric,
        limit,
        row_of(record, metric) if measured else None,
        record.why_missing(metric),
        against=record.against,
    )
    why_not = differs(record) or (None if measured else candidate.missing) or _other_host(record, metric)
    if why_not is not None:
        found = _judged(candidate, [], settings, why_not)
        return replace(found, verdict=replace(found.verdict, runs=len(record.other_runs)))
    by_turns = all(run.by_turns for run in record.other_runs)
    judged = _judged(candidate, record.pairs(metric), settings, None, by_turns=by_turns)
    if not record.trouble or judged.verdict.status is not Status.INCONCLUSIVE:
        return judged
    reason = "; ".join((judged.verdict.reason, *record.trouble))
    return replace(judged, verdict=replace(judged.verdict, reason=reason, needs_more_runs=False))


def judge_output(record: Record) -> Verdict:
    """Whether both sides generate the same: those of the first pair tell, if all of a side's processes agree."""
    here = replace(record.result, output_repeats=repeats(record))
    others = [run.result for run in record.other_runs]
    agree = all(other.output_tokens_hash == others[0].output_tokens_hash for other in others)
    there = replace(others[0], output_repeats=others[0].output_repeats if agree else False)
    same_workload = all(run.workload_hash == record.workload_hash for run in record.other_runs)
    verdict = judge_outputs(here, there, this_is="here", other_is=f"on {record.against}", same_workload=same_workload)
    return replace(verdict, runs=len(others), saved=len(others))


def saved_spreads(saved: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Spread]:
    """How much the saved pairs of an experiment and metric differed, by both: those of the newest session that has any.

    Args:
        saved: sessions that pytest-benchmark saved, oldest first.
    """
    found = {}
    for session in saved:
        for row in session.get("benchmarks", ()):
            info = row.get("extra_info") or {}
            pairs = (info.get("against") or {}).get("pairs") or ()
            known = [([pair["this"]], [pair["other"]]) for pair in pairs if pair.get("this") and pair.get("other")]
            if (spread := spread_of_pairs(known)) is not None:
                found[info.get("nodeid", ""), info.get("metric", "")] = spread
    return found


def differs(record: Record) -> str | None:
    """Why what both sides ran cannot be compared; ``None`` where it can."""
    for this, run in zip((record.result, *record.more_runs), record.other_runs, strict=True):
        other = run.result
        # Not the environment, nor under which labels a board ran: what comes of them is the question.
        if run.workload_hash != record.workload_hash:
            return f"{record.against} runs another workload: the model, the prompts or an option differ there"
        if this.boundaries != other.boundaries:
            return f"windows are {other.boundaries} on {record.against}, and {this.boundaries} here"
        if tokens_differ(this.output_tokens, other.output_tokens):
            there, here = other.output_tokens, this.output_tokens
            return f"another number of output tokens: {there:g} a call on {record.against}, {here:g} here"
        if _measured_by(record.environment, this) != _measured_by(run.environment, other):
            return f"{record.against} was measured on other boards or by another meter"
    return None


def look(settings: Settings) -> Look:
    """How :func:`judge_record` judges pairs, for plots of how it came about."""
    alpha, beta = settings.error_rates

    def judge_so_far(pairs: Sequence[tuple[Run, Run]], limit: Limit, by_turns: bool) -> Verdict:
        return judge_pairs(pairs, limit, alpha=alpha, beta=beta, max_pairs=settings.pairs, interleaved=by_turns)

    return judge_so_far


def changed_since(first: Record, later: Record) -> str | None:
    """Why a later pair's result of this side is not of what the first pair measured; ``None`` where it is."""
    if later.workload_hash != first.workload_hash:
        return "this side runs another workload than in its first pair: the model, the prompts or an option changed"
    if _measured_by(later.environment, later.result) != _measured_by(first.environment, first.result):
        return "this side is measured on other boards or by another meter than in its first pair"
    return None


def _measured_by(environment: Mapping[str, Any], result: ExperimentResult) -> tuple[object, ...]:
    boards = [board.get("uuid") for board in environment.get("boards", ())]
    # A part of an estimate, which a side may have set otherwise.
    watts_per_core = environment.get("watts_per_core")
    return environment.get("device"), environment.get("meter"), boards, watts_per_core, result.meter, result.estimated


def _judged(
    candidate: Candidate,
    pairs: Sequence[tuple[Run, Run]],
    settings: Settings,
    why_not: str | None,
    *,
    by_turns: bool = True,
) -> Judged:
    verdict = look(settings)(pairs, candidate.limit, by_turns)
    if why_not is not None:
        verdict = replace(verdict, status=Status.INCONCLUSIVE, reason=why_not, needs_more_runs=False)
    return Judged(candidate, verdict, Baseline(()))
