"""All saved results, as plain values: by experiment, and in it by what can be compared.

Runs of one experiment form a series where the work, the machine and its libraries are the same, as for a verdict
(:func:`pytest_llem.verdict.history.difference`), in each metric that they have. A result that was saved twice counts
once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_llem.report.estimates import mean_half_width
from pytest_llem.report.flat import flat
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import METRICS, SavedRow, commit_of, difference, known_commit, read_row, tokens_differ
from pytest_llem.verdict.spread import log_mean, summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


# Beyond the prefixes of SI nothing is measured, and changes cannot be reckoned.
_LEAST, _MOST = 1e-30, 1e30


@dataclass(frozen=True)
class Quantity:
    """What is drawn over time.

    Attributes:
        unit: its SI symbol.
        field: of a saved result; empty for one that has rows of its own.
        like: the quantity whose changes are also its own, as it is proportional to it within a series.
    """

    name: str
    unit: str
    field: str = ""
    like: str = ""


QUANTITIES = {
    "energy": Quantity("energy", "J"),
    "latency": Quantity("latency", "s"),
    "energy_total": Quantity("energy with the host", "J"),
    "energy_per_token": Quantity("energy per output token", "J", "energy_per_output_token_j", like="energy"),
}
"""In the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class SavedSession:
    """One saved session; where its results are of several commits, what it has of one.

    Attributes:
        name: of its file.
        when: it was saved.
        commit, branch: that were measured; ``None`` where they were not saved.
        dirty: whether there were uncommitted changes.
        conditions: what may matter and is no part of what makes results comparable, as names and texts.
    """

    name: str
    when: datetime
    commit: str | None
    branch: str | None
    dirty: bool
    conditions: Mapping[str, str]


@dataclass(frozen=True)
class Value:
    """A quantity of a call.

    Attributes:
        half_width: of the 95% interval as its rounds show it; ``None`` where they do not.
    """

    value: float
    half_width: float | None


@dataclass(frozen=True, eq=False)
class SavedResult:
    """What one session saved of one experiment.

    Attributes:
        session: that measured it.
        rows: by metric, one at least.
        values: by the keys of :data:`QUANTITIES`, of what was measured.
        verdicts: by metric, as they were saved.
        warnings: what its reader should know.
        estimated: whether its joules are modelled.
    """

    session: SavedSession
    rows: Mapping[str, SavedRow]
    values: Mapping[str, Value]
    verdicts: Mapping[str, str]
    warnings: tuple[str, ...]
    estimated: bool

    @property
    def row(self) -> SavedRow:
        """What is the same in all its rows."""
        return next(iter(self.rows.values()))

    @property
    def runs(self) -> int:
        """Processes that measured it."""
        return len(self.row.runs)


@dataclass(eq=False)
class Series:
    """Results that can be compared with each other, oldest first.

    Attributes:
        valid: those that nothing disturbed.
        invalid: the others, which are no baseline.
        rows: by metric the first one of it.
    """

    valid: list[SavedResult] = field(default_factory=list)
    invalid: list[SavedResult] = field(default_factory=list)
    rows: dict[str, SavedRow] = field(default_factory=dict)

    def has_room_for(self, result: SavedResult) -> bool:
        """Whether it can be compared with what is there."""
        return all(
            difference(row, self.rows[metric]) is None for metric, row in result.rows.items() if metric in self.rows
        )

    def add(self, result: SavedResult) -> None:
        """Take it in as the newest."""
        self.rows = {**result.rows, **self.rows}
        (self.valid if result.row.valid else self.invalid).append(result)

    @property
    def first(self) -> SavedResult:
        """Any of them knows what they have in common."""
        return (self.valid or self.invalid)[0]

    @property
    def board(self) -> str:
        """What it was measured on."""
        return board_of(self.first.row) + (" (estimated joules)" if self.first.estimated else "")


@dataclass(frozen=True)
class ExperimentSeries:
    """An experiment with its series, in the order in which they began."""

    nodeid: str
    series: Sequence[Series]

    @property
    def name(self) -> str:
        """The last part of the node id."""
        return self.nodeid.rpartition("::")[2]

    @cached_property
    def apart(self) -> Mapping[Series, str]:
        """What sets each series apart from the others beside its board, which may be nothing."""
        known = [{**environment_of(one.rows), "workload": one.first.row.workload_hash} for one in self.series]
        names = dict.fromkeys(name for one in known for name in one if name.partition(" ")[0] != "board")
        apart = [name for name in names if len({one.get(name) for one in known}) > 1]
        return {
            series: ", ".join(f"{name} {one.get(name, 'none')}" for name in apart)
            for series, one in zip(self.series, known, strict=True)
        }

    def label(self, series: Series) -> str:
        """The letter of a series, its board, and what else sets it apart."""
        apart = self.apart[series]
        return f"{letter(self.places[series])}: {series.board}{apart and f', {apart}'}"

    @cached_property
    def places(self) -> Mapping[Series, int]:
        """The place of each series."""
        return {series: place for place, series in enumerate(self.series)}


