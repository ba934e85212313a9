"""The scripts that measure a real board, on a simulated one as far as that goes."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.meters import open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks" / "gpu"
UUID = "GPU-00000000-0000-0000-0000-000000000001"
PERIOD_S, SAMPLE_PERIOD_S = 0.05, 0.02
# Its power is a known function of the monotonic clock, which the processes of a machine share.
SITE = f"""
import math
from tests.simulators import SimulatedBoard, install

board = SimulatedBoard(uuid="{UUID}", name="NVIDIA H200 (simulated)", period_s={PERIOD_S},
    sample_period_s={SAMPLE_PERIOD_S}, power=lambda at_s: 250.0 + 100.0 * math.sin(4.0 * at_s))
installed = install([board])
"""
PYTHON = """\
#!/bin/sh
for last; do :; done
case "$*" in
  *record.py*) echo "no sensors"; exit 3 ;;
  *linearity.py*) exit 124 ;;
  *joined_windows.py* | *planted_pairs.py*) echo "no board" ;;
  *--benchmark-json=*) echo '{"benchmarks": []}' >"${last#--benchmark-json=}" ;;
  *--llem-doctor*) echo "all is well" ;;
"""


def true_power_w(at_s: float) -> float:
    """What the board of ``SITE`` draws, in watts."""
    return 250.0 + 100.0 * math.sin(4.0 * at_s)


def true_energy_j(start_s: float, end_s: float) -> float:
    """Its integral between two instants, in joules."""
    return 250.0 * (end_s - start_s) + 25.0 * (math.cos(4.0 * start_s) - math.cos(4.0 * end_s))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which Python finds the simulated board."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    return {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{site}:{ROOT}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def run_all(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script: it writes to the checkout that it lies in."""
    script = folder / "benchmarks" / "gpu" / "run_all.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPTS / "run_all.sh", script)
    for name in ("pytest_llem", "tests"):
        (folder / name).symlink_to(ROOT / name)
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
class TestRunAll:
    def test_results_go_to_a_folder_of_the_boards_name(self, tmp_path: Path, environment: dict[str, str]) -> None:
        done = run_all(tmp_path, environment, "", "doctor")
        assert done.returncode == 0, done.stdout + done.stderr
        out = tmp_path / "benchmarks/results/NVIDIA-H200-simulated"
        versions = json.loads((out / "versions.json").read_text())
        assert ("torch" in versions["packages"]) == (importlib.util.find_spec("torch") is not None)
        assert [board["uuid"] for board in versions["boards"]] == [UUID]
        assert "NVIDIA H200 (simulated)" in (out / "log.txt").read_text()

    def test_steps_that_fail_stop_no_other_and_are_named(self, tmp_path: Path, environment: dict[str, str]) -> None:
        python = tmp_path / "python"
        python.write_text(f'{PYTHON}  *) exec "{sys.executable}" "$@" ;;\nesac\n')
        python.chmod(0o755)
        done = run_all(tmp_path, {**environment, "PYTHON": str(python)}, "out")
        assert done.returncode == 1, done.stdout + done.stderr
        *_, linearity, record = done.stdout.splitlines()
        assert record == "== failed: record (exit status 3)"
        assert linearity == "== failed: linearity (out of time)"
        assert "all is well" in done.stdout
        out = tmp_path / "out"
        results = {"decoding.json", "options.json", "repeated.json"}
        assert {path.name for path in out.iterdir()} == {"log.txt", "versions.json", *results}
        assert json.loads((out / "repeated.json").read_text()) == [{"benchmarks": []}] * 8
        assert (out / "log.txt").read_text() == done.stdout

    def test_a_misspelt_step_is_refused(self, tmp_path: Path, environment: dict[str, str]) -> None:
        done = run_all(tmp_path, environment, "out", "doctor", "recrod")
        assert done.returncode == 2
        assert done.stderr == "no step recrod; steps: decoding joined linearity pairs options record repeated doctor\n"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """About two seconds, and the monotonic clock's time at their start."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    starts_s: list[float] = []

    def work(repetitions: int) -> None:
        starts_s.append(time.monotonic())
        time.sleep(repetitions * 1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        patch.syspath_prepend(SCRIPTS)
        module = importlib.import_module("record")
        patch.setattr(module, "SECONDS_LEFT_IDLE", 0.3)
        pieces = [
            module.Piece("idle", 0.3, 0.1),
            *(module.Piece("memory", seconds, 0.2) for seconds in (0.1, 0.4)),
        ]
        recording = module.record(pieces, {"memory": work}, UUID, "2.13.0")
        path = folder / "recording.json.gz"
        module.write(recording, path)
        assert json.loads(gzip.decompress(path.read_bytes())) == recording
    rows = recording["work"]["rows"][1:]
    return recording, min(at_s - row[2] for at_s, row in zip(starts_s[-2:], rows, strict=True))


class TestRecord:
    def test_it_has_the_keys_and_columns_of_a_recording(self, recording: tuple[dict[str, Any], float]) -> None:
        content, _ = recording
        columns = {name: value["columns"] for name, value in content.items() if isinstance(value, dict)}
        assert columns == {
            "counter": ["last_stale_read_start_s", "read_start_s", "read_end_s", "energy_mj"],
            "power_samples": ["time_s", "power_w"],
            "work": ["name", "repetitions", "start_s", "end_s"],
        }
        texts = {"description", "board", "driver", "torch", "clock"}
        assert content.keys() == {*columns, *texts, "read_cost_s", "reads", "sample_seen_late_s"}
        assert content["board"] == "NVIDIA H200 (simulated)"
        assert len(content["read_cost_s"]) == math.ceil(content["reads"] / 50)

    def test_the_counters_changes_are_found_and_dated(self, recording: tuple[dict[str, Any], float]) -> None:
        content, zero_s = recording
        first, *rows = content["counter"]["rows"]
        assert first[0] is None
        assert len(rows) > 10
        # An edge of the counter lies between the last stale read and the first new one.
        edges_s = [math.floor((row[2] + zero_s) / PERIOD_S) * PERIOD_S for row in rows]
        for (stale_s, start_s, end_s, _), edge_s in zip(rows, edges_s, strict=True):
            assert stale_s < start_s <= end_s
            assert edge_s > stale_s + zero_s - 1e-3
        found_j = [(row[3] - rows[0][3]) / 1e3 for row in rows]
        # The sensor lags by some milliseconds, at up to 200 W of difference.
        assert found_j == pytest.approx([true_energy_j(edges_s[0], edge_s) for edge_s in edges_s], abs=3.0)

    def test_power_samples_are_dated_on_the_same_clock(self, recording: tuple[dict[str, Any], float]) -> None:
        content, zero_s = recording
        rows = content["power_samples"]["rows"]
        dates_s = [date_s + zero_s for date_s, _ in rows]
        gaps_s = [after_s - before_s for before_s, after_s in pairwise(dates_s)]
        assert fmean(gaps_s) == pytest.approx(SAMPLE_PERIOD_S, rel=0.02)
        assert 0.0 < min(gaps_s) <= max(gaps_s) < 2 * SAMPLE_PERIOD_S
        # Power changes by up to 0.4 W a millisecond, and what is dated now may be 26 ms old.
        assert [power_w for _, power_w in rows] == pytest.approx([true_power_w(at_s) for at_s in dates_s], abs=12.0)
        late_s = content["sample_seen_late_s"]
        assert len(late_s) == len(rows)
        assert -1e-3 < min(late_s) < SAMPLE_PERIOD_S

    def test_work_is_told_with_its_repetitions(self, recording: tuple[dict[str, Any], float]) -> None:
        content, _ = recording
        idle, *rows = content["work"]["rows"]
        assert idle[:2] == ["idle", 0]
        assert idle[3] - idle[2] == pytest.approx(0.3, abs=0.1)
        for (name, repetitions, start_s, end_s), asked_s in zip(rows, (0.1, 0.4), strict=True):
            assert name == "memory"
            assert end_s - start_s >= repetitions * 1e-3
            assert end_s - start_s == pytest.approx(asked_s, rel=0.5)

    @pytest.mark.parametrize("seconds", [20.0, 60.0])
    def test_a_plan_fills_its_time(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(SCRIPTS)
        pieces = importlib.import_module("record").plan(seconds)
        whole_s = sum(piece.idle_before_s + piece.seconds for piece in pieces) + 2.0
        assert whole_s == pytest.approx(max(seconds, 31.0), abs=4.0)
        assert [piece.seconds for piece in pieces[-15:]] == [0.2] * 12 + [5.0] * 3


class TestLinearity:
    def test_joules_a_repetition_by_length(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(SCRIPTS)
        linearity = importlib.import_module("linearity")
        clock = SimulatedClock()
        queued: list[int] = []
        board = SimulatedBoard(power=LoadedPower(idle_w=125.0, decay_s=0.01))

        def synchronize() -> None:
            if queued:
                board.run(clock, queued.pop() / 600.0, power_w=600.0)

        with install([board], clock), open_meter("nvml", device="cuda", clock=clock) as meter:
            report = linearity.measure(
                {"nvml": meter}, queued.append, synchronize, 600.0, clock.now_s, clock.now_s() + 95.0
            )
        assert [one["length_s"] for one in report["nvml"]["windows"]] == [0.2, 0.5, 1.0, 2.0, 4.0]
        assert report["nvml"]["windows"][-1]["result"]["energy_j"] == pytest.approx(1.0, rel=0.01)
        lines = linearity.lines("nvml", report["nvml"])
        assert len(lines) == 5, lines
        assert all(line.endswith(("agrees", "DISAGREES")) for line in lines[:-1])
        json.dumps(report)

    def test_lengths_beyond_what_is_stated_disagree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(SCRIPTS)
        common = {"rounds": 3, "warnings": ["no value"], "valid": True, "energy_uncertainty_j": 0.003}
        windows = [
            {"length_s": length_s, "result": {**common, "energy_j": energy_j}}
            for length_s, energy_j in {0.2: None, 0.5: 1.01, 1.0: 1.004, 4.0: 1.0}.items()
        ]
        lines = importlib.import_module("linearity").lines
        assert lines("nvml", {"windows": windows, "stopped": "time ran out"}) == [
            "nvml     0.2 s x3  no value: no value",
            "nvml     0.5 s x3  1.01 J a repetition +- 0.30%, +1.00% beside the longest: DISAGREES",
            "nvml       1 s x3  1.004 J a repetition +- 0.30%, +0.40% beside the longest: agrees",
            "nvml       4 s x3  1 J a repetition +- 0.30%",
            "nvml stopped early: time ran out",
        ]
        assert lines("zeus", {"left_out": "no zeus"}) == ["zeus is left out: no zeus"]


class TestJoined:
    def test_work_that_a_meter_does_not_slow_reads_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(SCRIPTS)
        joined = importlib.import_module("joined_windows")
        clock = SimulatedClock()
        board = SimulatedBoard(power=LoadedPower(idle_w=125.0, decay_s=0.01))
        queued: list[int] = []

        def synchronize() -> None:
            if queued:
                board.run(clock, queued.pop() / 1000.0, power_w=470.0)

        with install([board], clock), open_meter("nvml", device="cuda", clock=clock) as meter:
            report = joined.measure(meter, {"memory": queued.append}, synchronize, 120.0)
        lines = joined.lines(report)
        assert len(lines) == 2, lines
        for length_s, line in zip(joined.LENGTHS_S, lines, strict=True):
            assert line.startswith(f"memory {length_s:g} s: "), line
            assert "slowdown +0.000% +- 0.000%" in line or "slowdown -0.000% +- 0.000%" in line, line
        for stretch in (pair["joined"] for one in report.values() for pair in one["pairs"]):
            true_j = 0.47 * report_repetitions(report, stretch) * joined.WINDOWS
            assert stretch["total_j"] == pytest.approx(true_j, rel=0.02)
        json.dumps(report)


# Calls and the board live in counted time.
PASSES = """
import pytest
from planted import FURTHER

