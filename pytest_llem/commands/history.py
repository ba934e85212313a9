"""``--llem-history``: a page of all saved results; nothing is collected, and nothing measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import printable
from pytest_llem.records import rows as benchmark
from pytest_llem.report.history.data import read_store
from pytest_llem.report.history.page import build_page, render_page
from pytest_llem.report.history.verdicts import judge_afterwards
from pytest_llem.report.html import write_page
from pytest_llem.verdict.history import METRICS
from pytest_llem.verdict.judging import ErrorRates
from pytest_llem.writable import require_writable

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.report.history.data import Store
    from pytest_llem.settings import Settings

_OPTION = "--llem-history"
_NAMED = 5


class SavedHistory:
    """The plugin of a session that writes the page."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings, self._path = settings, path

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """In place of collecting tests: read what is saved, and write the page.

        Raises:
            pytest.UsageError: nothing is saved, or the page cannot be written.
        """
        config, settings = session.config, self._settings
        try:
            require_writable(self._path)
        except OSError as error:
            raise pytest.UsageError(f"{_OPTION}: {error}") from None
        store = read_store(benchmark.every_session(config))
        origin = benchmark.storage_name(config)
        left_out = _left_out(store)
        if not store.experiments:
            raise pytest.UsageError(
                f"{_OPTION}: no saved result of an experiment in {origin}: save some with "
                f"--benchmark-autosave, or name another place with --benchmark-storage{left_out and f' ({left_out})'}"
            )
        gates = {metric: limit for metric, limit in settings.gates.items() if metric in METRICS}
        afterwards = judge_afterwards(store, gates, ErrorRates(*settings.error_rates), settings.last)
        named = ", ".join(f"{metric}:{limit}" for metric, limit in gates.items())
        page = build_page(store, afterwards, origin, named)
        try:
            write_page(render_page(page), self._path)
        except OSError as error:
            raise pytest.UsageError(f"{_OPTION}: {error}") from None
        lines = [
            f"llem: wrote {self._path}: {_counted(len(store.results), 'result')} of "
            f"{_counted(len(store.experiments), 'experiment')}, from {_counted(store.files, 'saved session')}"
        ]
        lines += [f"llem: {note}" for note in (left_out, settings.root_note) if note]
        writer = config.get_terminal_writer()
        for line in map(printable, lines):
            writer.line(line)
        session.items = []
        # What pytest counts to know success from "no tests ran".
        session.testscollected = len(store.results)
        return True


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _left_out(store: Store) -> str:
    if not store.left_out:
        return ""
    named = [f"{name} ({reason})" for name, reason in store.left_out[:_NAMED]]
    more = len(store.left_out) - len(named)
    return f"left out: {', '.join(named)}{f', and {more} more' if more else ''}"
