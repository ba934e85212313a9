"""``--llem-merge``: report the union of several journals as one session, running nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_llem.footprint import without_footprint
from pytest_llem.session.journal import read_journal
from pytest_llem.session.journal_line import OtherVersionError
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.gates import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_llem.records.record import Record
    from pytest_llem.settings import Settings


class Merge:
    """The plugin of a session that reports journals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Count the results of the journals in place of collecting tests.

        Raises:
            pytest.UsageError: a journal cannot be read, or two of them disagree.
        """
        records, notes, missing = union(self._settings.merge)
        state = llem_session(session.config)
        state.incomplete = bool(missing)
        for record in records:
            compare = (record.config or {}).get("compare") or {}
            state.count(replace(record, gates=resolve(self._settings.gates, compare)))
        state.notes += [f"llem: {note}" for note in (*missing, *notes)]
        session.items = []
        # What pytest counts to know success from "no tests ran".
        session.testscollected = len(records)
        return True


def union(paths: Sequence[Path]) -> tuple[list[Record], list[str], list[str]]:
    """The records of several journals, each experiment once; what the user should know; why parts must be missing.

    Raises:
        pytest.UsageError: a journal cannot be read, or two of them hold different results of one experiment.
    """
    merged: dict[str, tuple[Record, Path]] = {}
    notes: list[str] = []
    missing: list[str] = []
    # A copy is no other part. Those that are empty are parts to which nothing fell.
    contributions: set[object] = set()
    for path in paths:
        try:
            contents = read_journal(path)
        except OSError as error:
            raise pytest.UsageError(f"--llem-merge: {path}: {error.strerror or error}") from None
        except OtherVersionError as error:
            raise pytest.UsageError(f"--llem-merge: {error}") from None
        # What was dropped may be a result.
        missing += contents.problems
        if not contents.records or any(record.split is not None for record in contents.records.values()):
            contributions.add(frozenset(contents.records) or path)
        for record in contents.records.values():
            other, where = merged.get(record.nodeid, (record, path))
            if _measured(other) != _measured(record):
                raise pytest.UsageError(
                    f"--llem-merge: {where} and {path} hold different results of {record.nodeid}: leave one of them out"
                )
            if len(record.more_runs) >= len(other.more_runs):
                merged[record.nodeid] = (record, path)
    # A session that was no part is whole.
    splits = {record.split for record, _ in merged.values()} - {None}
    if len(splits) > 1:
        missing.append(
            "the merged parts were divided differently, so experiments may be missing: run the parts with the same "
            "files, the same options and the same saved runs"
        )
    elif (parts := max(map(_parts, splits), default=0)) > len(contributions):
        missing.append(
            f"of {parts} parts, {len(contributions)} left a journal that is merged: the experiments of the others are "
            "missing"
        )
    notes.append(
        f"merged {len(merged)} experiment{'s'[: len(merged) != 1]} of {len(paths)} journal{'s'[: len(paths) != 1]}; "
        "nothing was run"
    )
    return [record for record, _ in merged.values()], notes, missing


def _parts(split: str | None) -> int:
    number, dash, _ = (split or "").partition("-")
    return int(number) if dash and number.isdecimal() else 1


def _measured(record: Record) -> Record:
    """What two journals must agree on. How a result was judged is left out: only the last session knows. So is what its
    joules weigh and cost, which sessions may reckon differently."""
    return replace(record, result=without_footprint(record.result), more_runs=(), accepted=False, split=None)
