"""Metrics for Prometheus: a file for node_exporter's textfile collector, or a push to a Pushgateway.

Either holds what the last session measured: the file is replaced in one step, the Pushgateway's group in one request.
A value's labels are bounded by the experiments and the boards that there are; what is new with every commit are labels
of ``llem_result_info`` alone, to be joined where it is wanted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pytest_llem.errors import UnavailableError
from pytest_llem.exporters.base import is_url, require_package, require_reachable
from pytest_llem.exporters.results import LABELS, SOURCE, unit_of
from pytest_llem.verdict.decision import Status
from pytest_llem.writable import require_replaceable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from pytest_llem.exporters.results import Exported

_JOB = "pytest-llem"
_TIMEOUT_S = 30.0


class PrometheusExporter:
    """See :class:`pytest_llem.exporters.base.Exporter`.

    Args:
        target: a file that ends in ``.prom``, or the URL of a Pushgateway; one with a path such as
            ``/metrics/job/llem/instance/h200`` names the group that is replaced. ``http://USER:PASSWORD@HOST`` logs in.
    """

    def __init__(self, target: str) -> None:
        self._url = target if is_url(target) else None
        if self._url is None and not target.endswith(".prom"):
            raise UnavailableError(
                f"{target!r} is neither a URL (http://HOST:9091) nor a file that ends in .prom, as the textfile "
                "collector wants it"
            )
        # Where a link leads: it stays a link.
        self._path = Path(target).resolve()

    def check(self) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.check`."""
        require_package("prometheus", "prometheus_client")
        if self._url is None:
            require_replaceable(self._path)
        else:
            require_reachable(self._url)
            _gateway(self._url)

    def export(self, results: Sequence[Exported]) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.export`."""
        from prometheus_client import push_to_gateway, write_to_textfile
        from prometheus_client.exposition import basic_auth_handler

        metrics = _metrics(results)
        if self._url is None:
            write_to_textfile(str(self._path), metrics)
        else:
            gateway, group = _gateway(self._url)
            where = urlsplit(gateway)
            gateway = gateway.replace(where.netloc, where.netloc.rpartition("@")[2], 1)
            user, password = (part and unquote(part) for part in (where.username, where.password))
            handler = partial(basic_auth_handler, username=user, password=password)
            project = results[0].source.get("project")
            group = group or {"job": _JOB} | ({"project": project} if project else {})
            push_to_gateway(gateway, group.pop("job"), metrics, group, timeout=_TIMEOUT_S, handler=handler)


def _gateway(url: str) -> tuple[str, dict[str, str]]:
    """A URL as that of the Pushgateway, and the group that its path names."""
    base, _, path = url.rstrip("/").removesuffix("/metrics").partition("/metrics/")
    parts = [unquote(part) for part in path.split("/")] if path else []
    group = dict(zip(parts[::2], parts[1::2], strict=False))
    if parts and (len(parts) % 2 or parts[0] != "job" or "" in parts):
        raise UnavailableError(
            f"{urlsplit(url).path}: names no group; write /metrics/job/NAME or .../LABEL/VALUE after it"
        )
    return base, group


def _metrics(results: Sequence[Exported]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}

    def put(name: str, text: str, value: float, labels: Mapping[str, str]) -> None:
        if name not in gauges:
            gauges[name] = Gauge(f"llem_{name}", text, list(labels), registry=registry)
        gauges[name].labels(**labels).set(value)

    for result in results:
        labels = {name: result.labels.get(name, "") for name in LABELS}
        for name, value in result.numbers.items():
            put(unit_of(name).base, f"{name} of the last result of an experiment.", value, labels)
        if result.timestamp_s is not None:
            put("timestamp_seconds", "When it was measured, since 1970.", result.timestamp_s, labels)
        for metric, verdict in result.verdicts.items():
            for status in Status:
                text = "1 for the verdict on a metric, 0 for the other words."
                put("verdict", text, float(verdict == status), {**labels, "metric": metric, "verdict": status.value})
        about = {name: result.source.get(name, "") for name in SOURCE}
        about |= {"identity": result.identity, "workload_hash": result.workload_hash}
        put("result_info", "1; which result it is, and of which commit.", 1.0, labels | about)
    return registry
