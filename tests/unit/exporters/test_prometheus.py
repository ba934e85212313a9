"""What Prometheus reads, as its own parser and its own tools see it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import UnavailableError

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

from pytest_llem.exporters.prometheus import PrometheusExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_llem.exporters.results import Exported
    from tests.unit.exporters.conftest import Receiver

    Made = Callable[..., Exported]

Samples = dict[str, list[tuple[dict[str, str], float]]]


def samples_of(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Samples]:
    """Export results to one file, and read it."""
    path = tmp_path / "deep" / "out.prom"

    def write(*results: Exported) -> Samples:
        exporter = PrometheusExporter(str(path))
        exporter.check()
        exporter.export(results)
        assert list(path.parent.iterdir()) == [path]
        return samples_of(path.read_text(encoding="utf-8"))

    return write


def test_values_have_base_units_and_labels(made: Made, written: Callable[..., Samples]) -> None:
    samples = written(made(), made("other", energy_j=None, valid=False))
    ((labels, energy_j),) = samples["llem_energy_joules"]
    assert energy_j == 100.0
    assert (labels["experiment"], labels["file"], labels["meter"]) == ("llama", "bench/llama.llem.yaml", "nvml")
    assert samples["llem_energy_uncertainty_joules"][0][1] == 2.0
    assert [value for _, value in samples["llem_latency_seconds"]] == [2.0, 2.0]
    assert [(labels["experiment"], value) for labels, value in samples["llem_valid"]] == [("llama", 1), ("other", 0)]
    assert samples["llem_timestamp_seconds"][0][1] == 1_750_000_000.25


def test_what_is_new_with_each_commit_is_a_label_of_one_metric_alone(
    made: Made, written: Callable[..., Samples]
) -> None:
    result = made(record={"verdicts": {"energy": "OK"}})
    samples = written(result)
    ((info, one),) = samples.pop("llem_result_info")
    assert one == 1.0
    assert (info["commit"], info["branch"], info["identity"]) == ("5b8c3a1d9e4f7a60", "main", result.identity)
    assert all("5b8c3a1d9e4f7a60" not in str(labels) for found in samples.values() for labels, _ in found)
    assert all(result.identity not in str(labels) for found in samples.values() for labels, _ in found)


def test_a_verdict_is_one_of_five(made: Made, written: Callable[..., Samples]) -> None:
    changes = {"energy": (0.1, (0.05, 0.15))}
    samples = written(made(record={"verdicts": {"energy": "REGRESSED"}, "changes": changes}))
    words = {labels["verdict"]: value for labels, value in samples["llem_verdict"] if labels["metric"] == "energy"}
    assert words == {"OK": 0, "REGRESSED": 1, "IMPROVED": 0, "INCONCLUSIVE": 0, "NO-BASELINE": 0}
    assert samples["llem_energy_change_low_ratio"][0][1] == 0.05


def test_another_session_replaces_the_file(made: Made, written: Callable[..., Samples]) -> None:
    written(made(), made("other"))
    assert len(written(made())["llem_latency_seconds"]) == 1


def test_label_values_are_escaped(made: Made, written: Callable[..., Samples]) -> None:
    name = 'a"b\\c'
    labels, _ = written(made(record={"nodeid": f"bench/llama.llem.yaml::{name}"}))["llem_valid"][0]
    assert labels["experiment"] == name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say(made: Made, tmp_path: Path) -> None:
    everything: dict[str, Any] = {"carbon_g": 1.0, "cost": 1e-6, "idle_share": 0.3, "peak_memory_bytes": 2**30}
    everything |= {"output_tokens_per_s": 16.0, "idle_power_w": 70.0, "load_s": 3.0}
    record = {"verdicts": {"energy": "OK"}, "changes": {"energy": (0.0, (-0.1, 0.1))}}
    path = tmp_path / "out.prom"
    PrometheusExporter(str(path)).export([made(**everything, record=record)])
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_push_replaces_its_group(made: Made, receiver: Receiver) -> None:
    for path, group in (
        ("", "/metrics/job/pytest-llem/project/llama"),
        ("/metrics/", "/metrics/job/pytest-llem/project/llama"),
        ("/metrics/job/nightly/instance/h200%2Ba", "/metrics/job/nightly/instance/h200%2Ba"),
        ("/gateway/metrics/job/nightly", "/gateway/metrics/job/nightly"),
    ):
        exporter = PrometheusExporter(receiver.url + path)
        exporter.check()
        exporter.export([made()])
        method, where, body = receiver.requests.pop()
        assert (method, where) == ("PUT", group)
        assert samples_of(body.decode())["llem_energy_joules"][0][1] == 100.0


def test_a_gateway_with_a_password(made: Made, receiver: Receiver) -> None:
    for login in ("", "me:s%40cret@"):
        exporter = PrometheusExporter(receiver.url.replace("//", f"//{login}"))
        exporter.check()
        exporter.export([made()])
    assert receiver.logins == [None, "Basic bWU6c0BjcmV0"]


@pytest.mark.parametrize("path", ["/metrics/job", "/metrics/instance/a", "/metrics/job/a/instance"])
def test_a_path_that_names_no_group(receiver: Receiver, path: str) -> None:
    with pytest.raises(UnavailableError, match="names no group"):
        PrometheusExporter(receiver.url + path).check()


def test_a_push_that_is_refused_is_an_error(made: Made, receiver: Receiver) -> None:
    receiver.status = 400
    with pytest.raises(OSError, match="400"):
        PrometheusExporter(receiver.url).export([made()])


@pytest.fixture
def pushgateway() -> Iterator[str]:
    """The URL of a real one."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        pytest.skip("the Pushgateway is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    process = subprocess.Popen([program, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    for _ in range(500):
        try:
            urllib.request.urlopen(f"http://{address}/-/ready").close()
            break
        except OSError:
            time.sleep(0.01)
    yield f"http://{address}"
    process.terminate()
    process.wait()


@pytest.mark.processes
def test_the_pushgateway_takes_it_and_holds_the_last_session(made: Made, pushgateway: str) -> None:
    exporter = PrometheusExporter(pushgateway)
    exporter.check()
    for results in ([made(), made("gone")], [made()], [made()]):
        exporter.export(results)
    with urllib.request.urlopen(f"{pushgateway}/metrics") as answer:  # noqa: S310
        text = answer.read().decode()
    found = [line for line in text.splitlines() if line.startswith("llem_energy_joules")]
    assert len(found) == 1
    assert 'job="pytest-llem"' in found[0]
    assert 'project="llama"' in found[0]
    assert found[0].endswith(" 100")


def test_labels_are_the_same_for_all_results(made: Made, written: Callable[..., Samples]) -> None:
    """A callable has no model; Prometheus wants one set of labels for each metric."""
    function = replace(made("callable"), labels={"experiment": "callable", "file": "test_a.py", "meter": "nvml"})
    samples = written(function, made())
    assert len({tuple(sorted(labels)) for labels, _ in samples["llem_latency_seconds"]}) == 1
    assert {labels["model"] for labels, _ in samples["llem_latency_seconds"]} == {"", "builtin:tiny-llama"}
