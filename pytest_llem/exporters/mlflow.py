"""A run of MLflow for each result, in an experiment for each file; the same result again finds its run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import UnavailableError
from pytest_llem.exporters.base import is_url, require_package, require_reachable
from pytest_llem.report.flat import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow import MlflowClient

    from pytest_llem.exporters.results import Exported

_IDENTITY = "llem.identity"
_SQLITE = "sqlite:///"
# What MLflow takes in one request, and in one text.
_MOST_PARAMS, _LONGEST = 100, 5000
_SOURCE = {"commit": "mlflow.source.git.commit", "branch": "mlflow.source.git.branch"}
_PROBE = "import sys; from mlflow import MlflowClient; MlflowClient(sys.stdin.read()).search_experiments(max_results=1)"
_PROBE_S = 120.0


class MlflowExporter:
    """See :class:`pytest_llem.exporters.base.Exporter`. Credentials are those of MLflow's environment variables.

    Args:
        target: a tracking URI of MLflow.
    """

    def __init__(self, target: str) -> None:
        # A test may change the working directory.
        if target.startswith(_SQLITE):
            target = f"{_SQLITE}{Path(target.removeprefix(_SQLITE)).absolute()}"
        elif ":" not in target and target != "databricks":
            target = str(Path(target).absolute())
        self._uri = target

    def check(self) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.check`.

        A process of its own tries: MLflow starts threads, and says only when it is asked whether it takes a folder,
        knows a database, or lets one in.
        """
        require_package("mlflow", "mlflow")
        self._require_server()
        try:
            subprocess.run(  # noqa: S603
                [sys.executable, "-P", "-c", _PROBE],
                input=self._uri,
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise UnavailableError(error.stderr.strip().rpartition("\n")[2]) from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"no answer within {_PROBE_S:g} s") from None

    def export(self, results: Sequence[Exported]) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.export`."""
        from mlflow import MlflowClient

        self._require_server()
        client = MlflowClient(self._uri)
        for result in results:
            _log(client, result)

    def _require_server(self) -> None:
        # MLflow itself would try for minutes.
        if is_url(self._uri):
            require_reachable(self._uri)


def _log(client: MlflowClient, result: Exported) -> None:
    from mlflow.entities import Metric, Param

    experiment = _experiment(client, "/".join((result.source.get("project", "pytest-llem"), result.labels["file"])))
    done = False
    for run in client.search_runs([experiment], f"tags.`{_IDENTITY}` = '{result.identity}'"):
        if run.info.status == "FINISHED":
            # Verdicts alone may be others now.
            for metric, verdict in result.verdicts.items():
                client.set_tag(run.info.run_id, f"llem.verdict.{metric}", verdict)
            done = True
        else:
            # Of an export that was interrupted.
            client.delete_run(run.info.run_id)
    if done:
        return
    time_ms = None if result.timestamp_s is None else round(result.timestamp_s * 1e3)
    name = result.labels["experiment"]
    run_id = client.create_run(experiment, start_time=time_ms, tags=_tags(result), run_name=name).info.run_id
    params = [Param(re.sub(r"[^\w\-. :/]", "_", key)[:250], text[:_LONGEST]) for key, text in flat(result.config)]
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
    client.log_batch(run_id, metrics=[Metric(key, value, time_ms or 0, 0) for key, value in result.numbers.items()])
    client.log_dict(run_id, result.as_dict(), "result.json")
    client.set_terminated(run_id, end_time=time_ms)


def _experiment(client: MlflowClient, name: str) -> str:
    known = client.get_experiment_by_name(name)
    found: str = client.create_experiment(name) if known is None else known.experiment_id
    return found


def _tags(result: Exported) -> dict[str, Any]:
    tags = {
        _IDENTITY: result.identity,
        "llem.nodeid": result.nodeid,
        "llem.workload_hash": result.workload_hash,
        "llem.environment_hash": result.environment_hash,
        "llem.valid": str(result.valid).lower(),
        **{f"llem.{name}": text for name, text in result.labels.items()},
        **{_SOURCE.get(name, f"llem.{name}"): text for name, text in result.source.items()},
        **{f"llem.verdict.{metric}": word for metric, word in result.verdicts.items()},
    }
    if result.result.warnings:
        tags["mlflow.note.content"] = "\n".join(f"* {text}" for text in result.result.warnings)
    return {name: text[:_LONGEST] for name, text in tags.items()}
