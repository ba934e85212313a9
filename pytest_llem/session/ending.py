"""What a session does beside its items: before the first, say what can be caught; after the last, judge and report."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import LlemError
from pytest_llem.items import gates_of
from pytest_llem.records import identity
from pytest_llem.records import rows as benchmark
from pytest_llem.report.across_engines import other_tokens, sweeps
from pytest_llem.report.data import build_report
from pytest_llem.report.terminal import say_line
from pytest_llem.session import gating
from pytest_llem.session.against import verdicts as pairs
from pytest_llem.session.state import llem_session
from pytest_llem.settings import SETTINGS
from pytest_llem.verdict.judging import Candidate, follow_moves
from pytest_llem.writable import require_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence
    from pathlib import Path

    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.limits import Limit


class Judging:
    """The plugin that judges a session."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gates: dict[str, Mapping[str, Limit]] = {}
        self._why: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """After collection: note what has a gate, measured or skipped, and say what the gates can catch."""
        settings = self._settings
        self._gates = {item.nodeid: gates_of(item, settings, skipped=True) for item in session.items}
        if settings.mode == "measure":
            announce(session, settings)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, before anything is saved: judge what is gated; each gate gets a verdict."""
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return (yield)
        state = llem_session(session.config)
        note_other_tokens(state)
        unmeasured = [
            Candidate(nodeid, nodeid.rpartition("::")[2], metric, limit, None, self._why.get(nodeid, "it did not run"))
            for nodeid, gates in self._gates.items()
            if nodeid not in state.records
            for metric, limit in gates.items()
        ]
        judge(session, state, unmeasured, {*state.records, *self._gates})
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note why an item has no result, should it have none."""
        reason = "it measured nothing"
        if report.failed:
            # Of a comparison it says on which side.
            where = report.longreprtext.partition("\n")[0] if self._settings.compares else ""
            reason = f"it failed {where}".rstrip()
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "it was skipped"
        if not report.passed or report.nodeid not in self._why:
            self._why[report.nodeid] = reason


class Reporting:
    """The plugin that writes the reports of a session."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """After collection, before anything is measured: find out whether what is to be written can be.

        Raises:
            pytest.UsageError: it cannot.
        """
        settings = self._settings
        paths = {"--llem-report": settings.report, "--llem-csv": settings.csv} if settings.judges else {}
        for option, path in {**paths, **benchmark.saved_to(session.config)}.items():
            try:
                if path is not None:
                    require_writable(path)
            except OSError as error:
                raise pytest.UsageError(f"{option}: {error}") from None
        if settings.runs_items:
            # Now: it may be another one by the end of a long session.
            llem_session(session.config).commit = benchmark.commit_info(session.config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, once all is judged: the terminal's summary, which names the reports, comes after."""
        if self._settings.judges and session.exitstatus != pytest.ExitCode.USAGE_ERROR:
            write_reports(session, llem_session(session.config))
        return (yield)


def note_other_tokens(state: LlemSession) -> None:
    """Say in each result whose greedy tokens are others than those of the same work on another engine, where they
    part."""
    for points in sweeps(list(state.records.values())):
        for record, text in other_tokens(points):
            if text not in record.result.warnings:
                warnings = [*record.result.warnings, text]
                state.count(replace(record, result=replace(record.result, warnings=warnings)))


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
    if (environment := environment_to_come(session.config, settings)) is None:
        return
    for line in gating.announce(items, settings, history, environment, verbose=verbosity > 0):
        reporter.write_line(line)


def environment_to_come(config: pytest.Config, settings: Settings) -> dict[str, Any] | None:
    """What is known of this session's environment before anything runs; ``None`` where its meter cannot work, or others
    than this machine measure."""
    if config.stash[SETTINGS].ray is not None:
        return None
    try:
        meter = llem_session(config).meter(())
    except LlemError:  # the first item that measures says why
        return None
    return identity.environment_to_come(settings.device, meter)


def judge(session: pytest.Session, state: LlemSession, unmeasured: Sequence[Candidate], here: Collection[str]) -> None:
    """Judge what is gated; verdicts that fail the session set its exit status.

    Args:
        unmeasured: what has a gate and no result.
        here: node ids of the session.
    """
    config, settings = session.config, state.settings
    gated = bool(unmeasured) or any(record.gates for record in state.records.values())
    if settings.compares:
        pairs.judge(state, unmeasured)
    elif gated or settings.report is not None or _on_github():
        # Before this session's own results are saved: they are no history of themselves.
        state.history = gating.load_history(config, settings)
        measured = [gating.row_of(record, metric) for record in state.records.values() for metric in record.metrics]
        state.remarks = follow_moves(measured, state.history, here)
    if settings.accept:
        # Whether it is gated or not: the baseline is that of the gates to come.
        for record in list(state.records.values()):
            state.count(replace(record, accepted=True))
    if gated and not settings.compares:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        say = partial(say_line, reporter) if reporter else lambda _: None
        # A session that is ended early, or reports what others measured, measures nothing now.
        stopped = session.shouldstop or session.exitstatus == pytest.ExitCode.INTERRUPTED
        try:
            gating.judge_session(config, state, unmeasured, say, measure_open=not settings.merge and not stopped)
        except KeyboardInterrupt:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            state.notes.append("llem: interrupted while measuring again: what was open stays open")
            gating.judge_session(config, state, unmeasured, say, measure_open=False)
    failed = gating.exit_status(state.judged, strict=settings.strict)
    if config.getoption("llem_fail") and not gated and settings.shard is None:
        state.fail(session, "--llem-fail: nothing has this gate: there is no verdict")
    if failed or (settings.strict and state.incomplete):
        state.fail(session)


def write_reports(session: pytest.Session, state: LlemSession) -> None:
    """Write what the options name: the HTML report, the table, GitHub's summary and annotations.

    What cannot be written fails the session and costs no result: pytest-benchmark saves after this.
    """
    settings = state.settings
    if not (settings.report or settings.csv or _on_github()):
        return
    from pytest_llem.report import csv_table, github, html

    records = list(state.records.values())

    def write_report() -> None:
        machine, commit = benchmark.machine_and_commit(session.config)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        report = build_report(records, state.judged, state.history, machine, commit, created, pairs.look(settings))
        github.write_step_summary(report, os.environ)
        if settings.report is not None:
            html.write_html(report, settings.report)

    outputs: list[tuple[Path | None, Callable[[], None]]] = []
    if (table := settings.csv) is not None:
        outputs.append((table, lambda: csv_table.write_csv(records, table, state.judged)))
    if settings.report is not None or _on_github():
        outputs.append((settings.report, write_report))
    for path, write in outputs:
        try:
            write()
        except (LlemError, OSError) as error:
            state.fail(session, f"{path or 'the step summary'} was not written: {error}")
        else:
            state.notes += [] if path is None else [f"llem: wrote {path}"]
    state.notes += github.annotation_lines(state.judged, os.environ)


def _on_github() -> bool:
    return "GITHUB_STEP_SUMMARY" in os.environ or os.environ.get("GITHUB_ACTIONS") == "true"
