"""Saved runs, as plain numbers: what a new result is judged against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.outputs import GeneratedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

METRICS = ("energy", "latency")
"""Metrics that have rows, and so can be gated."""

# Of the quantity per call in a saved round.
_ROUND_KEY = {"energy": "joules", "latency": "seconds"}

# A workload whose hash is the same may still stop earlier or later, by the numerics of another library.
_TOKENS_DIFFER = 0.005


@dataclass(frozen=True)
class SavedRow:
    """One metric of one experiment, from one saved session or from this one.

    Attributes:
        fullname: node id of the item.
        metric: one of :data:`METRICS`.
        runs: its runs, each in a process of its own: the rounds, each a value per call.
        workload_hash, environment_hash: what makes rows comparable.
        environment: what ``environment_hash`` is of.
        output_tokens: new tokens of a call.
        output_tokens_hash: hash of the tokens that one pass generated.
        generated: these tokens themselves, where they were kept.
        output_repeats: whether all passes that were looked at generated the same tokens; ``None`` where unknown.
        samples: whether the random generator decided them.
        output_regressed: whether they were judged to be others than before, and are no baseline therefore.
        labels: how the board ran, such as ``power capped``.
        boundaries: how its windows were bounded, ``settled`` or ``joined``.
        valid: whether nothing disturbed it.
        regressed: whether it was judged so, and is no baseline therefore.
        accepted: whether its change was wanted, so that the mean starts again here.
        commit: the commit it was measured at.
        when: when it was saved, ISO 8601.
    """

    fullname: str
    metric: str
    runs: tuple[tuple[float, ...], ...]
    workload_hash: str
    environment_hash: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    output_tokens: float | None = None
    output_tokens_hash: str | None = None
    generated: tuple[GeneratedSequence, ...] = ()
    output_repeats: bool | None = None
    samples: bool = False
    output_regressed: bool = False
    labels: tuple[str, ...] = ()
    boundaries: str = "settled"
    valid: bool = True
    regressed: bool = False
    accepted: bool = False
    commit: str | None = None
    when: str | None = None


def read_row(bench: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> SavedRow | None:
    """A row of pytest-benchmark's JSON; ``None`` for one that is not of this package.

    Args:
        bench: an entry of ``benchmarks``.
        saved: the whole file, for its commit and date.
    """
    info = bench.get("extra_info") or {}
    metric, result = info.get("metric"), info.get("result")
    if metric not in METRICS or not isinstance(result, Mapping) or "nodeid" not in info:
        return None
    commit = (saved or {}).get("commit_info") or {}
    return SavedRow(
        fullname=info.get("nodeid", ""),
        metric=metric,
        runs=tuple(values_per_call(run, metric) for run in (result, *info.get("more_runs", ()))),
        workload_hash=info.get("workload_hash", ""),
        environment_hash=info.get("environment_hash", ""),
        environment=info.get("environment") or {},
        output_tokens=result.get("output_tokens"),
        output_tokens_hash=result.get("output_tokens_hash"),
        generated=tuple(GeneratedSequence.from_dict(sequence) for sequence in result.get("generated") or ()),
        output_repeats=result.get("output_repeats"),
        samples=bool(result.get("samples")),
        output_regressed=info.get("output_verdict") == "REGRESSED",
        labels=tuple(result.get("labels") or ()),
        # All were, before there was another way.
        boundaries=result.get("boundaries") or "settled",
        valid=bool(result.get("valid")),
        regressed=info.get("verdict") == "REGRESSED",
        accepted=bool(info.get("accepted")),
        commit=commit.get("id"),
        when=(saved or {}).get("datetime"),
    )


def values_per_call(result: Mapping[str, Any], metric: str) -> tuple[float, ...]:
    """A run's rounds, each a value per call; rounds without the quantity are left out."""
    calls = result.get("calls_per_round") or 1
    rounds = (window.get(_ROUND_KEY[metric]) for window in result.get("per_round") or ())
    return tuple(value / calls for value in rounds if value is not None)


