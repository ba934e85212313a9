"""What was measured of one item, as plain data: the only memory of a result.

Rows of pytest-benchmark, lines of the journal, verdicts, reports and exports are made from it; nothing is read back
from them.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (a line of the journal is checked against these types)
from dataclasses import dataclass, field
from typing import Any

from pytest_llem.measurement.result import ExperimentResult  # noqa: TC001
from pytest_llem.verdict.history import values_per_call
from pytest_llem.verdict.limits import Limit  # noqa: TC001


@dataclass(frozen=True)
class BenchmarkLabels:
    """What pytest-benchmark's fixture, and its user, said of an item: the labels of its rows.

    Attributes:
        name, fullname, group, param, params: as of a row of pytest-benchmark.
        extra_info: what the user added.
    """

    name: str = ""
    fullname: str = ""
    group: Any = None
    param: Any = None
    params: Any = None
    extra_info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OtherRun:
    """What the other side of a pair measured, or this side did not.

    Attributes:
        result: as of this side's :attr:`Record.result`.
        workload_hash, environment: as of a :class:`Record`.
        first: whether the other side began.
        by_turns: whether both processes were alive and their windows took turns; else one process ran after the other.
    """

    result: ExperimentResult
    workload_hash: str
    environment: Mapping[str, Any]
    first: bool
    by_turns: bool = True


@dataclass(frozen=True)
class Record:
    """A result that counts, and what it is of.

    Attributes:
        nodeid: pytest's name of the item.
        name: its last part, for people.
        file: the file that it is in, from the root of the session.
        result: what was measured.
        workload_hash, environment: what makes results comparable, see ``identity``.
        config: the resolved configuration as plain values; ``None`` for a callable.
        swept: the values of this point of a sweep by field.
        more_runs: further runs of it, each in a process of its own, that a verdict needed.
        against: what it was compared with, pair by pair, here and now; empty where it was not.
        other_runs: what the other side of each pair measured; this side's are ``result`` and ``more_runs``, in order.
        disturbed: what disturbed pairs of it that do not count, one by one.
        accepted: its change was wanted, so that the baseline's mean starts again with it.
        commit: what pytest-benchmark knows of the repository whose code was measured: ``id``, ``branch``, ``dirty``,
            ``project``.
        fingerprint: hash of what the session measured it for, see ``session.fingerprint``.
        split: the division into parts that it was measured in, see ``session.shards``; ``None`` for a whole session.
        labels: those of its rows.
        gates: limits by metric.
        verdicts: their outcomes by metric, once it is judged.
        changes: by metric the change that its verdict estimates, a fraction, and its interval.
        trouble: why further runs of it are missing.
        from_journal: an earlier session measured it, and may have saved it.
    """

    nodeid: str
    name: str
    file: str
    result: ExperimentResult
    workload_hash: str
    environment: Mapping[str, Any]
    config: Mapping[str, Any] | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)
    more_runs: tuple[ExperimentResult, ...] = ()
    against: str = ""
    other_runs: tuple[OtherRun, ...] = ()
    disturbed: tuple[str, ...] = ()
    accepted: bool = False
    commit: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    split: str | None = None
    labels: BenchmarkLabels = field(default_factory=BenchmarkLabels)
    # This session's own: neither compared nor written to the journal.
    gates: Mapping[str, Limit] = field(default_factory=dict, compare=False)
    verdicts: Mapping[str, str] = field(default_factory=dict, compare=False)
    changes: Mapping[str, tuple[float | None, tuple[float, float] | None]] = field(default_factory=dict, compare=False)
    trouble: tuple[str, ...] = field(default=(), compare=False)
    from_journal: bool = field(default=False, compare=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that were measured: each has a row, and can be judged."""
        joules = {"energy": self.result.energy_j, "energy_total": self.result.energy_total_j}
        return ("latency", *(metric for metric, measured_j in joules.items() if measured_j is not None))

    def why_missing(self, metric: str) -> str:
        """Why a metric is not one of :attr:`metrics`."""
        reason = self.result.missing.get(f"{metric}_j")
        if reason is None and metric == "energy_total":
            reason = "the host was not read: the nvml meter alone does so, unless --llem-host none leaves it out"
        return reason or f"{metric} was not measured"

    def environment_of(self, metric: str) -> Mapping[str, Any]:
        """:attr:`environment`, with what else a metric depends on: the sensor of the host concerns no other one."""
        return {**self.environment, **({"host_sensor": self.result.host_sensor} if metric == "energy_total" else {})}

    def runs(self, metric: str) -> tuple[tuple[float, ...], ...]:
        """The values per call of each round of each run, in seconds or joules."""
        return tuple(per_call(run, metric) for run in (self.result, *self.more_runs))

    def pairs(self, metric: str) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
        """The same of each pair, this side's and the other's; a run without its partner is in no pair."""
        return tuple(zip(self.runs(metric), (per_call(run.result, metric) for run in self.other_runs), strict=False))


def per_call(result: ExperimentResult, metric: str) -> tuple[float, ...]:
    """The values per call of each round, in seconds or joules; none where a round lacks the quantity."""
    rounds = [vars(window) for window in result.per_round]
    return values_per_call({"calls_per_round": result.calls_per_round, "per_round": rounds}, metric)
