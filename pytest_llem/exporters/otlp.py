"""Metrics over OTLP/HTTP, for any receiver of OpenTelemetry.

The names of the generative AI conventions (https://github.com/open-telemetry/semantic-conventions-genai) are used where
their instrument tells the truth. Those of durations and tokens are histograms, of which the count and the sum are
known: the calls of the windows, their seconds and their tokens; single calls are not, so there is one bucket and no
extreme. Of the time to the first token there is a median alone, from which no histogram can be made: it is a gauge of
our own, like all else.

Each point bears the time of its measurement, so that the same result again is the same point, and the histograms are
cumulative from the beginning of that measurement on.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_llem import __version__
from pytest_llem.errors import LlemError, UnavailableError
from pytest_llem.exporters.base import is_url, require_package, require_reachable
from pytest_llem.exporters.results import unit_of
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import Metric, MetricsData

    from pytest_llem.exporters.results import Exported

_SIGNAL = "/v1/metrics"
# Names by the semantic conventions, where there are any.
_ATTRIBUTES = {"model": "gen_ai.request.model", "backend": "gen_ai.provider.name"}
_RESOURCE = {"commit": "vcs.ref.head.revision", "branch": "vcs.ref.head.name", "project": "vcs.repository.name"}


class OtlpExporter:
    """See :class:`pytest_llem.exporters.base.Exporter`.

    Headers, certificates, compression and the timeout are those of OpenTelemetry's environment variables, such as
    ``OTEL_EXPORTER_OTLP_HEADERS``.

    Args:
        target: the URL of the receiver, to which ``/v1/metrics`` is added where it is not there.
    """

    def __init__(self, target: str) -> None:
        if not is_url(target):
            raise UnavailableError(f"{target!r} is no URL; write for example http://localhost:4318")
        base = target.rstrip("/")
        self._url = base if base.endswith(_SIGNAL) else f"{base}{_SIGNAL}"

    def check(self) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.check`."""
        require_package("otlp", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        require_reachable(self._url)

    def export(self, results: Sequence[Exported]) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.export`."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult

        dated = [result for result in results if result.timestamp_s is not None]
        with _heard() as texts:
            exporter = OTLPMetricExporter(endpoint=self._url)
            taken = exporter.export(_data(dated)) is MetricExportResult.SUCCESS
            exporter.shutdown()
        if not taken:
            raise LlemError("; ".join(texts) or "no reason given")
        if len(dated) < len(results):
            raise LlemError(_undated(len(results) - len(dated)))


def _undated(count: int) -> str:
    have = "result has" if count == 1 else "results have"
    return f"{count} {have} no time, as an earlier version measured them: the others were exported"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What OpenTelemetry logs meanwhile, which is all that it says of a failure; nothing of it is printed."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("opentelemetry")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _data(results: Sequence[Exported]) -> MetricsData:
    """One resource for each state of the code: a backend then does not take it for a dimension of every series."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    by_source: dict[tuple[tuple[str, str], ...], list[Exported]] = {}
    for result in results:
        by_source.setdefault(tuple(sorted(result.source.items())), []).append(result)
    scope = InstrumentationScope("pytest_llem", __version__)
    resources = []
    for source, group in by_source.items():
        code = {_RESOURCE.get(name, f"llem.{name}"): value for name, value in source}
        resource = Resource.create({"service.name": "pytest-llem", **code})
        metrics = [metric for result in group for metric in _metrics_of(result)]
        resources.append(ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], ""))
    return MetricsData(resources)


def _metrics_of(result: Exported) -> Iterator[Metric]:
    from opentelemetry.sdk.metrics.export import Gauge, Metric, NumberDataPoint

    attributes = {_ATTRIBUTES.get(name, f"llem.{name}"): value for name, value in result.labels.items()}
    time_ns = _nanoseconds(result.timestamp_s or 0.0)

    def gauge(name: str, unit: str, value: float, **more: str) -> Metric:
        dimensions = {**attributes, **{f"llem.{key}": text for key, text in more.items()}}
        return Metric(f"llem.{name}", None, unit, Gauge([NumberDataPoint(dimensions, 0, time_ns, value)]))

    for name, value in result.numbers.items():
        unit = unit_of(name)
        yield gauge(unit.stem, unit.ucum, value)
    for metric, verdict in result.verdicts.items():
        for status in Status:
            yield gauge("verdict", "", float(verdict == status), metric=metric, verdict=status.value)
    if result.config:
        yield from _histograms(result, attributes, time_ns)


def _histograms(result: Exported, attributes: Mapping[str, str], time_ns: int) -> Iterator[Metric]:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

    measured = result.result
    calls = measured.rounds * measured.calls_per_round
    seconds = math.fsum(window.seconds for window in measured.per_round)
    common = {**attributes, "gen_ai.operation.name": "chat" if result.config.get("chat") else "text_completion"}

    def histogram(name: str, unit: str, total: float, **more: str) -> Metric:
        unknown: Any = None
        point = HistogramDataPoint(
            attributes={**common, **{f"gen_ai.{key.replace('_', '.')}": text for key, text in more.items()}},
            start_time_unix_nano=time_ns - _nanoseconds(seconds),
            time_unix_nano=time_ns,
            count=calls,
            sum=total,
            bucket_counts=[calls],
            explicit_bounds=[],
            min=unknown,
            max=unknown,
        )
        return Metric(f"gen_ai.client.{name}", None, unit, Histogram([point], AggregationTemporality.CUMULATIVE))

    yield histogram("operation.duration", "s", seconds)
    for kind in ("input", "output"):
        tokens = result.quantities.get(f"{kind}_tokens")
        if tokens is not None:
            yield histogram("token.usage", "{token}", tokens * calls, token_type=kind)


def _nanoseconds(seconds: float) -> int:
    # A number of seconds since 1970 holds no more than microseconds.
    return round(seconds * 1e6) * 1000
