"""Runs of MLflow, read with its own client from a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import UnavailableError
from pytest_llem.exporters.mlflow import MlflowExporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.exporters.results import Exported

    Made = Callable[..., Exported]

mlflow = pytest.importorskip("mlflow")

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with MLflow's tables, which take a second to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlruns.db"
    MlflowExporter(f"sqlite:///{path}").check()
    return path.read_bytes()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bytes) -> Any:
    """Of a database of its own in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mlruns.db").write_bytes(empty)
    return mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")


def runs_of(client: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def test_a_run_has_parameters_metrics_tags_and_the_result(made: Made, client: Any) -> None:
    result = made(warnings=["throttled"], valid=False, record={"verdicts": {"energy": "INCONCLUSIVE"}})
    MlflowExporter("sqlite:///mlruns.db").export([result])
    (run,) = runs_of(client)
    assert client.get_experiment(run.info.experiment_id).name == "llama/bench/llama.llem.yaml"
    assert (run.info.run_name, run.info.status, run.info.start_time) == ("llama", "FINISHED", 1_750_000_000_250)
    assert run.data.params["pytorch.batch_size"] == "4"
    assert (run.data.metrics["energy_j"], run.data.metrics["valid"]) == (100.0, 0.0)
    assert run.data.tags["mlflow.source.git.commit"] == "5b8c3a1d9e4f7a60"
    assert run.data.tags["llem.verdict.energy"] == "INCONCLUSIVE"
    assert run.data.tags["mlflow.note.content"] == "* throttled"
    artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "result.json"
    assert json.loads(artifact.read_text())["result"]["energy_j"] == 100.0


def test_the_same_again_is_the_run_that_is_there(made: Made, client: Any) -> None:
    exporter = MlflowExporter("sqlite:///mlruns.db")
    exporter.export([made(record={"verdicts": {"energy": "INCONCLUSIVE"}}), made("other")])
    before = {run.info.run_id for run in runs_of(client)}
    exporter.export([made(record={"verdicts": {"energy": "OK"}})])
    assert {run.info.run_id for run in runs_of(client)} == before
    assert len(before) == 2
    # What is judged later is known.
    assert [run.data.tags.get("llem.verdict.energy") for run in runs_of(client) if run.info.run_name == "llama"] == [
        "OK"
    ]


def test_a_run_that_was_interrupted_is_made_anew(made: Made, client: Any) -> None:
    exporter = MlflowExporter("sqlite:///mlruns.db")
    exporter.export([made()])
    (run,) = runs_of(client)
    client.set_terminated(run.info.run_id, "FAILED")
    exporter.export([made()])
    (again,) = runs_of(client)
    assert (again.info.status, again.info.run_id == run.info.run_id) == ("FINISHED", False)


def test_many_and_odd_parameters(made: Made, client: Any) -> None:
    config = {f"option{number}": number for number in range(250)} | {"generate": {"a(b)%": "x" * 9000}}
    MlflowExporter("sqlite:///mlruns.db").export([made(record={"config": config})])
    (run,) = runs_of(client)
    assert len(run.data.params) == 251
    assert set(run.data.params["generate.a_b__"]) == {"x"}


@pytest.mark.parametrize(
    ("target", "problem"),
    [("nowhere://host", "nowhere"), ("http://127.0.0.1:1", "cannot be reached")],
)
def test_what_mlflow_does_not_take_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match=problem):
        MlflowExporter(target).check()
