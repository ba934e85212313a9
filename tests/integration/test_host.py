"""The processor and its memory beside a simulated board: rows, gates, reports, and a machine that does not show it."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import TINY
from tests.simulators.powercap import PowercapTree

if TYPE_CHECKING:
    from collections.abc import Callable

VERDICT = re.compile(r"^(OK|REGRESSED|IMPROVED|INCONCLUSIVE|NO-BASELINE) +(\S+) +(\S+) ", re.MULTILINE)

pytestmark = pytest.mark.processes

CONFTEST = """
import os
from tests.simulators import SimulatedBoard, install, skip_waits
from tests.simulators.powercap import count_watts

skip_waits(counted=True)
count_watts(float(os.environ.get("HOST_W", "80")))
install([SimulatedBoard(uuid="GPU-aaaa", name="Simulated", power=200.0, period_s=0.02)])
"""
EXPERIMENT = TINY.replace("min_window_s: 0.001", "min_window_s: 0.2")
ON_BOARD = ("--llem-cpu", "--llem-meter=nvml", "-p", "no:cacheprovider")


@pytest.fixture
def host(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest where counters of a package and its memory count so many watts each."""
    tree = PowercapTree(pytester.path)
    tree.add("intel-rapl:0", "package-0")
    tree.add("intel-rapl:0:0", "dram")
    monkeypatch.setenv("PYTEST_LLEM_POWERCAP", str(tree.root))
    pytester.makeconftest(CONFTEST)
    (pytester.path / "tiny.llem.yaml").write_text(EXPERIMENT)

    def run(*arguments: str, power_w: float = 80.0) -> pytest.RunResult:
        monkeypatch.setenv("HOST_W", str(power_w))
        return pytester.runpytest_subprocess(*ON_BOARD, *arguments)

    return run


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    return {metric: status for status, _, metric in VERDICT.findall(result.stdout.str())}


