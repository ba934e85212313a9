"""Two saved runs side by side: how each experiment that both hold has changed, and what else is not the same.

The sample of a verdict is the run, so two runs alone do not tell what differs between them by chance. Other saved runs
of the same work in the same environment do: they lend their spread, and no mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.records.record import OtherRun, Record
from pytest_llem.report.estimates import Estimate, mean_half_width
from pytest_llem.report.flat import flat
from pytest_llem.report.pairs import Compared, compared_of, measured_alike
from pytest_llem.report.quantities import UNKNOWN
from pytest_llem.verdict.decision import Status, Verdict, judge, pooled_spread
from pytest_llem.verdict.history import METRICS, UNITS, SavedRow, commit_of, difference, is_same, read_files, read_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.verdict.spread import Run, Spread

LIMIT = "2.5%..5%"
"""What a change is held against, as that of ``--llem-against`` where nothing else is said."""

Saved = Mapping[str, Any]
"""A session as pytest-benchmark saves it."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        name: of the run, for people.
        when: as saved; empty where it was not.
        commit: what was measured, one after the other where results are of several; empty where it was not saved.
        experiments: node ids of those that the other run lacks.
    """

    name: str
    when: str
    commit: tuple[tuple[str, str], ...]
    experiments: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One metric of an experiment in both runs.

    Attributes:
        number: of the experiment.
        earlier, later: means per call with the intervals of their rounds.
        verdict: on the later run, the earlier one being all that was saved.
    """

    number: int
    name: str
    metric: str
    unit: str
    earlier: Estimate
    later: Estimate
    verdict: Verdict


@dataclass(frozen=True)
class Both:
    """An experiment that both runs hold.

    Attributes:
        compared: quantity by quantity, the later run being this side.
        settings: what differs in its configuration: the name, the later and the earlier value; ``None`` where a run
            was saved without it.
        warnings: of the later run.
    """

    number: int
    name: str
    nodeid: str
    changes: tuple[Change, ...]
    compared: Compared
    settings: tuple[tuple[str, str, str], ...] | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TwoRuns:
    """Two saved runs.

    Attributes:
        differences: what differs between the machines, as names and the texts of the later and the earlier run.
        others: how many further saved runs there were, for the spread.
        unread: rows of either run that could not be read, with the reason.
        limit: what the changes are held against.
    """

    earlier: Side
    later: Side
    experiments: tuple[Both, ...]
    differences: tuple[tuple[str, str, str], ...]
    others: int
    unread: tuple[str, ...]
    limit: str = LIMIT

    @property
    def changes(self) -> tuple[Change, ...]:
        """Of all experiments."""
        return tuple(change for both in self.experiments for change in both.changes)


def two_runs(earlier: tuple[str, Saved], later: tuple[str, Saved], others: Sequence[Saved] = ()) -> TwoRuns:
    """Compare two saved runs.

    Args:
        earlier, later: a name and what was saved.
        others: saved runs, newest first, for the spread; these two may be among them.
    """
    unread: list[str] = []
    before, after = (dict(_measured(name, saved, unread)) for name, saved in (earlier, later))
    others = [saved for saved in others if saved not in (earlier[1], later[1]) and _is_readable(saved)]
    history = read_files(reversed(others))
    in_both = [nodeid for nodeid in after if nodeid in before]
    apart = {
        (nodeid, metric): _others(
            [found[nodeid].rows[metric] for found in (before, after) if metric in found[nodeid].rows],
            history.get((nodeid, metric), ()),
        )
        for nodeid in in_both
        for metric in METRICS
    }
    spreads = {
        metric: pooled_spread([runs for (_, of), stretches in apart.items() if of == metric for runs in stretches])
        for metric in METRICS
    }
    experiments = tuple(
        _both(number, before[nodeid], after[nodeid], earlier[0], apart, spreads)
        for number, nodeid in enumerate(in_both, 1)
    )
    machines = [dict(flat(saved.get("machine_info") or {})) for _, saved in (later, earlier)]
    return TwoRuns(
        _side(*earlier, before, after),
        _side(*later, after, before),
        experiments,
        tuple(_differences(*machines)),
        len(others),
        tuple(unread),
    )


@dataclass(frozen=True)
class _Measured:
    """An experiment as one run saved it."""

    nodeid: str
    rows: dict[str, SavedRow]
    result: ExperimentResult
    config: Mapping[str, Any] | None
    commit: tuple[tuple[str, str], ...]