def letter(number: int) -> str:
    """A to Z, then AA."""
    before = letter(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("A") + number % 26)


@dataclass(frozen=True)
class Store:
    """All that is saved.

    Attributes:
        sessions: with results, oldest first.
        files: that hold them.
        experiments: by node id.
        left_out: name and reason of what was saved and is not shown.
        saved_twice: results that were found again in a later session.
    """

    sessions: Sequence[SavedSession]
    files: int
    experiments: Sequence[ExperimentSeries]
    left_out: Sequence[tuple[str, str]]
    saved_twice: int

    @property
    def results(self) -> list[SavedResult]:
        """All results, experiment after experiment."""
        return [
            result
            for experiment in self.experiments
            for series in experiment.series
            for result in (*series.valid, *series.invalid)
        ]


def read_store(saved: Iterable[tuple[str, Mapping[str, Any] | str]]) -> Store:
    """Sort all that is saved.

    Args:
        saved: name and content, of what has none the reason.
    """
    read: list[tuple[SavedSession, list[SavedResult]]] = []
    files = 0
    left_out = []
    environments: dict[str, Mapping[str, Any]] = {}
    for name, content in saved:
        try:
            if isinstance(content, str):
                raise ValueError(content)
            read += _read_session(name, content, environments)
            files += 1
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            # Whatever stands in a file that somebody else wrote.
            left_out.append((name, str(error) if isinstance(error, ValueError) else "a row of it cannot be read"))
    read.sort(key=lambda pair: (pair[0].when, pair[0].name))
    results: dict[Any, SavedResult] = {}
    found = 0
    for result in (result for _, results in read for result in results):
        found += 1
        # Seconds do not repeat, as joules of a coarse sensor do. One without rounds is like any other of its kind.
        row = result.rows.get("latency", result.row)
        key = (row.fullname, row.environment_hash, row.runs[0] or found)
        # The later one may know of a verdict and of further runs; it was measured when it was saved first.
        if (known := results.get(key)) is not None:
            result = _of_both(known, result)
        results[key] = result
    by_nodeid: dict[str, list[Series]] = {}
    near: dict[tuple[str, str], list[Series]] = {}
    for result in results.values():
        row = result.row
        # What is different takes long to name.
        candidates = near.setdefault((row.fullname, row.environment_hash), [])
        series = next((one for one in candidates if one.has_room_for(result)), None)
        if series is None:
            series = Series()
            candidates.append(series)
            by_nodeid.setdefault(row.fullname, []).append(series)
        series.add(result)
    experiments = [ExperimentSeries(nodeid, series) for nodeid, series in sorted(by_nodeid.items())]
    return Store([session for session, _ in read], files, experiments, left_out, found - len(results))


def _of_both(earlier: SavedResult, later: SavedResult) -> SavedResult:
    """A result that was saved twice: when it was measured, and all that is known of it."""
    verdicts = {**earlier.verdicts, **later.verdicts}
    accepted = earlier.row.accepted or later.row.accepted
    rows = {
        metric: replace(row, accepted=accepted, regressed=verdicts.get(metric) == Status.REGRESSED.value)
        for metric, row in later.rows.items()
    }
    return replace(later, session=earlier.session, rows=rows, verdicts=verdicts)


def _read_session(
    name: str, saved: Mapping[str, Any], environments: dict[str, Mapping[str, Any]]
) -> list[tuple[SavedSession, list[SavedResult]]]:
    """The results of a session by their commits; an environment that many have is kept once.

    Raises:
        ValueError: it has none, or no date. What else is wrong with it raises what it may.
    """
    found: dict[str, dict[str, tuple[SavedRow, Mapping[str, Any]]]] = {}
    for bench in saved["benchmarks"]:
        row = read_row(bench, saved)
        if row is not None:
            _check(row, known=row.environment_hash in environments)
            # What was generated is long, and not shown.
            environment = environments.setdefault(row.environment_hash, row.environment)
            row = replace(row, generated=(), environment=environment)
            found.setdefault(row.fullname, {})[row.metric] = (row, bench["extra_info"])
    if not found:
        raise ValueError("no result of an experiment in it")
    when, conditions = _when(saved.get("datetime")), _conditions(saved.get("machine_info") or {})
    read: dict[tuple[str | None, str | None, bool], tuple[SavedSession, list[SavedResult]]] = {}
    for rows in found.values():
        _, info = next(iter(rows.values()))
        # What a journal held was measured earlier, maybe at another commit.
        of = _commit(commit_of(info, saved))
        session, results = read.setdefault(of, (SavedSession(name, when, *of, conditions), []))
        results.append(_result(session, rows))
    return list(read.values())


