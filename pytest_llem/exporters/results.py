"""A result on its way out: plain values, with their units in the words of the receivers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_llem.errors import printable
from pytest_llem.footprint import counted_energy
from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.records import identity
from pytest_llem.verdict.history import METRICS, known_commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_llem.records.record import Record

# The end of a field's name; the unit by UCUM, as OpenTelemetry writes it; the end of the name by the conventions of
# Prometheus (https://prometheus.io/docs/practices/naming/).
_UNITS = (
    ("_per_s", "{token}/s", "_per_second"),
    ("_tokens", "{token}", "_tokens"),
    ("_bytes", "By", "_bytes"),
    ("_share", "1", "_ratio"),
    ("_change", "1", "_change_ratio"),
    ("_change_low", "1", "_change_low_ratio"),
    ("_change_high", "1", "_change_high_ratio"),
    ("_j", "J", "_joules"),
    ("_w", "W", "_watts"),
    ("_s", "s", "_seconds"),
    ("_g", "g", "_grams"),
)
_NO_QUANTITIES = ("timestamp_s", "schema_version")
_MEASURED = [
    field.name
    for field in fields(ExperimentResult)
    if field.type in ("float | None", "int | None", "float", "int") and field.name not in _NO_QUANTITIES
]

LABELS = ("experiment", "file", "model", "backend", "precision", "device", "board", "meter", "boundaries")
"""All that :attr:`Exported.labels` may hold."""

SOURCE = ("project", "commit", "branch", "dirty", "against", "region", "currency", "footprint_energy")
"""All that :attr:`Exported.source` may hold."""


class Unit(NamedTuple):
    """The unit of a quantity, as its name says it.

    Attributes:
        stem: the name without a unit of measure at its end.
        ucum: the unit by UCUM; empty where there is none.
        base: the name by the conventions of Prometheus.
    """

    stem: str
    ucum: str
    base: str


def unit_of(name: str) -> Unit:
    """The unit of a quantity of :attr:`Exported.quantities`."""
    for end, ucum, base in _UNITS:
        if name.endswith(end):
            stem = name.removesuffix(end)
            return Unit(stem if ucum in ("By", "J", "W", "s", "g") else name, ucum, f"{stem}{base}")
    return Unit(name, "", name)


def quantity_names() -> list[str]:
    """All that :attr:`Exported.quantities` may hold."""
    return [*_MEASURED, *(f"{metric}_change{end}" for metric in METRICS for end in ("", "_low", "_high"))]


@dataclass(frozen=True)
class Exported:
    """A result as an exporter gets it. What is not known is absent, never 0 or empty.

    Attributes:
        identity: hash of the measurement: the same result has the same one in each session that reports it.
        nodeid: pytest's name of the item.
        timestamp_s: when it was measured, in seconds since 1970 (UTC); ``None`` where an earlier version measured it.
        labels: ``experiment`` and ``file`` of the item; ``model``, ``backend``, ``precision``; ``device``, ``board``
            (the GPUs, on the CPU the processor), ``meter``; ``boundaries``, since settled and joined windows are never
            compared.
        source: ``commit``, ``branch``, ``dirty`` (``true`` or ``false``) and ``project`` of the code that was measured,
            and in a comparison the state of the code that it is ``against``; ``region`` and ``currency`` of its carbon
            and cost, and the field of the joules that they are reckoned from (``footprint_energy``).
        quantities: what was measured, by the attributes of :class:`pytest_llem.ExperimentResult`, whose ends are their
            units; for each metric with a verdict ``energy_change`` and the ends of its interval, ``energy_change_low``
            and ``energy_change_high``, as fractions.
        valid: whether nothing disturbed the measurement.
        verdicts: the words of the verdicts by metric.
        workload_hash, environment_hash: what makes results comparable.
        config: the resolved configuration as plain values; empty for a callable.
        environment: what the numbers depend on beside the work.
        result: all that was measured, but for what was generated.
    """

    identity: str
    nodeid: str
    timestamp_s: float | None
    labels: Mapping[str, str]
    source: Mapping[str, str]
    quantities: Mapping[str, float]
    valid: bool
    verdicts: Mapping[str, str]
    workload_hash: str
    environment_hash: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: ExperimentResult

    @property
    def numbers(self) -> dict[str, float]:
        """The quantities, and ``valid`` as 1 or 0."""
        return {**self.quantities, "valid": float(self.valid)}

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return asdict(self)


def exported(record: Record) -> Exported:
    """A record as exporters get it."""
    result = record.result
    return Exported(
        identity=identity.result_hash(record.nodeid, record.workload_hash, result),
        nodeid=printable(record.nodeid),
        timestamp_s=result.timestamp_s,
        labels=_texts(_labels(record)),
        source=_texts(_source(record)),
        quantities=dict(_quantities(record)),
        valid=result.valid,
        verdicts=record.verdicts,
        workload_hash=record.workload_hash,
        environment_hash=identity.environment_hash(record.environment),
        config=record.config or {},
        environment=record.environment,
        # Its texts may be long, and are the prompts' as much as the model's.
        result=replace(result, generated=[]),
    )


def _quantities(record: Record) -> Iterator[tuple[str, float]]:
    for name in _MEASURED:
        value = getattr(record.result, name)
        if value is not None:
            yield name, float(value)
    for metric, (change, interval) in record.changes.items():
        if change is not None:
            yield f"{metric}_change", change
        if interval is not None:
            yield from zip((f"{metric}_change_low", f"{metric}_change_high"), interval, strict=True)


def _labels(record: Record) -> Mapping[str, Any]:
    config = record.config or {}
    environment = record.environment
    names = Counter(board["name"] for board in environment.get("boards", []) if "name" in board)
    boards = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
    return {
        # Of two classes of a file, tests may have the same name.
        "experiment": record.nodeid.removeprefix(f"{record.file}::"),
        "file": record.file,
        **{name: config.get(name) for name in ("model", "backend", "precision")},
        "device": environment.get("device"),
        "board": boards or environment.get("cpu"),
        "meter": record.result.meter,
        "boundaries": record.result.boundaries,
    }


def _source(record: Record) -> Mapping[str, Any]:
    """Of the repository what pytest-benchmark knows, without its words for what it does not know."""
    commit, footprint = record.commit, record.result.footprint
    known = known_commit(commit)
    return {
        "project": commit.get("project"),
        "commit": known,
        "branch": commit.get("branch") if not str(commit.get("branch", "(")).startswith("(") else None,
        "dirty": str(bool(commit.get("dirty"))).lower() if known else None,
        "against": record.against,
        "region": footprint and footprint.region,
        "footprint_energy": footprint and counted_energy(record.result).field,
        "currency": footprint and footprint.currency,
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: printable(str(value)) for name, value in values.items() if value not in (None, "")}