def read_files(files: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[SavedRow]]:
    """Rows of saved sessions by experiment and metric, in the order of the files (oldest first).

    A result that was saved twice, by a session that was interrupted and by the one that reported it from its journal,
    counts once.
    """
    history: dict[tuple[str, str], list[SavedRow]] = {}
    for saved in files:
        from_journal = set(saved.get("llem_from_journal", ()))
        for bench in saved.get("benchmarks", ()):
            row = read_row(bench, saved)
            if row is not None:
                earlier = history.setdefault((row.fullname, row.metric), [])
                if row.fullname in from_journal:
                    earlier[:] = [known for known in earlier if not is_same(known, row)]
                earlier.append(row)
    return history


def is_same(row: SavedRow, other: SavedRow) -> bool:
    """Whether two rows are of one measurement, to which a verdict may have added runs."""
    return row.runs[0] == other.runs[0] and row.environment_hash == other.environment_hash


@dataclass(frozen=True)
class Baseline:
    """What a row can be judged against.

    Attributes:
        rows: comparable saved rows, oldest first, since the last accepted change.
        before: comparable rows before that change, in stretches of one mean each, whose spread still counts.
        reason: why there are none, although runs were saved.
    """

    rows: Sequence[SavedRow]
    before: Sequence[Sequence[SavedRow]] = ()
    reason: str | None = None


def baseline(row: SavedRow, saved: Sequence[SavedRow], last: int | None) -> Baseline:
    """The saved rows that are of the same work on the same machine as ``row``.

    Args:
        saved: all saved rows of the experiment and metric, oldest first.
        last: use at most this many of the newest; ``None`` for all.
    """
    valid = [known for known in saved if known.valid and any(known.runs)]
    if not valid:
        return Baseline((), reason="every saved run of it is invalid" if saved else None)
    same = [known for known in valid if difference(row, known) is None]
    if not same:
        return Baseline((), reason=difference(row, valid[-1]))
    stretches: list[list[SavedRow]] = [[]]
    for known in same:
        if known.accepted:
            stretches.append([])
        # A regression that was not accepted must not become what the next run is compared with.
        if known.accepted or not known.regressed:
            stretches[-1].append(known)
    *before, rows = stretches
    if not rows:
        return Baseline((), reason="every saved run of it had regressed, and none was accepted")
    return Baseline(rows if last is None else rows[-last:], before=[stretch for stretch in before if stretch])


def difference(row: SavedRow, other: SavedRow) -> str | None:
    """Why two rows cannot be compared; ``None`` when they can."""
    if row.workload_hash != other.workload_hash:
        return "the saved runs are of another workload: the model, the prompts or an option changed"
    if row.environment_hash != other.environment_hash:
        return f"the saved runs are from another environment: {_changed(other.environment, row.environment)}"
    if row.boundaries != other.boundaries:
        return f"the saved runs' windows were {other.boundaries}, now they are {row.boundaries}"
    if row.output_tokens and other.output_tokens:
        change = row.output_tokens / other.output_tokens - 1
        if abs(change) > _TOKENS_DIFFER:
            return f"another number of output tokens: {other.output_tokens:g} a call then, {row.output_tokens:g} now"
    if set(row.labels) != set(other.labels):
        then, now = (", ".join(sorted(saved.labels)) or "none" for saved in (other, row))
        return f"the board ran under other conditions: {then} then, {now} now"
    return None


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    flat_then, flat_now = _flat(then), _flat(now)
    changed = [
        f"{key} {flat_then.get(key, 'unknown')} then, {flat_now.get(key, 'unknown')} now"
        for key in sorted({*flat_then, *flat_now})
        if flat_then.get(key) != flat_now.get(key)
    ]
    return "; ".join(changed) or "what changed was not saved"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list):
        return {k: v for number, inner in enumerate(value) for k, v in _flat(inner, f"{prefix}{number}.").items()}
    return {prefix.rstrip("."): value}
