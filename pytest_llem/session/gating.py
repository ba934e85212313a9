"""The end of a session: judge what is gated, measure again what is open, decide whether the session fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_llem.items import gates_of
from pytest_llem.records import identity, machine
from pytest_llem.records import rows as benchmark
from pytest_llem.session.isolation.reruns import measure_again
from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import MAX_RUNS, Status
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.history import SavedRow, difference, is_same, read_files
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, detectable, judge_candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pytest

    from pytest_llem.records.record import Record
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings

FAILING = (Status.REGRESSED,)
STRICTLY_FAILING = (Status.REGRESSED, Status.INCONCLUSIVE, Status.NO_BASELINE)

History = dict[tuple[str, str], list[SavedRow]]


def load_history(config: pytest.Config, settings: Settings) -> History:
    """The saved rows that ``--llem-baseline`` names, by experiment and metric, oldest first.

    Raises:
        pytest.UsageError: it names a run or a file that is not there.
    """
    return read_files(benchmark.saved_sessions(config, settings.baseline))


def judge_session(
    config: pytest.Config,
    state: LlemSession,
    unmeasured: Sequence[Candidate],
    say: Callable[[str], None],
    *,
    measure_open: bool = True,
) -> None:
    """Judge every gated metric. What stays open is measured again in fresh processes, twice at most.

    What the fresh processes measured is added to the records, so that it is saved with them.

    Args:
        unmeasured: what has a gate and no result.
        say: prints a line for the user.
        measure_open: false leaves open what is open.
    """
    _judge(state, unmeasured)
    for number in range(2, MAX_RUNS + 1) if measure_open else ():
        needed = dict.fromkeys(found.candidate.nodeid for found in state.judged if found.verdict.needs_more_runs)
        undecided = [nodeid for nodeid in needed if not state.records[nodeid].trouble]
        refused = {} if state.budget is None else state.budget.refused_again(undecided)
        if refused:
            for nodeid, reason in refused.items():
                state.count(_with_trouble_of(state.records[nodeid], reason))
            _judge(state, unmeasured)
        undecided = [nodeid for nodeid in undecided if nodeid not in refused]
        if not undecided:
            break
        say(f"llem: inconclusive: measuring {len(undecided)} again in a fresh process (run {number} of {MAX_RUNS})")
        timeouts_s = {nodeid: (state.records[nodeid].config or {}).get("timeout_s") for nodeid in undecided}
        if state.measure_elsewhere is None:
            again, problem = measure_again(config, timeouts_s, state.deadline)
        else:
            again, problem = state.measure_elsewhere(timeouts_s)
        for nodeid in undecided:
            state.count(_with_run(state.records[nodeid], again.get(nodeid), problem))
        _judge(state, unmeasured)
        if problem is not None:
            say(f"llem: {problem}")
    for found in state.judged:
        if (record := state.records.get(found.candidate.nodeid)) is None:
            continue
        # Saved with the row: what regressed is no baseline until it is accepted.
        metric, verdict = found.candidate.metric, found.verdict
        verdicts = {**record.verdicts, metric: verdict.status.value}
        changes = {**record.changes, metric: (verdict.change, verdict.interval)}
        state.count(replace(record, verdicts=verdicts, changes=changes))


def exit_status(judged: Iterable[Judged], *, strict: bool) -> bool:
    """Whether the verdicts fail the session."""
    return any(found.verdict.status in (STRICTLY_FAILING if strict else FAILING) for found in judged)


def _judge(state: LlemSession, unmeasured: Sequence[Candidate]) -> None:
    on_boards = any(record.environment.get("boards") for record in state.records.values())
    gpus = machine.boards() if on_boards else []
    candidates = [
        replace(candidate, remarks=state.remarks.get(candidate.nodeid, ()))
        for record in state.records.values()
        for candidate in _candidates(record, gpus)
    ]
    for candidate in candidates:
        if candidate.row is not None and state.records[candidate.nodeid].from_journal:
            # The session that measured it may have saved it already; nothing is judged against itself.
            key = (candidate.nodeid, candidate.row.metric)
            state.history[key] = [row for row in state.history.get(key, ()) if not is_same(row, candidate.row)]
    settings = state.settings
    candidates += unmeasured
    judged = judge_candidates(candidates, state.history, rates=ErrorRates(*settings.error_rates), last=settings.last)
    trouble = {nodeid: record.trouble for nodeid, record in state.records.items()}
    state.judged = [_with_trouble(found, trouble.get(found.candidate.nodeid, ())) for found in judged]


def _candidates(record: Record, gpus: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    warnings = record.result.warnings
    disturbed = None if record.result.valid else "; ".join(warnings) or "the result is invalid"
    candidates = []
    for metric, limit in record.gates.items():
        measured = missing = None
        if metric == OUTPUT:
            if record.result.output_tokens_hash is None:
                missing = "a callable's output is not known"
            else:
                measured = row_of(record, "latency", gpus)
        elif metric in record.metrics:
            measured = row_of(record, metric, gpus)
        else:
            missing = record.why_missing(metric)
        candidates.append(Candidate(record.nodeid, record.name, metric, limit, measured, missing, disturbed))
    return candidates


def row_of(record: Record, metric: str, gpus: Sequence[Mapping[str, Any]] = ()) -> SavedRow:
    """A metric that this session measured, as it is held against saved rows.

    Args:
        gpus: the boards that are here, whose memory is not part of a record.
    """
    result, environment = record.result, record.environment_of(metric)
    return SavedRow(
        fullname=record.nodeid,
        metric=metric,
        runs=record.runs(metric),
        workload_hash=record.workload_hash,
        environment_hash=identity.environment_hash(environment),
        environment=environment,
        memory_bytes=pools.memory_bytes(record.environment, gpus),
        output_tokens=result.output_tokens,
        output_tokens_hash=result.output_tokens_hash,
        generated=tuple(result.generated),
        output_repeats=repeats(record),
        samples=result.samples,
        labels=tuple(result.labels),
        boundaries=result.boundaries,
        valid=result.valid,
        accepted=record.accepted,
    )


def repeats(record: Record) -> bool | None:
    """Whether the passes of a run, and further runs, generated the same tokens."""
    if any(run.output_tokens_hash != record.result.output_tokens_hash for run in record.more_runs):
        return False
    return record.result.output_repeats


def _with_run(record: Record, again: Record | None, problem: str | None) -> Record:
    """The record with another run of it; one that cannot be compared ends the matter."""
    trouble = None
    if again is None:
        trouble = problem or "it failed in the fresh process"
    elif (different := difference(row_of(record, "latency"), row_of(again, "latency"))) is not None:
        trouble = f"the fresh process ran something else: {different}"
    elif not again.result.valid:
        trouble = "the run in the fresh process was disturbed: " + "; ".join(again.result.warnings)
    else:
        return replace(record, more_runs=(*record.more_runs, again.result))
    return _with_trouble_of(record, trouble)


def _with_trouble_of(record: Record, trouble: str) -> Record:
    return replace(record, trouble=(*record.trouble, trouble))


def _with_trouble(found: Judged, trouble: Sequence[str]) -> Judged:
    """A verdict that stayed open because a further run failed says so."""
    if found.verdict.status is not Status.INCONCLUSIVE or not trouble or found.candidate.metric == OUTPUT:
        return found
    return replace(found, verdict=replace(found.verdict, reason="; ".join((found.verdict.reason, *trouble))))


def announce(
    items: Iterable[pytest.Item],
    settings: Settings,
    history: History,
    environment: Mapping[str, Any],
    *,
    verbose: bool,
) -> list[str]:
    """What the gates can catch, before anything is measured; gates that can catch too little stand out.

    Args:
        environment: what is known of it beforehand. The workload is not: it takes the model.
    """
    expected = [
        (item.nodeid, metric, limit)
        for item in items
        for metric, limit in gates_of(item, settings).items()
        if metric != OUTPUT  # which catches everything
    ]
    known = detectable(
        expected,
        history,
        rates=ErrorRates(*settings.error_rates),
        last=settings.last,
        may_recur=lambda row: identity.may_recur(row.environment, environment),
    )
    shown = [(nodeid, metric, verdict) for nodeid, metric, verdict in known if verdict.detectable_change is not None]
    here = {(nodeid, metric) for nodeid, metric, _ in known}
    elsewhere = [rows for n, metric, _ in expected if (n, metric) not in here and (rows := history.get((n, metric)))]
    other_boards = sum(
        any(identity.may_recur(row.environment, environment, pooled=True) for row in rows) for rows in elsewhere
    )
    lines = []
    if other_boards:
        lines.append(
            f"llem: {other_boards} of {len(expected)} gates have saved runs from other boards of this model alone, "
            "which decide nothing on this one: save runs here, or use --llem-against"
        )
    if others := len(elsewhere) - other_boards:
        lines.append(
            f"llem: {others} of {len(expected)} gates have saved runs from another environment alone: another "
            "board, driver, power limit, processor, library or meter"
        )
    if shown:
        changes = [verdict.detectable_change or 0.0 for _, _, verdict in shown]
        lines.append(
            f"llem: {len(shown)} of {len(expected)} gates have a baseline with a known spread, if the workload is "
            f"still the same; smallest change that can be caught: {min(changes):.1%} to {max(changes):.1%}"
        )
    for nodeid, metric, verdict in shown:
        change = verdict.detectable_change or 0.0
        weak = change > verdict.limit.limit
        if weak or verbose:
            note = ", more than its limit: save more runs, or measure longer" if weak else ""
            lines.append(f"llem: {nodeid} {metric}: {change:.1%} can be caught, limit {verdict.limit}{note}")
    return lines
