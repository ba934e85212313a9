"""This side against the other, as pairs of processes show it: quantity by quantity and pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.records.record import per_call
from pytest_llem.report.estimates import Ratio, mean_half_width
from pytest_llem.report.flat import flat
from pytest_llem.report.quantities import UNKNOWN
from pytest_llem.verdict.history import UNITS
from pytest_llem.verdict.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import OtherRun, Record
    from pytest_llem.verdict.decision import Verdict
    from pytest_llem.verdict.judging import Judged

Pair = tuple[Sequence[float], Sequence[float]]
"""The windows of this side's process and of the other's, values per call."""

Look = Callable[[Sequence[Pair], Limit, bool], "Verdict"]
"""Judges pairs against a limit; the last argument says whether the windows of both sides took turns."""

THIS = "this side"


@dataclass(frozen=True)
class PairPoint:
    """One metric of one pair.

    Attributes:
        number: from 1, in the order in which they were measured.
        this, other: means per call of its windows; ``None`` where it was not measured.
        change: ``this / other - 1``; ``None`` where it is not known, or the sides were measured in unlike ways.
        other_first: whether the other side began.
        by_turns: whether the windows of both sides took turns.
        valid: whether nothing disturbed either of them.
    """

    number: int
    this: float | None
    other: float | None
    change: float | None
    other_first: bool
    by_turns: bool
    valid: bool


@dataclass(frozen=True)
class ComparedMetric:
    """A gated metric.

    Attributes:
        unit: the SI symbol of its values.
        looks: the verdict after each number of pairs that has an interval, by that number; at least after the last.
    """

    judged: Judged
    unit: str
    points: tuple[PairPoint, ...]
    looks: tuple[tuple[int, Verdict], ...]

    @property
    def name(self) -> str:
        """Such as ``energy``."""
        return self.judged.candidate.metric


@dataclass(frozen=True)
class Changed:
    """One quantity of both sides.

    Attributes:
        this, other: means over the pairs in which both are known.
        ratio: the geometric mean of ``this / other`` over the pairs, with a 95% interval from two of them on; ``None``
            where it is not known, or a value is not positive.
        pairs: of how many pairs.
    """

    name: str
    unit: str
    this: float
    other: float
    ratio: Ratio | None
    pairs: int

    @property
    def change(self) -> float | None:
        """As a fraction, positive for more on this side."""
        return None if self.ratio is None else self.ratio.value - 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the change."""
        if self.ratio is None or self.ratio.interval is None:
            return None
        return self.ratio.interval[0] - 1, self.ratio.interval[1] - 1

    @property
    def moved(self) -> bool:
        """Whether the interval leaves out no change at all."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Compared:
    """An experiment on both sides.

    Attributes:
        against: the other side's name.
        pairs, disturbed: how many pairs there are, and in how many a result is not valid.
        metrics: the gated ones.
        changed: all quantities that both sides have.
        differences: what is not the same about both sides, as names and the texts of this side and the other.
        warnings: of the other side, and of this side's further runs: the side and the text.
    """

    against: str
    pairs: int
    disturbed: int
    metrics: tuple[ComparedMetric, ...]
    changed: tuple[Changed, ...]
    differences: tuple[tuple[str, str, str], ...]
    warnings: tuple[tuple[str, str], ...]

    def quantity(self, name: str) -> Changed | None:
        """One of :attr:`changed`."""
        return next((changed for changed in self.changed if changed.name == name), None)


def compared_of(record: Record, judged: Sequence[Judged] = (), look: Look | None = None) -> Compared | None:
    """How a record compares with the other side; ``None`` where it was not measured in pairs.

    Args:
        judged: the verdicts on it.
        look: judges pairs as the session does; without it, the last look alone is shown.
    """
    both = list(zip((record.result, *record.more_runs), record.other_runs, strict=False))
    if not both:
        return None
    gated = [found for found in judged if found.candidate.against and found.candidate.metric in UNITS]
    return Compared(
        record.against,
        len(both),
        sum(not (this.valid and other.result.valid) for this, other in both),
        tuple(_metric(record, found, look) for found in gated),
        tuple(_changes([(this, other.result) for this, other in both])),
        tuple(_differences(record)),
        tuple(_warnings(record)),
    )


def _metric(record: Record, judged: Judged, look: Look | None) -> ComparedMetric:
    metric, verdict = judged.candidate.metric, judged.verdict
    points = tuple(_points(record, metric))
    looks = [(verdict.runs, verdict)]
    if look is not None:
        pairs, by_turns = record.pairs(metric), all(run.by_turns for run in record.other_runs)
        looks = [(n, look(pairs[:n], judged.candidate.limit, by_turns)) for n in range(1, len(pairs) + 1)]
    return ComparedMetric(
        judged, UNITS[metric], points, tuple((n, seen) for n, seen in looks if seen.interval is not None)
    )


def _points(record: Record, metric: str) -> Iterator[PairPoint]:
    quantity = next(found for found in _QUANTITIES if found.metric == metric)
    runs = zip((record.result, *record.more_runs), record.other_runs, strict=False)
    for number, (this, run) in enumerate(runs, 1):
        ratio = quantity.ratio(this, run.result)
        yield PairPoint(
            number,
            quantity.value(this),
            quantity.value(run.result),
            None if ratio is None else ratio - 1,
            run.first,
            run.by_turns,
            this.valid and run.result.valid,
        )


@dataclass(frozen=True)
class _Quantity:
    """A quantity of a result.

    Attributes:
        field: of the result; ``None`` where the windows say it.
        metric: which windows' mean it is; the power is both.
        same: fields of the result that must be the same on both sides: values that were measured in unlike ways have no
            ratio.
    """

    name: str
    unit: str
    same: tuple[str, ...] = ()
    field: str | None = None
    metric: str | None = None

    def value(self, result: ExperimentResult) -> float | None:
        """Per call, in its unit."""
        if self.field is not None:
            value: float | None = getattr(result, self.field)
            return value
        if self.metric is not None:
            values = per_call(result, self.metric)
            return statistics.fmean(values) if values else None
        # From the same windows as energy and latency, so that its ratio is the one over the other.
        energy_j, latency_s = _ENERGY.value(result), _LATENCY.value(result)
        return None if energy_j is None or not latency_s else energy_j / latency_s

    def alike(self, this: ExperimentResult, other: ExperimentResult) -> bool:
        """Whether both were measured in the same way."""
        return all(getattr(this, name) == getattr(other, name) for name in self.same)

    def ratio(self, this: ExperimentResult, other: ExperimentResult) -> float | None:
        """``this / other`` of one pair; ``None`` where there is none."""
        a, b = self.value(this), self.value(other)
        if a is None or b is None or not (0 < a < math.inf and 0 < b < math.inf) or not self.alike(this, other):
            return None
        return a / b


_WINDOWS = ("boundaries",)
_JOULES = (*_WINDOWS, "meter", "estimated")
_ENERGY = _Quantity("energy of a call", "J", _JOULES, metric="energy")
_LATENCY = _Quantity("latency of a call", "s", _WINDOWS, metric="latency")
_QUANTITIES = (
    _ENERGY,
    _LATENCY,
    _Quantity("mean power", "W", _JOULES),
    _Quantity("energy of a call with the host", "J", (*_JOULES, "host_sensor"), metric="energy_total"),
    _Quantity("prefill energy of a call", "J", (*_JOULES, "phases_by"), "prefill_energy_j"),
    _Quantity("prefill latency", "s", (*_WINDOWS, "phases_by"), "prefill_latency_s"),
    _Quantity("decode energy of a call", "J", (*_JOULES, "phases_by"), "decode_energy_j"),
    _Quantity("decode latency", "s", (*_WINDOWS, "phases_by"), "decode_latency_s"),
    _Quantity("time to first token", "s", field="time_to_first_token_s"),
    _Quantity("time per output token", "s", field="time_per_output_token_s"),
    _Quantity("input tokens of a call", "", field="input_tokens"),
    _Quantity("output tokens of a call", "", field="output_tokens"),
    _Quantity("peak memory", "B", field="peak_memory_bytes"),
    _Quantity("idle power", "W", ("meter", "estimated"), "idle_power_w"),
)
ENERGY, LATENCY, POWER = (quantity.name for quantity in _QUANTITIES[:3])
"""What a reader looks for first, by the names of :attr:`Compared.changed`."""


def measured_alike(this: ExperimentResult, other: ExperimentResult, metric: str) -> bool:
    """Whether a metric of two results was measured in the same way, so that a change of it means anything."""
    return next(found for found in _QUANTITIES if found.metric == metric).alike(this, other)


def _changes(both: Sequence[tuple[ExperimentResult, ExperimentResult]]) -> Iterator[Changed]:
    for quantity in _QUANTITIES:
        known = [
            (this, other, quantity.ratio(*pair))
            for pair in both
            if (this := quantity.value(pair[0])) is not None
            and (other := quantity.value(pair[1])) is not None
            and quantity.alike(*pair)
        ]
        if known:
            ratios = [ratio for _, _, ratio in known if ratio is not None]
            yield Changed(
                quantity.name,
                quantity.unit,
                statistics.fmean(this for this, _, _ in known),
                statistics.fmean(other for _, other, _ in known),
                mean_ratio(ratios) if len(ratios) == len(known) else None,
                len(known),
            )


def mean_ratio(ratios: Sequence[float]) -> Ratio:
    """The geometric mean of the ratios of pairs, and from two of them on its 95% interval, ``exp(m +- t(0.975, n - 1) s
    / sqrt(n))`` with the mean ``m`` and the standard deviation ``s`` of their logarithms. The pair is the sample: what
    changes with another process is in it."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, half_width = statistics.fmean(logs), mean_half_width(logs)
    if half_width is None:
        return Ratio(math.exp(mean), None)
    return Ratio(math.exp(mean), (math.exp(mean - half_width), math.exp(min(mean + half_width, 700.0))))


def _differences(record: Record) -> Iterator[tuple[str, str, str]]:
    """What is not the same: where both ran, and what they ran. Values that differ from pair to pair are all named."""
    this = _identity(record)
    others = [_identity(run) for run in record.other_runs]
    for name in dict.fromkeys((*this, *(key for other in others for key in other))):
        here = this.get(name, UNKNOWN)
        there = list(dict.fromkeys(other.get(name, UNKNOWN) for other in others))
        if there != [here]:
            yield name, here, "; ".join(there)


def _identity(run: Record | OtherRun) -> dict[str, str]:
    ways = {"windows": run.result.boundaries, "phases by": run.result.phases_by, "labels": sorted(run.result.labels)}
    return dict(flat({"workload hash": run.workload_hash, **ways, **run.environment}))


def _warnings(record: Record) -> Iterator[tuple[str, str]]:
    """Each once. Those of this side's first run stand with its result."""
    further = [text for run in record.more_runs for text in run.warnings if text not in record.result.warnings]
    yield from ((f"{THIS}, further runs", text) for text in dict.fromkeys(further))
    there = [text for run in record.other_runs for text in run.result.warnings]
    yield from ((record.against, text) for text in dict.fromkeys(there))
