"""Where the seconds of a session's experiments went, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.measurement.account import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.records.record import Record

MEASURED, REST = "measured", "other"

ORDER = (MEASURED, *(entry for entry in ENTRIES if entry != MEASURED))
"""Entries as they are drawn and listed: first that for which there are the others."""

# What took less of the whole than that is told together.
_SMALL = 0.05


def total(spent_s: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The seconds of several accounts together, by entry; entries that are not known here are the rest."""
    sums: dict[str, float] = {}
    for account in spent_s:
        for entry, seconds in account.items():
            key = entry if entry in ENTRIES else REST
            sums[key] = sums.get(key, 0.0) + seconds
    return sums


def share_line(spent_s: Mapping[str, float]) -> str | None:
    """``57 s of 93 s (61%) were measured; loading the model 12 s, warming up 8 s, the rest 16 s``: the largest first,
    small ones together; ``None`` where no time is known."""
    whole_s = sum(spent_s.values())
    if whole_s <= 0:
        return None
    measured_s = spent_s.get(MEASURED, 0.0)
    others = {entry: seconds for entry, seconds in spent_s.items() if entry not in (MEASURED, REST)}
    named = {entry: others[entry] for entry in sorted(others, key=lambda entry: -others[entry])}
    named = {entry: seconds for entry, seconds in named.items() if seconds >= _SMALL * whole_s}
    rest_s = whole_s - measured_s - sum(named.values())
    parts = [f"{ENTRIES[entry]} {duration(seconds)}" for entry, seconds in named.items()]
    if duration(rest_s) != duration(0.0):
        parts.append(f"{ENTRIES[REST]} {duration(rest_s)}")
    text = f"{duration(measured_s)} of {duration(whole_s)} ({measured_s / whole_s:.0%}) were measured"
    return f"{text}; {', '.join(parts)}" if parts else text


def session_line(records: Sequence[Record]) -> str | None:
    """The share of measured time of what this session measured; of results that earlier sessions left only where it
    measured nothing itself."""
    own = [record for record in records if not record.from_journal]
    chosen = own or records
    line = share_line(total(run.spent_s for record in chosen for run in (record.result, *record.more_runs)))
    if line is None or len(own) == len(records):
        return line
    if not own:
        return f"in the sessions that measured these results, {line}"
    return f"in this session, which measured {len(own)} of {len(records)} results, {line}"


def duration(seconds: float) -> str:
    """``57 s``; below 10 s with a digit more."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
