"""Saved runs, as plain numbers: what a new result is judged against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_llem.verdict import pools
from pytest_llem.verdict.outputs import GeneratedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNITS = {"energy": "J", "latency": "s", "energy_total": "J"}
"""The SI symbols of metrics that have rows."""

METRICS = tuple(UNITS)
"""Metrics that have rows, and so can be gated."""

# Of the quantities in a saved round that make up the metric.
_ROUND_KEYS = {"energy": ("joules",), "latency": ("seconds",), "energy_total": ("joules", "host_j")}

# What pytest-benchmark writes where there is no repository, or none that it can ask.
_NO_COMMITS = (None, "unversioned", "unknown")

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
        memory_bytes: of its boards, smallest first; empty where it was not saved.
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
        commit: the commit it was measured at; ``None`` where there was none.
        when: when it was saved, ISO 8601.
    """

    fullname: str
    metric: str
    runs: tuple[tuple[float, ...], ...]
    workload_hash: str
    environment_hash: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    memory_bytes: tuple[int, ...] = ()
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
        saved: the whole file, for its commit, date and machine.
    """
    info = bench.get("extra_info") or {}
    metric, result = info.get("metric"), info.get("result")
    if metric not in METRICS or not isinstance(result, Mapping) or "nodeid" not in info:
        return None
    machine = (saved or {}).get("machine_info") or {}
    environment = info.get("environment") or {}
    return SavedRow(
        fullname=info.get("nodeid", ""),
        metric=metric,
        runs=tuple(values_per_call(run, metric) for run in (result, *info.get("more_runs", ()))),
        workload_hash=info.get("workload_hash", ""),
        environment_hash=info.get("environment_hash", ""),
        environment=environment,
        memory_bytes=pools.memory_bytes(environment, (machine.get("llem") or {}).get("gpus") or ()),
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
        commit=known_commit(commit_of(info, saved or {})),
        when=(saved or {}).get("datetime"),
    )


def commit_of(info: Mapping[str, Any], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """What pytest-benchmark knew of the repository when a row was measured; of one that does not say, when it was
    saved. Arguments are a row's ``extra_info`` and the whole file."""
    known = info.get("commit_info")
    return known if isinstance(known, Mapping) else saved.get("commit_info") or {}


def known_commit(info: Mapping[str, Any]) -> str | None:
    """The commit that :func:`commit_of` or pytest-benchmark's ``commit_info`` names."""
    return None if info.get("id") in _NO_COMMITS else str(info["id"])


def values_per_call(result: Mapping[str, Any], metric: str) -> tuple[float, ...]:
    """A run's rounds, each a value per call; none where a round lacks the quantity: the others have another mean."""
    calls = result.get("calls_per_round") or 1
    rounds = [[window.get(key) for key in _ROUND_KEYS[metric]] for window in result.get("per_round") or ()]
    return () if any(None in parts for parts in rounds) else tuple(sum(parts) / calls for parts in rounds)


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
        before: rows before that change or on other boards of the model, in stretches of one mean each, whose spread
            still counts.
        reason: why there are none, although runs were saved.
        pool: ``rows`` and those on other boards of the model since the last accepted change, oldest first.
    """

    rows: Sequence[SavedRow]
    before: Sequence[Sequence[SavedRow]] = ()
    reason: str | None = None
    pool: Sequence[SavedRow] = ()


def baseline(row: SavedRow, saved: Sequence[SavedRow], last: int | None) -> Baseline:
    """The saved rows that are of the same work on the same machine as ``row``, and those of other boards of its model.

    Args:
        saved: all saved rows of the experiment and metric, oldest first.
        last: use at most this many of the newest on the same machine; ``None`` for all.
    """
    valid = [known for known in saved if known.valid and any(known.runs)]
    if not valid:
        return Baseline((), reason="every saved run of it is invalid" if saved else None)
    pool = [known for known in valid if difference(row, known, pooled=True) is None]
    if not pool:
        return Baseline((), reason=_why_none(row, valid, (), ()))
    stretches: list[dict[str, list[SavedRow]]] = [{}]
    since: list[SavedRow] = []
    for known in pool:
        if known.accepted:
            # Wanted on one board, it is wanted on all.
            stretches.append({})
            since = []
        # A regression that was not accepted must not become what the next run is compared with.
        if known.accepted or not known.regressed:
            stretches[-1].setdefault(known.environment_hash, []).append(known)
            since.append(known)
    rows = stretches[-1].pop(row.environment_hash, [])
    before = [stretch for level in stretches for stretch in level.values()]
    if not rows:
        return Baseline((), before, _why_none(row, valid, pool, since), since)
    kept = rows if last is None else rows[-last:]
    return Baseline(kept, before, pool=since)


def _why_none(row: SavedRow, valid: Sequence[SavedRow], pool: Sequence[SavedRow], since: Sequence[SavedRow]) -> str:
    """Why there is no row of exactly the same environment since the last accepted change."""
    own = [known for known in pool if known.environment_hash == row.environment_hash]
    if own and all(known.regressed and not known.accepted for known in own):
        return "every saved run of it had regressed, and none was accepted"
    here = [known for known in pool if not pools.is_elsewhere(row, known)]
    if own:
        reason = "no run on this board was saved since a change was accepted on another one"
    elif pool and not here:
        reason = pools.unseen(row, since)
    else:
        newest = (here or valid)[-1]
        reason = difference(row, newest) or ""
        if row.workload_hash != newest.workload_hash or row.environment_hash == newest.environment_hash:
            return reason
    commits = [known.commit for known in since or valid if known.commit and not known.regressed]
    other = f"={commits[-1][:7]}" if commits else ""
    return f"{reason}; --llem-against{other} decides it now"


def tokens_differ(output_tokens: float | None, other: float | None) -> bool:
    """Whether two numbers of output tokens of a call are of other work; unknown ones are not known to be."""
    return bool(output_tokens and other) and abs((output_tokens or 0.0) / (other or 1.0) - 1) > _TOKENS_DIFFER


def difference(row: SavedRow, other: SavedRow, *, pooled: bool = False) -> str | None:
    """Why two rows cannot be compared; ``None`` when they can.

    Args:
        pooled: whether other boards of the same model will do.
    """
    if row.workload_hash != other.workload_hash:
        return "the saved runs are of another workload: the model, the prompts or an option changed"
    if row.environment_hash != other.environment_hash and not (pooled and pools.is_pooled(row, other)):
        return f"the saved runs are from another environment: {_changed(other.environment, row.environment)}"
    if row.boundaries != other.boundaries:
        return f"the saved runs' windows were {other.boundaries}, now they are {row.boundaries}"
    if tokens_differ(row.output_tokens, other.output_tokens):
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
