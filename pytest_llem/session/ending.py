"""What a session does beside its items: before the first, say what can be caught; after the last, judge and report."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import LlemError
from pytest_llem.items import gates_of
from pytest_llem.records import identity
from pytest_llem.records import rows as benchmark
from pytest_llem.report.data import build_report
from pytest_llem.report.terminal import say_line
from pytest_llem.session import gating
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings


class Judging:
    """The plugin that judges a session."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gated: list[tuple[str, str]] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """After collection: note what has a gate, measured or skipped, and say what the gates can catch."""
        settings = self._settings
        gates = {item.nodeid: gates_of(item, settings, skipped=True) for item in session.items}
        self._gated = [(nodeid, metric) for nodeid, metrics in gates.items() for metric in metrics]
        if settings.mode == "measure":
            announce(session, settings)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, before anything is saved: judge what is gated."""
        judge(session, llem_session(session.config), self._gated)
        return (yield)


class Reporting:
    """The plugin that writes the reports of a session."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, once all is judged: the terminal's summary, which names the reports, comes after."""
        write_reports(session.config, llem_session(session.config))
        return (yield)


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
        gated_items: node id and metric of everything that has a gate.
    """
    config, settings = session.config, state.settings
    gated = any(record.gates for record in state.records.values())
    if gated or settings.report is not None or _on_github():
        # Before this session's own results are saved: they are no history of themselves.
        state.history = gating.load_history(config, settings)
    if settings.accept:
        # Whether it is gated or not: the baseline is that of the gates to come.
        for record in list(state.records.values()):
            state.count(replace(record, accepted=True))
    if gated:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        say = partial(say_line, reporter) if reporter else lambda _: None
        # A session that is ended early, or reports what others measured, measures nothing now.
        stopped = session.shouldstop or session.exitstatus == pytest.ExitCode.INTERRUPTED
        try:
            gating.judge_session(config, state, say, measure_open=not settings.merge and not stopped)
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            state.notes.append("llem: interrupted while measuring again: what was open stays open")
            gating.judge_session(config, state, say, measure_open=False)
    failed = gating.exit_status(state.judged, strict=settings.strict)
    if settings.strict:
        judged = {(found.candidate.nodeid, found.candidate.metric) for found in state.judged}
        unjudged = [f"{nodeid} {metric}" for nodeid, metric in gated_items if (nodeid, metric) not in judged]
        if unjudged:
            shown = ", ".join(unjudged[:3]) + (f" and {len(unjudged) - 3} more" if len(unjudged) > 3 else "")
            state.notes.append(f"llem: --llem-strict: gated, but not judged: {shown}")
            failed = True
        failed |= state.incomplete
    if failed and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def write_reports(config: pytest.Config, state: LlemSession) -> None:
    """Write what the options name: the HTML report, the table, GitHub's summary and annotations."""
    settings = state.settings
    if not state.records or not (settings.report or settings.csv or _on_github()):
        return
    from pytest_llem.report import csv_table, github, html

    records = list(state.records.values())

    def write_report() -> None:
        machine, commit = benchmark.machine_and_commit(config)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        report = build_report(records, state.judged, state.history, machine, commit, created)
        github.write_step_summary(report, os.environ)
        if settings.report is not None:
            html.write_html(report, settings.report)

    if (table := settings.csv) is not None:
        _write(state, table, lambda: csv_table.write_csv(records, table, state.judged))
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
