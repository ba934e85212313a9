"""``--llem-export``: the results of a session for other tools, handed over once they are saved here."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import LlemError, one_line, printable
from pytest_llem.exporters import open_exporter
from pytest_llem.exporters.base import without_secret
from pytest_llem.exporters.results import exported
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.exporters.base import Exporter
    from pytest_llem.settings import Settings


class Exporting:
    """The plugin that hands the results of a session to exporters."""

    def __init__(self, settings: Settings) -> None:
        # A commit that is looked for has results of other commits beside this one's, and saves nothing.
        self._exports = () if settings.mode == "bisect" else settings.exports
        self._is_part = settings.shard is not None
        self._exporters: list[tuple[str, Exporter]] = []

    def pytest_sessionstart(self) -> None:
        """Start of a session that merges, which collects nothing: see :meth:`pytest_collection_finish`."""
        self.pytest_collection_finish()

    def pytest_collection_finish(self) -> None:
        """After collection, before anything is measured: find out whether the results can be handed over.

        Raises:
            pytest.UsageError: they cannot.
        """
        for name, target in () if self._is_part else self._exports:
            try:
                with _other_peoples_code():
                    exporter = open_exporter(name, target)
                    exporter.check()
            except Exception as error:  # noqa: BLE001  (of another package)
                raise pytest.UsageError(f"--llem-export {name}: {_why(error)}") from None
            self._exporters.append((f"{name}:{without_secret(target)}", exporter))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End of the session, once all is judged and pytest-benchmark has saved: what a receiver does, or does not,
        costs no result. The terminal's summary comes after."""
        state = llem_session(session.config)
        if self._is_part and self._exports:
            state.notes.append("llem: a part exports nothing: pass --llem-export with --llem-merge")
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR or not state.records:
            return
        results = [exported(record) for record in state.records.values()]
        for shown, exporter in self._exporters:
            try:
                with _other_peoples_code():
                    exporter.export(results)
            except KeyboardInterrupt:
                session.exitstatus = pytest.ExitCode.INTERRUPTED
                state.notes.append(f"llem: interrupted while exporting to {shown}")
                return
            except Exception as error:  # noqa: BLE001  (of a receiver's library)
                state.fail(session, f"{shown} did not take the results: {_why(error)}")
            else:
                state.notes.append(f"llem: exported {len(results)} result{'s'[: len(results) != 1]} to {shown}")


@contextmanager
def _other_peoples_code() -> Iterator[None]:
    """What a receiver's library warns of is no matter of the tests, whose filters may make it an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _why(error: Exception) -> str:
    text = str(error) if isinstance(error, LlemError) else printable(one_line(error))
    return without_secret(text)
