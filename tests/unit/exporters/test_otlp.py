"""What a receiver of OTLP/HTTP gets, read with OpenTelemetry's own protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import LlemError

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from pytest_llem.exporters.otlp import OtlpExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_llem.exporters.results import Exported
    from tests.unit.exporters.conftest import Receiver

    Made = Callable[..., Exported]

TIME_NS = 1_750_000_000_250_000_000


def values(attributes: Iterable[Any]) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in attributes}


@pytest.fixture
def received(receiver: Receiver) -> Callable[..., list[tuple[dict[str, str], dict[str, Any]]]]:
    """Export results, and return for each resource its attributes, and its metrics by name."""

    def export(*results: Exported) -> list[tuple[dict[str, str], dict[str, Any]]]:
        exporter = OtlpExporter(receiver.url)
        exporter.check()
        exporter.export(results)
        method, path, body = receiver.requests.pop()
        assert (method, path) == ("POST", "/v1/metrics")
        found = []
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            (scope,) = resource.scope_metrics
            assert scope.scope.name == "pytest_llem"
            found.append((values(resource.resource.attributes), {metric.name: metric for metric in scope.metrics}))
        return found

    return export


def test_joules_are_a_gauge_of_the_time_of_the_measurement(made: Made, received: Callable[..., Any]) -> None:
    ((resource, metrics),) = received(made())
    assert resource["service.name"] == "pytest-llem"
    assert resource["vcs.ref.head.revision"] == "5b8c3a1d9e4f7a60"
    energy = metrics["llem.energy"]
    (point,) = energy.gauge.data_points
    assert (energy.unit, point.as_double, point.time_unix_nano) == ("J", 100.0, TIME_NS)
    attributes = values(point.attributes)
    assert (attributes["gen_ai.request.model"], attributes["llem.experiment"]) == ("builtin:tiny-llama", "llama")
    assert "5b8c3a1d9e4f7a60" not in attributes.values()
    (valid,) = metrics["llem.valid"].gauge.data_points
    assert valid.as_double == 1.0
    assert "llem.carbon" not in metrics


def test_durations_and_tokens_are_the_histograms_of_the_conventions(made: Made, received: Callable[..., Any]) -> None:
    result = made()
    ((_, metrics),) = received(result)
    duration = metrics["gen_ai.client.operation.duration"]
    (point,) = duration.histogram.data_points
    seconds = sum(window.seconds for window in result.result.per_round)
    assert (duration.unit, point.count, point.sum) == ("s", 8, pytest.approx(seconds))
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([8], [])
    assert not point.HasField("min")
    assert not point.HasField("max")
    # Cumulative: a receiver that gets the point twice does not add it up.
    assert duration.histogram.aggregation_temporality == 2
    assert (point.time_unix_nano, point.start_time_unix_nano) == (TIME_NS, TIME_NS - round(seconds * 1e6) * 1000)
    assert values(point.attributes)["gen_ai.operation.name"] == "text_completion"


def test_tokens_are_counted_by_type(made: Made, receiver: Receiver) -> None:
    OtlpExporter(receiver.url).export([made()])
    request = ExportMetricsServiceRequest.FromString(receiver.requests[0][2])
    usage = [m for m in request.resource_metrics[0].scope_metrics[0].metrics if m.name == "gen_ai.client.token.usage"]
    points = [metric.histogram.data_points[0] for metric in usage]
    sums = {values(point.attributes)["gen_ai.token.type"]: point.sum for point in points}
    assert sums == {"input": 16.0 * 8, "output": 32.0 * 8}


def test_a_callable_is_no_operation_of_a_model(made: Made, received: Callable[..., Any]) -> None:
    ((_, metrics),) = received(made(record={"config": None}))
    assert "llem.latency" in metrics
    assert not [name for name in metrics if name.startswith("gen_ai.")]


def test_twice_is_the_same_message(made: Made, receiver: Receiver) -> None:
    for _ in range(2):
        OtlpExporter(f"{receiver.url}/v1/metrics").export([made(record={"verdicts": {"energy": "OK"}})])
    first, second = receiver.requests
    assert first == second


def test_a_receiver_with_a_password(made: Made, receiver: Receiver) -> None:
    exporter = OtlpExporter(receiver.url.replace("//", "//me:secret@"))
    exporter.check()
    exporter.export([made()])
    assert receiver.logins == ["Basic bWU6c2VjcmV0"]


def test_each_state_of_the_code_is_a_resource(made: Made, received: Callable[..., Any]) -> None:
    older = made("older", record={"commit": {"id": "aa", "branch": "main", "dirty": True}})
    resources = received(made(), older, made("third"))
    assert [resource["vcs.ref.head.revision"] for resource, _ in resources] == ["5b8c3a1d9e4f7a60", "aa"]


def test_what_the_receiver_refuses_is_an_error_that_says_so(
    made: Made, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.status = 400
    with pytest.raises(LlemError, match="400"):
        OtlpExporter(receiver.url).export([made()])
    assert capsys.readouterr().err == ""


def test_a_result_without_a_time_is_not_given_one(made: Made, received: Callable[..., Any], receiver: Receiver) -> None:
    undated = replace(made("old"), timestamp_s=None)
    with pytest.raises(LlemError, match="1 result has no time"):
        received(made(), undated)
    assert b"old" not in receiver.requests[0][2]
    assert b"llem.energy" in receiver.requests[0][2]