def _commit(info: Mapping[str, Any]) -> tuple[str | None, str | None, bool]:
    """Commit, branch, and whether there were uncommitted changes."""
    return (
        known_commit(info),
        str(info["branch"]) if info.get("branch") else None,
        bool(info.get("dirty")),
    )


def _check(row: SavedRow, *, known: bool) -> None:
    """Raises what it may where a row holds something else than one of ours, before it is among the others.

    Args:
        known: whether its environment was looked at before.
    """
    texts = (row.fullname, row.workload_hash, row.environment_hash, row.boundaries, *row.labels)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("no text")
    tokens_differ(row.output_tokens, 1.0)
    if not known:
        environment_of({row.metric: row})
        board_of(row)


def _result(session: SavedSession, rows: Mapping[str, tuple[SavedRow, Mapping[str, Any]]]) -> SavedResult:
    _, info = next(iter(rows.values()))
    result = info["result"]
    measured = {metric: _mean(row) for metric, (row, _) in rows.items()}
    for key, quantity in QUANTITIES.items():
        if quantity.field and result.get(quantity.field) is not None:
            measured[key] = _value(result[quantity.field], None)
    return SavedResult(
        session=session,
        rows={metric: rows[metric][0] for metric in METRICS if metric in rows},
        values={key: value for key, value in measured.items() if value is not None},
        verdicts={metric: str(info["verdict"]) for metric, (_, info) in rows.items() if info.get("verdict")},
        warnings=tuple(map(str, result.get("warnings") or ())),
        estimated=bool(result.get("estimated")),
    )


def _mean(row: SavedRow) -> Value | None:
    """The mean of its runs as a verdict takes it."""
    runs = summarize(row.runs)
    if len(runs) < len(row.runs):
        return None
    return _value(math.exp(log_mean(runs)), mean_half_width(row.runs[0]) if len(runs) == 1 else None)


def _value(value: float, half_width: float | None) -> Value | None:
    """A quantity that has a place in a plot: of a size that has a name."""
    if not _LEAST < value < _MOST:
        return None
    return Value(float(value), half_width if half_width is not None and 0 <= half_width < _MOST else None)


def _when(text: Any) -> datetime:
    """pytest-benchmark's date, which is in UTC."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"{text!r} is no date") from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _conditions(machine: Mapping[str, Any]) -> dict[str, str]:
    libraries = (machine.get("llem") or {}).get("libraries") or {}
    system = [machine.get("system"), machine.get("release")]
    found = {
        "host": machine.get("node"),
        "python": machine.get("python_version"),
        "system": " ".join(str(part) for part in system if part),
        **libraries,
    }
    return {name: str(value) for name, value in found.items() if value}


def board_of(row: SavedRow) -> str:
    """What it was measured on: its boards, or else the processor."""
    boards = row.environment.get("boards") or ()
    names = [f"{board.get('name') or 'GPU'} {str(board.get('uuid'))[:12]}" for board in boards]
    return ", ".join(names) or str(row.environment.get("cpu") or row.environment.get("device") or "unknown")


def environment_of(rows: Mapping[str, SavedRow]) -> dict[str, str]:
    """What makes results comparable beside the work, as names and texts for people, by the rows of their metrics."""
    known: dict[str, str] = {}
    for row in rows.values():
        environment = dict(row.environment)
        boards = environment.pop("boards", None) or []
        libraries = environment.pop("libraries", None) or {}
        named = {f"board {number}" if len(boards) > 1 else "board": board for number, board in enumerate(boards)}
        known |= dict(flat(libraries))
        known |= {key.replace(".", " ").replace("_", " "): text for key, text in flat(named)}
        known |= {key.replace("_", " "): text for key, text in flat(environment)}
        known["windows"] = row.boundaries
        if row.labels:
            known["ran"] = ", ".join(sorted(row.labels))
    return known


def changed(then: SavedResult, now: SavedResult) -> list[str]:
    """What else is different between two results, such as ``torch 2.6.0 → 2.7.0``; the commit is not named."""
    before, after = ({**result.session.conditions, **environment_of(result.rows)} for result in (then, now))
    found = [
        f"{name} {before.get(name, 'none')} \N{RIGHTWARDS ARROW} {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    if then.row.workload_hash != now.row.workload_hash:
        found.insert(0, "another workload: the model, the prompts or an option")
    elif not found and (reason := difference(now.row, then.row)) is not None:
        found.append(reason)
    return found
