"""What a session does beside its items: before the first, say what can be caught; after the last, judge and report."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import LlemError
from pytest_llem.items import gates_of
from pytest_llem.records import identity
from pytest_llem.records import rows as benchmark
from pytest_llem.report.data import ReportedExperiment, build_report
from pytest_llem.report.terminal import say_line
from pytest_llem.session import gating
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_llem.records.record import Recorded
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings


def expected(session: pytest.Session, settings: Settings) -> list[tuple[str, str]]:
    """Node id and metric of everything that has a gate, whether it is going to be measured or skipped."""
    return [(item.nodeid, metric) for item in session.items for metric in gates_of(item, settings, skipped=True)]


def announce(session: pytest.Session, settings: Settings) -> None:
    """Print the smallest changes that this session's gates can catch.

    Raises:
        pytest.UsageError: the baseline that is named is not there.
    """
    if settings.last is None:
        gating.load_history(session.config, settings)
    items = [item for item in session.items if gates_of(item, settings)]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not items or reporter is None:
        return
    history = gating.load_history(session.config, settings)
    verbosity = session.config.get_verbosity()
    if verbosity < 0 or not history:
        return
    try:
        meter = llem_session(session.config).meter(())
    except LlemError:  # the first item that measures says why
        return
    environment = identity.environment_to_come(settings.device, meter)
    for line in gating.announce(items, settings, history, environment, verbose=verbosity > 0):
        reporter.write_line(line)


def judge(session: pytest.Session, state: LlemSession, gated_items: Sequence[tuple[str, str]]) -> None:
    """Judge what is gated; verdicts that fail the session set its exit status.

    Args:
        gated_items: what :func:`expected` told before the first item.
    """
    config, settings = session.config, state.settings
    gated = [one for one in state.recorded if one.gates]
    if gated or settings.report is not None or _on_github():
        # Before this session's own results are saved: they are no history of themselves.
        state.history = gating.load_history(config, settings)
    history = state.history
    before = [_added(one) for one in state.recorded]
    if settings.accept:
        # Whether it is gated or not: the baseline is that of the gates to come.
        for row in (row for one in state.recorded for row in one.rows):
            row.extra_info["accepted"] = True
    if gated:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        say = partial(say_line, reporter) if reporter else lambda _: None
        # Whoever ends a session, or reports what others measured, does not want anything measured now.
        stopped = session.shouldstop or session.exitstatus == pytest.ExitCode.INTERRUPTED
        measure_open = not settings.merge and not stopped
        try:
            state.judged = gating.judge_session(config, settings, gated, history, say, measure_open=measure_open)
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            state.notes.append("llem: interrupted while measuring again: what was open stays open")
            state.judged = gating.judge_session(config, settings, gated, history, say, measure_open=False)
    if state.journal is not None:
        for one, earlier in zip(state.recorded, before, strict=True):
            if _added(one) != earlier:
                state.journal.append(one)
    failed = gating.exit_status(state.judged, strict=settings.strict)
    if settings.strict:
        judged = {(one.candidate.nodeid, one.candidate.metric) for one in state.judged}
        unjudged = [f"{nodeid} {metric}" for nodeid, metric in gated_items if (nodeid, metric) not in judged]
        if unjudged:
            shown = ", ".join(unjudged[:3]) + (f" and {len(unjudged) - 3} more" if len(unjudged) > 3 else "")
            state.notes.append(f"llem: --llem-strict: gated, but not judged: {shown}")
            failed = True
        failed |= state.incomplete
    if failed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _added(one: Recorded) -> tuple[bool, int]:
    """What the end of a session adds to a result's rows: that it is accepted, and further runs."""
    info = one.rows[0].extra_info
    return bool(info.get("accepted")), len(info.get("more_runs") or ())


def write_reports(config: pytest.Config, state: LlemSession) -> None:
    """Write what was asked for: the HTML report, the table, GitHub's summary and annotations."""
    settings = state.settings
    if not state.recorded or not (settings.report or settings.csv or _on_github()):
        return
    from pytest_llem.report import csv_table, github, html

    experiments = [_reported(one) for one in state.recorded]

    def write_report() -> None:
        machine, commit = benchmark.machine_and_commit(config)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        report = build_report(experiments, state.judged, state.history, machine, commit, created)
        github.write_step_summary(report, os.environ)
        if settings.report is not None:
            html.write_html(report, settings.report)

    if (table := settings.csv) is not None:
        _write(state, table, lambda: csv_table.write_csv(experiments, table, state.judged))
    state.notes += github.annotation_lines(state.judged, os.environ)
    if settings.report is not None or _on_github():
        _write(state, settings.report, write_report)


def _write(state: LlemSession, path: Path | None, write: Callable[[], None]) -> None:
    """Write one thing. What cannot be written is said, and costs no result: pytest-benchmark saves after this."""
    try:
        write()
    except (LlemError, OSError) as error:
        state.notes.append(f"llem: {path or 'the step summary'} was not written: {error}")
    else:
        if path is not None:
            state.notes.append(f"llem: wrote {path}")


def _on_github() -> bool:
    return "GITHUB_STEP_SUMMARY" in os.environ or os.environ.get("GITHUB_ACTIONS") == "true"


def _reported(one: Recorded) -> ReportedExperiment:
    info = one.rows[0].extra_info
    return ReportedExperiment(
        nodeid=one.nodeid,
        name=one.name,
        file=one.file,
        result=one.result,
        config=one.config,
        swept=one.swept,
        workload_hash=info["workload_hash"],
        environment=info["environment"],
    )