def _measured(name: str, saved: Saved, unread: list[str]) -> Iterator[tuple[str, _Measured]]:
    found: dict[str, _Measured] = {}
    for bench in saved.get("benchmarks", ()):
        try:
            if (row := read_row(bench, saved)) is None or not any(row.runs):
                continue
            info = bench["extra_info"]
            known = found.get(row.fullname)
            if known is None:
                result = ExperimentResult.from_dict(info["result"])
                commit = flat(commit_of(info, saved))
                known = found[row.fullname] = _Measured(row.fullname, {}, result, None, commit)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            unread.append(f"{name}: {bench.get('fullname', 'a row')}: {error!r}")
            continue
        known.rows[row.metric] = row
        if isinstance(config := info.get("config"), Mapping):
            found[row.fullname] = replace(known, config=config)
    return iter(found.items())


def _is_readable(saved: Saved) -> bool:
    try:
        read_files([saved])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def _side(name: str, saved: Saved, own: Mapping[str, _Measured], other: Mapping[str, _Measured]) -> Side:
    commits = dict.fromkeys(one.commit for one in own.values()) or [flat(saved.get("commit_info") or {})]
    return Side(
        name,
        str(saved.get("datetime") or "")[:19],
        tuple(part for commit in commits for part in commit),
        tuple(nodeid for nodeid in own if nodeid not in other),
    )


def _others(rows: Sequence[SavedRow], saved: Sequence[SavedRow]) -> list[list[Run]]:
    """Runs of the same work in the same environment as one of these rows, and none of them; by environment, and by the
    levels between changes that were accepted, as in :func:`pytest_llem.verdict.history.baseline`."""
    levels: list[dict[str, list[Run]]] = [{}]
    # One of these rows may be such a change, which lies between the others.
    for other in sorted((*saved, *rows), key=lambda row: str(row.when or "")):
        if not other.valid or all(difference(row, other) is not None for row in rows):
            continue
        if other.accepted:
            levels.append({})
        if (other.accepted or not other.regressed) and not any(is_same(row, other) for row in rows):
            levels[-1].setdefault(other.environment_hash, []).extend(other.runs)
    return [stretch for level in levels for stretch in level.values()]


def _both(
    number: int,
    before: _Measured,
    after: _Measured,
    against: str,
    apart: Mapping[tuple[str, str], Sequence[Sequence[Run]]],
    spreads: Mapping[str, Spread | None],
) -> Both:
    first, last = next(iter(before.rows.values())), next(iter(after.rows.values()))
    other = OtherRun(before.result, first.workload_hash, first.environment, first=True, by_turns=False)
    name, nodeid = after.nodeid.rpartition("::")[2], after.nodeid
    record = Record(
        nodeid=nodeid,
        name=name,
        file=nodeid.partition("::")[0],
        result=after.result,
        workload_hash=last.workload_hash,
        environment=last.environment,
        against=against,
        other_runs=(other,),
    )
    changes = [
        Change(
            number,
            name,
            metric,
            UNITS[metric],
            _mean(before.rows[metric]),
            _mean(after.rows[metric]),
            _verdict(before, after, metric, apart[nodeid, metric], spreads[metric]),
        )
        for metric in METRICS
        if metric in before.rows and metric in after.rows
    ]
    settings = None
    if before.config is not None and after.config is not None:
        settings = tuple(_differences(dict(flat(after.config)), dict(flat(before.config))))
    return Both(
        number,
        name,
        nodeid,
        tuple(changes),
        cast("Compared", compared_of(record)),
        settings,
        tuple(after.result.warnings),
    )


def _mean(row: SavedRow) -> Estimate:
    means = [statistics.fmean(run) for run in row.runs if run]
    values = means if len(means) > 1 else [value for run in row.runs for value in run]
    return Estimate(statistics.fmean(values), mean_half_width(values), max(len(values) - 1, 1))


def _verdict(
    before: _Measured, after: _Measured, metric: str, others: Sequence[Sequence[Run]], spread: Spread | None
) -> Verdict:
    row, other = after.rows[metric], before.rows[metric]
    verdict = judge(other.runs, row.runs, LIMIT, pooled_spread=spread, elsewhere=others)
    reason = None
    if not (row.valid and other.valid):
        reason = f"it is invalid in the {'earlier' if row.valid else 'later'} run: something disturbed it"
    reason = reason or difference(row, other)
    if reason is not None:
        verdict = replace(verdict, status=Status.INCONCLUSIVE, reason=reason)
    if not measured_alike(after.result, before.result, metric):
        verdict = replace(verdict, change=None, interval=None)
    return verdict


def _differences(later: Mapping[str, str], earlier: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys((*later, *earlier)):
        here, there = later.get(name, UNKNOWN), earlier.get(name, UNKNOWN)
        if here != there:
            yield name, here, there
