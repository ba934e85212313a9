"""Before the first item: begin the journal, and report what an interrupted session has finished."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import gates_of
from pytest_llem.records import rows as benchmark
from pytest_llem.report import junit
from pytest_llem.session.fingerprint import hash_of
from pytest_llem.session.journal import Contents, Journal, default_path, read_journal
from pytest_llem.session.shards import OTHERS, SPLIT
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.gates import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_llem.records.record import Recorded
    from pytest_llem.settings import Settings


def set_aside(config: pytest.Config, settings: Settings) -> None:
    """As a new part starts, set aside the journal of the one before: it must not be merged as this one's, even if this
    one never comes as far as to begin its own.

    Raises:
        pytest.UsageError: it cannot be set aside.
    """
    path = settings.journal or default_path(config, settings.shard)
    if path is None or benchmark.is_disabled(config):
        return
    state = llem_session(config)
    try:
        Journal(path, {}, say=state.notes.append, say_now=state.say).set_aside()
    except OSError as error:
        raise pytest.UsageError(f"--llem-journal: {error}") from None


def begin(session: pytest.Session, items: Sequence[pytest.Item], settings: Settings) -> None:
    """Give the session its journal. With ``--llem-resume``, the items that it holds unchanged are reported as passed,
    with their results, and taken out of what is going to run.

    Args:
        items: those of the session's items that are going to measure something.

    Raises:
        pytest.UsageError: the journal to take up cannot be read or is in use, or the one that is named cannot be
            written.
    """
    config = session.config
    if not session.items:
        # What pytest counts to tell success from "no tests ran": a part that is empty has done all it was to do.
        session.testscollected = config.stash.get(OTHERS, 0)
    if benchmark.is_disabled(config):
        return
    path = settings.journal or default_path(config, settings.shard)
    if path is None:
        if settings.resume:
            raise pytest.UsageError("--llem-resume: there is no storage folder: name the journal with --llem-journal")
        return
    state = llem_session(config)
    asked = {item.nodeid: hash_of(item, settings) for item in items}
    state.journal = Journal(path, asked, say=state.notes.append, say_now=state.say, split=config.stash.get(SPLIT, None))
    try:
        if settings.resume:
            _take_up(session, items, settings, path, state.journal, asked)
        elif settings.shard is not None:
            state.journal.open()  # a part leaves a journal even if it is empty
        elif settings.journal is not None:
            # Whoever names one counts on it. The usual place is a convenience, and may be read-only.
            state.journal.require_writable()
    except OSError as error:
        raise pytest.UsageError(f"--llem-journal: {error}") from None


def _take_up(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    settings: Settings,
    path: Path,
    journal: Journal,
    asked: Mapping[str, str],
) -> None:
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    contents = read_journal(path) if path.exists() else Contents({}, [])
    entries = dict(contents.entries)
    problems = list(contents.problems)
    if not path.exists():
        problems.append(f"no journal to take up at {path}")
    taken = {}
    for item in items:
        entry = entries.get(item.nodeid)
        if entry is None:
            continue
        if entry.asked == asked[item.nodeid]:
            taken[item] = entry
        else:
            problems.append(f"{item.nodeid}: what is asked for has changed since: running it again")
            del entries[item.nodeid]
    journal.open(Contents(entries, problems if path.exists() else ()))
    if reporter is not None:
        for line in (*problems, f"{len(taken)} of {len(items)} experiments taken from the journal {path}"):
            reporter.write_line(f"llem: {line}")
    state = llem_session(config)
    for item, entry in taken.items():
        gates = gates_of(item, settings) or (resolve(settings.gates, {}) if entry.config is None else {})
        one = entry.recorded(gates)
        benchmark.publish(config, one.rows)
        state.recorded.append(one)
        _report_passed(item, one)
    session.items[:] = [item for item in session.items if item not in taken]


def _report_passed(item: pytest.Item, recorded: Recorded) -> None:
    """Tell pytest of an item that passed in the session before."""
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    now_s = time.time()
    item.user_properties.extend(junit.properties(recorded.result))
    for when in ("setup", "call", "teardown"):
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="passed",
            longrepr=None,
            when=when,
            duration=0.0,
            start=now_s,
            stop=now_s,
            user_properties=item.user_properties,
        )
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
