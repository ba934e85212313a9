from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import METER_NAMES, check_name, meter_names, open_meter
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from pathlib import Path


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MeterUnavailableError, match=r"^unknown meter 'joulemeter'; use one of auto, nvml, ") as caught:
        open_meter("joulemeter")
    assert all(name in str(caught.value) for name in METER_NAMES)
    with pytest.raises(MeterUnavailableError, match=r"did you mean estimate\?$"):
        open_meter("estimated")


class TestRegisteredByOthers:
    """Meters of other packages: a folder with a module and the metadata that an installer would leave."""

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        metadata = tmp_path / "others-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(
            "[pytest_llem.meters]\nwall = llem_others:Wall\nnone = llem_others:Wall\n"
            "missing = llem_others_gone:Meter\nunplugged = llem_others:unplugged\nsilent = llem_others:silent\n"
        )
        (tmp_path / "llem_others.py").write_text(
            "from pytest_llem.errors import MeterUnavailableError\n"
            "from pytest_llem.meters import SimpleMeter\n"
            "class Wall(SimpleMeter):\n"
            "    name = 'wall'\n"
            "    def fill(self, window, started):\n"
            "        window.joules = 42.0 * window.seconds\n"
            "def unplugged(request):\n"
            "    raise OSError('no such\\nport')\n"
            "def silent(request):\n"
            "    raise MeterUnavailableError('switch it on')\n"
        )
        monkeypatch.syspath_prepend(tmp_path)

    def test_is_opened_by_its_name(self) -> None:
        clock = SimulatedClock()
        with open_meter("wall", clock=clock) as meter, meter.window() as window:
            clock.work(2.0)
        assert window.joules == pytest.approx(84.0)

    def test_takes_no_name_of_a_built_in_one(self) -> None:
        assert not open_meter("none").reports_energy
        assert meter_names() == (*METER_NAMES, "missing", "silent", "unplugged", "wall")

    def test_is_listed_and_proposed_where_a_name_is_unknown(self) -> None:
        with pytest.raises(MeterUnavailableError, match=r"missing, silent, unplugged, wall; did you mean wall\?$"):
            open_meter("walls")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (
                "missing",
                "missing meter: llem_others_gone:Meter cannot be opened: ModuleNotFoundError: No module ",
            ),
            ("unplugged", "unplugged meter: llem_others:unplugged cannot be opened: OSError: no such port$"),
            ("silent", "^silent meter: switch it on$"),
        ],
    )
    def test_that_cannot_be_opened_is_unavailable_with_the_reason(self, name: str, reason: str) -> None:
        with pytest.raises(MeterUnavailableError, match=reason):
            open_meter(name)


def test_built_in_meters_are_opened_without_a_look_at_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(**selection: str) -> None:
        raise AssertionError(f"looked for {selection}")

    monkeypatch.setattr("importlib.metadata.entry_points", look)
    check_name("auto")
    open_meter("auto")
    open_meter("none")


def test_importing_meters_imports_no_sensor_library() -> None:
    code = "import sys, pytest_llem.meters; print([m for m in ('pynvml', 'torch', 'numpy') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


class TestAuto:
    def test_reads_the_gpu_where_the_work_is_there(self) -> None:
        with install([SimulatedBoard()]), open_meter("auto", device="cuda") as meter:
            assert meter.name == "nvml"

    def test_reads_rapl_on_the_cpu_even_beside_a_gpu(self, tmp_path: Path) -> None:
        zone = tmp_path / "intel-rapl:0"
        zone.mkdir()
        (zone / "name").write_text("package-0")
        (zone / "energy_uj").write_text("5")
        (zone / "max_energy_range_uj").write_text("1000000000000")
        with install([SimulatedBoard()]), open_meter("auto", powercap_root=tmp_path) as meter:
            assert meter.name == "rapl"


@pytest.mark.parametrize("name", ["none", "estimate"])
def test_the_device_is_waited_for_at_both_edges(name: str) -> None:
    clock = SimulatedClock()
    pending_s = [0.5]

    def synchronize() -> None:
        while pending_s:
            clock.work(pending_s.pop())

    with (
        open_meter(name, clock=clock, watts_per_core=1.0) as meter,
        meter.window(synchronize) as window,
    ):
        pending_s.append(1.0)
    # The half second was queued before the window, the second inside it.
    assert window.seconds == pytest.approx(1.0)
    assert window.joules == (pytest.approx(1.0) if meter.reports_energy else None)


class TestNone:
    def test_time_and_nothing_else(self) -> None:
        clock = SimulatedClock()
        with open_meter("none", clock=clock) as meter, meter.window() as window:
            clock.work(1.0)
        assert window.seconds == pytest.approx(1.0)
        assert window.joules is None
        assert window.reason == "no energy meter is in use"
        assert not meter.reports_energy


class TestEstimate:
    def test_cpu_seconds_times_watts_per_core(self) -> None:
        clock = SimulatedClock()
        with open_meter("estimate", clock=clock, watts_per_core=7.0) as meter, meter.window() as window:
            clock.work(2.0, cpu_share=3.0)
            clock.sleep(1.0)
        assert window.seconds == pytest.approx(3.0)
        assert window.joules == pytest.approx(42.0)
        assert window.uncertainty_j is None
        assert meter.estimated
        (warning,) = window.warnings
        assert "estimated, not measured" in warning
        assert "7 W per core" in warning

    def test_no_cpu_time_is_unknown_and_not_zero(self) -> None:
        clock = SimulatedClock()
        with open_meter("estimate", clock=clock) as meter, meter.window() as window:
            clock.sleep(1.0)
        assert window.joules is None
        assert "resolution" in str(window.reason)

    def test_the_work_of_other_threads_counts(self) -> None:
        def work() -> None:
            deadline_s = time.thread_time() + 0.05
            while time.thread_time() < deadline_s:
                pass

        with open_meter("estimate", watts_per_core=10.0) as meter, meter.window() as window:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert window.joules is not None
        assert window.joules >= 0.5

    def test_the_work_of_processes_that_it_starts_counts(self) -> None:
        with open_meter("estimate", watts_per_core=10.0) as meter, meter.window() as window:
            subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
        assert window.joules is not None
        assert window.joules >= 3.0

    def test_the_work_of_other_processes_does_not(self) -> None:
        # The shell ends at once, and leaves to the system a process that is nobody's child here.
        work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)"
        shell = ["sh", "-c", f'"{sys.executable}" -c "{work}" & exit']
        with subprocess.Popen(shell, stdout=subprocess.PIPE) as process:
            process.wait()
            with open_meter("estimate", watts_per_core=10.0) as meter, meter.window() as window:
                assert process.stdout is not None
                process.stdout.read()
        assert (window.joules or 0.0) < 1.5

    def test_the_environment_sets_the_figure_and_an_argument_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTEST_LLEM_WATTS_PER_CORE", "11")
        joules = []
        for argument in (None, 2.0):
            clock = SimulatedClock()
            meter = open_meter("estimate", clock=clock, watts_per_core=argument)
            with meter.window() as window:
                clock.work(1.0)
            joules.append(window.joules)
            meter.close()
        assert joules == [pytest.approx(11.0), pytest.approx(2.0)]

    @pytest.mark.parametrize("value", ["", "five", "0", "-3", "inf", "nan"])
    def test_a_figure_that_is_none_is_refused(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTEST_LLEM_WATTS_PER_CORE", value)
        with pytest.raises(MeterUnavailableError, match=f"PYTEST_LLEM_WATTS_PER_CORE={value}: must be"):
            open_meter("estimate")
