"""The end of a session: judge what is gated, measure again what is open, decide whether the session fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_llem.items import gates_of
from pytest_llem.records import identity
from pytest_llem.records import rows as benchmark
from pytest_llem.session.isolation.reruns import measure_again
from pytest_llem.verdict.decision import MAX_RUNS, Status
from pytest_llem.verdict.history import SavedRow, difference, is_same, read_files, read_row
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, detectable, judge_candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pytest

    from pytest_llem.records.record import Recorded
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
    settings: Settings,
    recorded: Sequence[Recorded],
    history: History,
    say: Callable[[str], None],
    *,
    measure_open: bool = True,
) -> list[Judged]:
    """Judge every gated metric. What stays open is measured again in fresh processes, twice at most.

    What the fresh processes measured is added to the results' rows, so that it is saved with them.

    Args:
        say: prints a line for the user.
        measure_open: false leaves open what is open.
    """
    rates = ErrorRates(*settings.error_rates)
    from_journal = {one.nodeid for one in recorded if one.from_journal}

    def judge() -> list[Judged]:
        candidates = [candidate for one in recorded for candidate in _candidates(one)]
        for candidate in candidates:
            if candidate.row is not None and candidate.nodeid in from_journal:
                # The session that measured it may have saved it already; nothing is judged against itself.
                key = (candidate.nodeid, candidate.metric)
                history[key] = [row for row in history.get(key, ()) if not is_same(row, candidate.row)]
        return judge_candidates(candidates, history, rates=rates, last=settings.last)

    judged = judge()
    for number in range(2, MAX_RUNS + 1) if measure_open else ():
        failed = {one.nodeid for one in recorded if one.trouble}
        undecided = list(dict.fromkeys(one.candidate.nodeid for one in judged if one.verdict.needs_more_runs))
        undecided = [nodeid for nodeid in undecided if nodeid not in failed]
        if not undecided:
            break
        say(f"llem: inconclusive: measuring {len(undecided)} again in a fresh process (run {number} of {MAX_RUNS})")
        again, problem = measure_again(config, undecided)
        for one in recorded:
            if one.nodeid in undecided:
                _add_run(one, again.get(one.nodeid), problem)
        judged = judge()
        if problem is not None:
            say(f"llem: {problem}")
    rows = {(one.nodeid, row.extra_info["metric"]): row for one in recorded for row in one.rows}
    for found in judged:
        # Saved with the row: what regressed is no baseline until it is accepted.
        if (row := rows.get((found.candidate.nodeid, found.candidate.metric))) is not None:
            row.extra_info["verdict"] = found.verdict.status.value
    return with_trouble(judged, recorded)


def exit_status(judged: Iterable[Judged], *, strict: bool) -> bool:
    """Whether the verdicts fail the session."""
    return any(one.verdict.status in (STRICTLY_FAILING if strict else FAILING) for one in judged)


def _candidates(one: Recorded) -> list[Candidate]:
    rows = {row.extra_info["metric"]: row for row in one.rows}
    disturbed = None if one.result.valid else "; ".join(one.result.warnings) or "the result is invalid"
    candidates = []
    for metric, limit in one.gates.items():
        row = rows.get(metric)
        saved = None if row is None else read_row({"extra_info": row.extra_info})
        missing = None
        if saved is None:
            reasons = [text for text in one.result.warnings if text.startswith(f"{metric}_")]
            missing = "; ".join(reasons) or f"{metric} was not measured"
        candidates.append(Candidate(one.nodeid, one.name, metric, limit, saved, missing, disturbed))
    return candidates


def _add_run(one: Recorded, again: Recorded | None, problem: str | None) -> None:
    """Note another run's result beside the first; one that cannot be compared ends the matter."""
    if again is None:
        one.trouble.append(problem or "it failed in the fresh process")
        return
    first_row, second_row = (read_row({"extra_info": run.rows[0].extra_info}) for run in (one, again))
    different = difference(first_row, second_row) if first_row and second_row else "its row cannot be read"
    if different is not None:
        one.trouble.append(f"the fresh process ran something else: {different}")
        return
    if not again.result.valid:
        one.trouble.append("the run in the fresh process was disturbed: " + "; ".join(again.result.warnings))
        return
    for row in one.rows:
        row.extra_info.setdefault("more_runs", []).append(again.result.as_dict())


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
    expected = [(item.nodeid, metric, limit) for item in items for metric, limit in gates_of(item, settings).items()]
    usable = {
        key: [row for row in rows if identity.may_recur(row.environment, environment)] for key, rows in history.items()
    }
    known = detectable(expected, usable, rates=ErrorRates(*settings.error_rates), last=settings.last)
    told = [(nodeid, metric, one) for nodeid, metric, one in known if one.detectable_change is not None]
    elsewhere = [
        nodeid for nodeid, metric, _ in expected if history.get((nodeid, metric)) and not usable[nodeid, metric]
    ]
    lines = []
    if elsewhere:
        lines.append(
            f"llem: {len(elsewhere)} of {len(expected)} gates have saved runs from another environment alone: another "
            "board, driver, power limit, processor, library or meter"
        )
    if told:
        changes = [one.detectable_change for _, _, one in told if one.detectable_change is not None]
        lines.append(
            f"llem: {len(told)} of {len(expected)} gates have a baseline with a known spread, if the workload is still "
            f"the same; smallest change that can be caught: {min(changes):.1%} to {max(changes):.1%}"
        )
    for nodeid, metric, one in told:
        change = one.detectable_change or 0.0
        weak = change > one.limit.limit
        if weak or verbose:
            note = ", more than its limit: save more runs, or measure longer" if weak else ""
            lines.append(f"llem: {nodeid} {metric}: {change:.1%} can be caught, limit {one.limit}{note}")
    return lines


def with_trouble(judged: Sequence[Judged], recorded: Sequence[Recorded]) -> list[Judged]:
    """Verdicts that stayed open because a further run failed say so."""
    trouble = {one.nodeid: "; ".join(one.trouble) for one in recorded if one.trouble}
    return [
        replace(one, verdict=replace(one.verdict, reason=f"{one.verdict.reason}; {trouble[one.candidate.nodeid]}"))
        if one.verdict.status is Status.INCONCLUSIVE and one.candidate.nodeid in trouble
        else one
        for one in judged
    ]