from tests.simulators import work

pytestmark = pytest.mark.llem("passes.llem.yaml")


def test_equal(llem_model, llem_benchmark):
    llem_benchmark.pedantic(work, (5e-4 * 100,), rounds=2, min_window_s=0.2)


def test_more(llem_model, llem_benchmark):
    llem_benchmark.pedantic(work, (5e-4 * (100 + FURTHER),), rounds=2, min_window_s=0.2)
"""
BOARD = f"""
from tests.simulators import SimulatedBoard, install, skip_waits

skip_waits(counted=True)
install([SimulatedBoard(uuid="{UUID}", name="Simulated", power=200.0, period_s=0.02)])
"""


def test_every_pair_is_kept_and_the_planted_work_is_found(tmp_path: Path, environment: dict[str, str]) -> None:
    code = (
        f"import planted_pairs; planted_pairs.FILES['test_passes.py'] = {PASSES!r}; "
        f"planted_pairs.FILES['conftest.py'] += {BOARD!r}; planted_pairs.PLANTED = 20; planted_pairs.main()"
    )
    del environment["PYTHON"]
    environment["PYTHONPATH"] = f"{SCRIPTS}:{ROOT}"
    asked = ("--out=pairs.json", "--pairs=4", "--llem-cpu", "--llem-meter=nvml", "-ptests.simulators.engine")
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "pairs.json").read_text())
    assert len(report["seconds_a_pair"]) == 4
    for name, ratio, verdict in (("test_equal[passes]", 1.0, "OK"), ("test_more[passes]", 1.2, "REGRESSED")):
        test = report["tests"][name]
        assert [pair["ratio"]["energy_j"] for pair in test["pairs"]] == pytest.approx([ratio] * 4, rel=0.01)
        assert [pair["ratio"]["mean_power_w"] for pair in test["pairs"]] == pytest.approx([1.0] * 4, rel=0.01)
        assert [pair["idle_power_w"]["second"] for pair in test["pairs"]] == pytest.approx([200.0] * 4, rel=0.01)
        assert {count: one["status"] for count, one in test["verdicts"]["energy"].items()} == {
            "3": verdict,
            "4": verdict,
        }
        assert 0.0 < test["spread"]["latency"] < 0.01
    assert "test_more[passes] energy: pairs differ by " in done.stdout


def report_repetitions(report: Mapping[str, Any], stretch: Mapping[str, Any]) -> int:
    """Repetitions of a window of a stretch."""
    return next(
        int(one["repetitions"]) for one in report.values() if any(pair["joined"] is stretch for pair in one["pairs"])
    )