def rows(saved: Callable[[], list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in saved()}


def test_a_host_that_draws_more_is_a_regression_of_the_total_alone(
    pytester: pytest.Pytester,
    host: Callable[..., pytest.RunResult],
    saved: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = host("--benchmark-save=base", "--benchmark-json=out.json", "--llem-isolate", "--junitxml=out.xml")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines_random(["experiment *energy/call * with host *", "*Name (energy_total in *J)*"])
    found = rows(saved)
    assert list(found) == ["tiny", "tiny:energy", "tiny:energy_total"]
    total = found["tiny:energy_total"]
    measured = total["extra_info"]["result"]
    calls = measured["calls_per_round"]
    # Two counters of 80 W beside a board of 200 W, in the same windows.
    assert measured["energy_host_j"] == pytest.approx(160.0 * measured["latency_s"], rel=0.02)
    assert measured["energy_total_j"] == pytest.approx(measured["energy_j"] + measured["energy_host_j"])
    assert measured["energy_total_uncertainty_j"] > measured["energy_host_uncertainty_j"] > 0
    assert total["stats"]["data"] == [(each["joules"] + each["host_j"]) / calls for each in measured["per_round"]]
    assert measured["missing"] == {}
    # The sensor is part of what makes the total comparable, and of nothing else.
    environments = {name: row["extra_info"]["environment"] for name, row in found.items()}
    assert environments["tiny:energy_total"] == {**environments["tiny:energy"], "host_sensor": "rapl"}
    assert environments["tiny:energy"] == environments["tiny"]
    assert (
        f'name="llem.energy_total_j" value="{measured["energy_total_j"]!r}"' in (pytester.path / "out.xml").read_text()
    )

    gates = ("--llem-fail=energy:5%;rule=point", "--llem-fail=energy_total:5%;rule=point")
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    worse = host(*gates, "--llem-csv=out.csv", power_w=100.0)
    assert verdicts(worse) == {"energy": "OK", "energy_total": "REGRESSED"}
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = csv.DictReader((pytester.path / "out.csv").read_text().splitlines())
    assert line["energy_total_verdict"] == "REGRESSED"
    assert float(line["energy_total_change"]) == pytest.approx(40.0 / 360.0, abs=0.01)

    assert "| experiment | energy/call | with host | energy/token |" in summary.read_text()

    merged = host("--llem-merge=.benchmarks/llem-journal.jsonl", "--benchmark-json=out.json", *gates)
    assert verdicts(merged) == {"energy": "OK", "energy_total": "REGRESSED"}
    assert list(rows(saved)) == ["tiny", "tiny:energy", "tiny:energy_total"]


def test_pairs_are_judged_by_the_total(pytester: pytest.Pytester, host: Callable[..., pytest.RunResult]) -> None:
    (pytester.path / ".gitignore").write_text("cache/\n.benchmarks/\n__pycache__/\ndevices/\npowercap/\n")
    (pytester.path / "conftest.py").write_text(f"import os\nos.environ['HOST_W'] = '80'\n{CONFTEST}")
    commands = ("init -q", "add -A", "-c user.name=A -c user.email=a@example.org commit -qm First")
    for command in commands:
        pytester.run("git", *command.split())
    (pytester.path / "conftest.py").write_text(f"import os\nos.environ['HOST_W'] = '120'\n{CONFTEST}")
    gates = ("--llem-fail=energy:5%;rule=point", "--llem-fail=energy_total:5%;rule=point")
    result = host("--llem-against=HEAD", "--llem-report=out.html", *gates)
    assert verdicts(result) == {"energy": "OK", "energy_total": "REGRESSED"}
    assert "energy of a call with the host" in (pytester.path / "out.html").read_text()


def test_a_machine_that_does_not_show_its_host_says_so_once(
    pytester: pytest.Pytester,
    host: Callable[..., pytest.RunResult],
    saved: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTEST_LLEM_POWERCAP", str(pytester.mkdir("none")))
    (pytester.path / "other.llem.yaml").write_text(EXPERIMENT)
    result = host("--benchmark-json=out.json", "--llem-fail=energy_total:5%")
    result.assert_outcomes(passed=2)
    text = result.stdout.str()
    assert text.count("llem: host not measured (2 experiments): no RAPL domain under") == 1
    assert verdicts(result) == {"energy_total": "INCONCLUSIVE"}
    assert set(rows(saved)) == {"tiny", "tiny:energy", "other", "other:energy"}
    measured = rows(saved)["tiny"]["extra_info"]["result"]
    assert measured["energy_host_j"] is measured["energy_total_j"] is None
    assert measured["missing"].keys() == {"energy_host_j", "energy_total_j"}
    assert not [warning for warning in measured["warnings"] if "RAPL" in warning]
    # Asked for by name it is not replaced by nothing.
    named = host("--llem-host=rapl")
    assert named.ret == pytest.ExitCode.USAGE_ERROR
    named.stderr.fnmatch_lines(["ERROR: --llem-host rapl: no RAPL domain under *"])


def test_other_meters_read_no_host_beside(
    write: Callable[..., Any], run: Callable[..., pytest.RunResult], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    write()
    result = run(
        "--llem-meter=estimate", "--llem-host=rapl", "--llem-fail=energy_total:5%", "--benchmark-json=out.json"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["llem: --llem-host: no effect*", "INCONCLUSIVE*energy_total*nvml meter alone*"])
    measured = saved()[0]["extra_info"]["result"]
    assert measured["energy_host_j"] is measured["host_sensor"] is None
    assert "energy_host_j" not in measured["missing"]


@pytest.mark.parametrize("how", ["option", "ini"])
def test_an_unknown_sensor_is_a_usage_error(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], how: str
) -> None:
    pytester.makeini("[pytest]\nllem_host = hwmo\n" if how == "ini" else "[pytest]\n")
    result = run(*([] if how == "ini" else ["--llem-host=hwmo"]))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*llem*host*: unknown host sensor 'hwmo'; use one of auto, none, *mean hwmon?"])
