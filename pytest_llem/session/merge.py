"""``--llem-merge``: report the union of several journals as one session, running nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.records import rows as benchmark
from pytest_llem.session.journal import Entry, read_journal
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.gates import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_llem.settings import Settings


# What the end of a session adds to the rows of a result, see ``gating`` and ``ending``.
_ADDED = {"accepted", "more_runs", "verdict"}


def report(session: pytest.Session, settings: Settings) -> None:
    """Publish the results of ``settings.merge`` in place of collecting tests.

    Raises:
        pytest.UsageError: a journal cannot be read, or two of them disagree.
    """
    entries, notes, missing = union(settings.merge)
    state = llem_session(session.config)
    state.incomplete = bool(missing)
    for entry in entries:
        compare = {} if entry.config is None else entry.config.get("compare") or {}
        one = entry.recorded(resolve(settings.gates, compare))
        benchmark.publish(session.config, one.rows)
        state.recorded.append(one)
    state.notes += [f"llem: {note}" for note in (*missing, *notes)]
    session.items = []
    # What pytest counts to tell success from "no tests ran".
    session.testscollected = len(entries)


def union(paths: Sequence[Path]) -> tuple[list[Entry], list[str], list[str]]:
    """The entries of several journals, each experiment once; what the user should know; why parts must be missing.

    Raises:
        pytest.UsageError: a journal cannot be read, or two of them hold different results of one experiment.
    """
    merged: dict[str, tuple[Entry, Path]] = {}
    notes: list[str] = []
    missing: list[str] = []
    # A copy is no other part. Those that are empty are parts to which nothing fell.
    contributions: set[object] = set()
    for path in paths:
        try:
            contents = read_journal(path)
        except OSError as error:
            raise pytest.UsageError(f"--llem-merge: {path}: {error.strerror or error}") from None
        # What was dropped may be a result.
        missing += contents.problems
        if not contents.entries or any(entry.split is not None for entry in contents.entries.values()):
            contributions.add(frozenset(contents.entries) or path)
        for entry in contents.entries.values():
            other, where = merged.get(entry.nodeid, (entry, path))
            if _said(other) != _said(entry):
                raise pytest.UsageError(
                    f"--llem-merge: {where} and {path} hold different results of {entry.nodeid}: leave one of them out"
                )
            if _runs(entry) >= _runs(other):
                merged[entry.nodeid] = (entry, path)
    # A session that was no part is whole.
    splits = {entry.split for entry, _ in merged.values()} - {None}
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
    return [entry for entry, _ in merged.values()], notes, missing


def _parts(split: str | None) -> int:
    number, dash, _ = (split or "").partition("-")
    return int(number) if dash and number.isdecimal() else 1


def _said(entry: Entry) -> tuple[object, ...]:
    """What two journals must agree on. How a result was judged is left out: only the last session knows."""
    rows = [
        {**row, "extra_info": {key: value for key, value in row["extra_info"].items() if key not in _ADDED}}
        for row in entry.rows
    ]
    return entry.asked, entry.result, rows


def _runs(entry: Entry) -> int:
    return max((len(row["extra_info"].get("more_runs") or ()) for row in entry.rows), default=0)
