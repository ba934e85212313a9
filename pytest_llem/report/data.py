"""Everything a report shows, as plain values: what a page draws and a table lists comes from here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.report import estimates
from pytest_llem.report.explanations import explanations
from pytest_llem.report.flat import flat
from pytest_llem.report.histories import History, Likeness, history_of
from pytest_llem.report.joules import Joules, joules_of
from pytest_llem.report.pairs import Compared, compared_of
from pytest_llem.report.power import Power, power_of
from pytest_llem.report.sweeps import Sweep, sweeps_of
from pytest_llem.report.time_spent import session_line
from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.history import METRICS, SavedRow, difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record
    from pytest_llem.report.estimates import Estimate
    from pytest_llem.report.pairs import Look
    from pytest_llem.verdict.judging import Judged

WORST_FIRST = (Status.REGRESSED, Status.INCONCLUSIVE, Status.NO_BASELINE, Status.IMPROVED, Status.OK)
"""Verdicts in the order in which a reader wants them."""

# A report stays below 10 MB: with many experiments, fewer saved runs and windows of each are shown.
_FEW_EXPERIMENTS = 50
_SHOWN_OF_FEW, _SHOWN_OF_MANY = 60, 12
_SAMPLED_OF_FEW, _SAMPLED_OF_MANY = 12, 2


@dataclass(frozen=True)
class ExperimentPage:
    """What a report says about one experiment.

    Attributes:
        number: from 1, in the order of the session.
        energy, latency: per call; ``None`` when not measured.
        joules: where those of a call went; ``None`` where that is not known.
        judged: its verdicts.
        compared: how it compares with the other side of pairs; ``None`` where it was not.
        histories: its saved runs, for each metric that has any.
        power: of its windows in time.
        settings: the resolved configuration, flat.
        environment: where it ran, flat.
        explanations: why its numbers are as they are, a sentence each.
        remote_code: whether code from the model's repository was allowed to run.
    """

    number: int
    source: Record
    energy: Estimate | None
    latency: Estimate | None
    joules: Joules | None
    judged: tuple[Judged, ...]
    compared: Compared | None
    histories: tuple[History, ...]
    power: Power
    settings: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    explanations: tuple[str, ...]
    remote_code: bool

    @property
    def result(self) -> ExperimentResult:
        """What was measured."""
        return self.source.result


@dataclass(frozen=True)
class Report:
    """A session.

    Attributes:
        created: when, as text.
        commit, machine: as pytest-benchmark saves them; flat.
        experiments: in the order of the session.
        judged: all verdicts, worst first.
        counts: how many of each status, worst first.
        sweeps: experiments that differ in swept values only.
        time: a sentence on where the time went; ``None`` where that is not known.
    """

    created: str
    commit: tuple[tuple[str, str], ...]
    machine: tuple[tuple[str, str], ...]
    experiments: tuple[ExperimentPage, ...]
    judged: tuple[Judged, ...]
    counts: Mapping[Status, int]
    sweeps: tuple[Sweep, ...]
    time: str | None

    @property
    def numbers(self) -> Mapping[str, int]:
        """The number of each experiment by its node id."""
        return {page.source.nodeid: page.number for page in self.experiments}

    @property
    def divided(self) -> tuple[ExperimentPage, ...]:
        """The experiments of which it is known where their joules went."""
        return tuple(page for page in self.experiments if page.joules)

    @property
    def compared(self) -> tuple[ExperimentPage, ...]:
        """The experiments that were measured in pairs."""
        return tuple(page for page in self.experiments if page.compared)

    @property
    def downsampled(self) -> bool:
        """Whether there are so many experiments that each is shown more briefly."""
        return len(self.experiments) > _FEW_EXPERIMENTS


def build_report(
    records: Sequence[Record],
    judged: Sequence[Judged],
    history: Mapping[tuple[str, str], Sequence[SavedRow]],
    machine: Mapping[str, Any],
    commit: Mapping[str, Any],
    created: str,
    look: Look | None = None,
) -> Report:
    """Put a report together.

    Args:
        records: the session's results.
        judged: the verdicts on them.
        history: saved rows by node id and metric, oldest first, without this session's.
        machine, commit: pytest-benchmark's ``machine_info`` and ``commit_info``.
        created: when the session ran, for people.
        look: judges pairs as the session does, so that plots show how the interval closed in.
    """
    by_item: dict[str, list[Judged]] = {}
    for found in judged:
        by_item.setdefault(found.candidate.nodeid, []).append(found)
    shown = _SHOWN_OF_FEW if len(records) <= _FEW_EXPERIMENTS else _SHOWN_OF_MANY
    pages = [
        _page(number, record, by_item.get(record.nodeid, []), history, shown, look)
        for number, record in enumerate(records, 1)
    ]
    ordered = sorted(
        judged, key=lambda found: (WORST_FIRST.index(found.verdict.status), -(found.verdict.change or 0.0))
    )
    counted = Counter(found.verdict.status for found in judged)
    return Report(
        created=created,
        commit=flat(commit),
        machine=flat(machine),
        experiments=tuple(pages),
        judged=tuple(ordered),
        counts={status: counted[status] for status in WORST_FIRST},
        sweeps=tuple(sweeps_of(pages)),
        time=session_line(records),
    )


def _page(
    number: int,
    record: Record,
    judged: Sequence[Judged],
    history: Mapping[tuple[str, str], Sequence[SavedRow]],
    shown: int,
    look: Look | None,
) -> ExperimentPage:
    settings = flat(record.config or {})
    return ExperimentPage(
        number=number,
        source=record,
        energy=estimates.energy(record.result),
        latency=estimates.latency(record.result),
        joules=joules_of(record.result),
        judged=tuple(judged),
        compared=compared_of(record, judged, look),
        histories=tuple(
            _history(record, metric, saved, judged, shown)
            for metric in METRICS
            if (saved := history.get((record.nodeid, metric), ()))
        ),
        power=power_of(record.result, shown, _SAMPLED_OF_FEW if shown == _SHOWN_OF_FEW else _SAMPLED_OF_MANY),
        settings=settings,
        environment=flat(record.environment),
        explanations=explanations(record),
        remote_code=any(key.split(".")[-1] == "trust_remote_code" and value == "true" for key, value in settings),
    )


def _history(record: Record, metric: str, saved: Sequence[SavedRow], judged: Sequence[Judged], shown: int) -> History:
    """The metric's runs: this session's, and the saved ones with whether they are of the same work on the same machine.
    A verdict knows both, and may have needed more runs than one."""
    rows = (verdict.candidate.row for verdict in judged if verdict.candidate.metric == metric)
    row = next((row for row in rows if row is not None), None)
    if row is not None:
        return history_of(metric, row.runs, saved, [_likeness(row, other) for other in saved], judged, shown)
    values = record.runs(metric)[0]
    alike = [_likeness_of(record, other) for other in saved]
    return history_of(metric, (values,) if values else (), saved, alike, judged, shown)


def _likeness(row: SavedRow, other: SavedRow) -> Likeness:
    if difference(row, other) is None:
        return Likeness.COMPARABLE
    pooled = difference(row, other, pooled=True) is None
    return Likeness.ANOTHER_BOARD if pooled and pools.is_elsewhere(row, other) else Likeness.OTHER


def _likeness_of(record: Record, other: SavedRow) -> Likeness:
    """:func:`_likeness` of what has no verdict."""
    if (
        other.workload_hash != record.workload_hash
        or set(other.labels) != set(record.result.labels)
        or other.boundaries != record.result.boundaries
    ):
        return Likeness.OTHER
    then, now = other.environment, record.environment_of(other.metric)
    if flat(then) == flat(now):
        return Likeness.COMPARABLE
    elsewhere = pools.boards_of(then) != pools.boards_of(now) and pools.pooled_environments(then, now)
    return Likeness.ANOTHER_BOARD if elsewhere else Likeness.OTHER
