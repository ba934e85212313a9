"""Before the first item: begin the journal, and report what an interrupted session has finished."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import gates_of, measures
from pytest_llem.records import rows as benchmark
from pytest_llem.report import junit
from pytest_llem.session.fingerprint import hash_of
from pytest_llem.session.journal import Contents, Journal, default_path, read_journal
from pytest_llem.session.journal_line import OtherVersionError
from pytest_llem.session.reporting import report_item
from pytest_llem.session.shards import OTHERS, SPLIT
from pytest_llem.session.state import llem_session
from pytest_llem.writable import require_writable

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from pytest_llem.settings import Settings


class Resume:
    """The plugin that gives a session its journal."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """After collection, before the tests: begin or resume the journal.

        Raises:
            pytest.UsageError: see :func:`begin`.
        """
        items = [item for item in session.items if measures(item) and item.get_closest_marker("skip") is None]
        refused = session.testsfailed and not session.config.option.continue_on_collection_errors
        if not refused and (items or self._settings.shard):
            begin(session, items, self._settings)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, once all is judged: a journal that is named and could not be written fails it."""
        yield
        state = llem_session(session.config)
        if self._settings.journal is not None and state.journal is not None and state.journal.broken:
            state.fail(session)


def begin(session: pytest.Session, items: Sequence[pytest.Item], settings: Settings, sides: str | None = None) -> None:
    """Give the session its journal. With ``--llem-resume``, the items that it holds unchanged are reported as passed,
    with their results, and taken out of what is going to run.

    Args:
        items: those of the session's items that are going to measure something.
        sides: what the two sides of a comparison are; ``None`` where there is none. What the journal holds of one may
            not be all of it: its items stay.

    Raises:
        pytest.UsageError: the journal to resume from cannot be read or is in use, or the one that is named cannot be
            written.
    """
    config = session.config
    if not session.items:
        # What pytest counts to know success from "no tests ran": a part that is empty has done all it was to do.
        session.testscollected = config.stash.get(OTHERS, 0)
    if benchmark.is_disabled(config):
        return
    path = settings.journal or default_path(config, settings.shard)
    if path is None:
        if settings.resume:
            raise pytest.UsageError("--llem-resume: there is no storage folder: name the journal with --llem-journal")
        return
    state = llem_session(config)
    fingerprints = {item.nodeid: hash_of(item, settings, sides) for item in items}
    split = config.stash.get(SPLIT, None)
    state.journal = Journal(path, fingerprints, say=state.notes.append, say_now=state.say, split=split)
    try:
        if settings.resume:
            finished = _resume(session, items, settings, path, state.journal, fingerprints)
            for item in finished if sides is None else ():
                item.user_properties.extend(junit.properties(state.records[item.nodeid].result))
                report_item(item)
                session.items.remove(item)
        elif settings.shard is not None:
            state.journal.open()  # a part leaves a journal even if it is empty
        elif settings.journal is not None:
            # A path that is given is relied on. The usual place is a convenience, and may be read-only.
            require_writable(path)
    except OSError as error:
        raise pytest.UsageError(f"--llem-journal: {error}") from None


def _resume(
    session: pytest.Session,
    items: Sequence[pytest.Item],
    settings: Settings,
    path: Path,
    journal: Journal,
    fingerprints: Mapping[str, str],
) -> list[pytest.Item]:
    """Count what the journal holds unchanged; returns the items that it is of."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    try:
        contents = read_journal(path) if path.exists() else Contents({}, [])
    except OtherVersionError as error:
        raise pytest.UsageError(f"--llem-resume: {error}, or leave --llem-resume out") from None
    records = dict(contents.records)
    problems = list(contents.problems)
    if not path.exists():
        problems.append(f"no journal to resume from at {path}")
    finished = {}
    for item in items:
        record = records.get(item.nodeid)
        if record is None:
            continue
        if record.fingerprint == fingerprints[item.nodeid]:
            finished[item] = record
        else:
            problems.append(f"{item.nodeid}: its fingerprint has changed since: running it again")
            del records[item.nodeid]
    journal.open(Contents(records, problems if path.exists() else ()))
    if reporter is not None:
        for line in (*problems, f"{len(finished)} of {len(items)} experiments taken from the journal {path}"):
            reporter.write_line(f"llem: {line}")
    state = llem_session(config)
    for item, record in finished.items():
        state.count(replace(record, gates=gates_of(item, settings)))
    return list(finished)
