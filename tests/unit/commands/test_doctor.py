from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from pytest_llem.commands.doctor import (
    BoardFinding,
    Findings,
    MeterFinding,
    examine,
    find_boards,
    find_container,
    find_packages,
)
from pytest_llem.meters import METER_NAMES
from pytest_llem.meters.nvidia.counter.calibration_store import default_path
from pytest_llem.report.doctor import render
from tests.simulators import SimulatedBoard, SimulatedClock, install

UUIDS = [f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(2)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # The other tools have tests of their own.
    for module in ("zeus", "zeus.monitor", "codecarbon"):
        monkeypatch.setitem(sys.modules, module, None)


def boards_of(*boards: SimulatedBoard, visible: str | None = None) -> tuple[tuple[BoardFinding, ...], str | None]:
    clock = SimulatedClock()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with install(boards, clock):
        return find_boards(environ, clock)


def examine_here(tmp_path: Path, *boards: SimulatedBoard, init_error: int = 0) -> Findings:
    clock = SimulatedClock()
    with install(boards, clock, init_error=init_error):
        return examine(clock=clock, root=tmp_path, powercap_root=tmp_path / "powercap")


def meter(findings: Findings, name: str) -> MeterFinding:
    return {finding.name: finding for finding in findings.meters}[name]


def zone(tmp_path: Path) -> Path:
    path = tmp_path / "powercap" / "intel-rapl:0"
    path.mkdir(parents=True)
    (path / "name").write_text("package-0")
    (path / "energy_uj").write_text("5")
    (path / "max_energy_range_uj").write_text("1000000000000")
    return path


class TestBoards:
    def test_the_counters_period_and_step_are_probed_and_kept(self) -> None:
        board = SimulatedBoard(period_s=0.05, resolution_mj=20, power=lambda at_s: 300.0 + 7.0 * (at_s % 1.3))
        (finding,), reason = boards_of(board)
        assert reason is None
        assert finding.visible
        assert finding.persistence_mode is True
        assert "updated every 50 ms" in finding.counter
        assert "steps of 20 mJ" in finding.counter
        kept = default_path().read_text()
        (again,), _ = boards_of(board)
        assert again.counter == finding.counter
        assert default_path().read_text() == kept
        # What is kept counts for nothing where the counter contradicts it.
        (other,), _ = boards_of(SimulatedBoard(period_s=0.1))
        assert "updated every 100 ms" in other.counter

    @pytest.mark.parametrize(
        ("board", "counter"),
        [
            (SimulatedBoard(mig_mode=1), "divided by MIG"),
            (SimulatedBoard(power=0.0), "changes too rarely"),
            (SimulatedBoard(read_loss_s=0.1), "counts too little when it is read often"),
            (SimulatedBoard(errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED}), "none: "),
            (SimulatedBoard(errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_GPU_IS_LOST}), "GPU is"),
            (SimulatedBoard(lost_at_s=1001.0), "stopped answering"),
        ],
    )
    def test_a_counter_that_is_of_little_use(self, board: SimulatedBoard, counter: str) -> None:
        (finding,), _ = boards_of(board)
        assert counter in finding.counter

    def test_hidden_boards_are_listed_and_left_alone(self) -> None:
        boards = [SimulatedBoard(uuid=uuid) for uuid in UUIDS]
        (hidden, shown), reason = boards_of(*boards, visible="1")
        assert reason is None
        assert (hidden.visible, shown.visible) == (False, True)
        assert "not looked at" in hidden.counter
        assert "updated every" in shown.counter

    @pytest.mark.parametrize(("visible", "reason"), [("", "leaves no board"), ("MIG-1", "a MIG slice has no energy")])
    def test_a_choice_that_leaves_none(self, visible: str, reason: str) -> None:
        (finding,), problem = boards_of(SimulatedBoard(), visible=visible)
        assert not finding.visible
        assert reason in str(problem)

    def test_no_board(self) -> None:
        assert boards_of() == ((), "NVML shows no board to this process; see nvidia-smi -L")


class TestMeters:
    def test_with_a_gpu(self, tmp_path: Path) -> None:
        findings = examine_here(tmp_path, SimulatedBoard(uuid=UUIDS[0]), SimulatedBoard(uuid=UUIDS[1]))
        assert [finding.name for finding in findings.meters] == list(METER_NAMES)
        assert meter(findings, "nvml").works
        assert "1% uncertainty from windows of" in meter(findings, "nvml").detail
        assert meter(findings, "auto").detail == "picks nvml for work on the GPU, estimate for work on the CPU"

    def test_without_a_driver(self, tmp_path: Path) -> None:
        findings = examine_here(tmp_path, init_error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        reason = "the NVIDIA driver was updated under the running kernel module; reboot or reload it"
        assert findings.boards_reason == reason
        assert meter(findings, "nvml") == MeterFinding("nvml", False, reason)
        assert meter(findings, "auto").detail == "picks no meter for work on the GPU, estimate for work on the CPU"
        assert meter(findings, "none").works

    def test_rapl(self, tmp_path: Path) -> None:
        zone(tmp_path)
        findings = examine_here(tmp_path)
        assert meter(findings, "rapl") == MeterFinding("rapl", True, "reads package-0")
        assert meter(findings, "auto").detail.endswith("rapl for work on the CPU")

    def test_rapl_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        energy_file = zone(tmp_path) / "energy_uj"
        read_text = Path.read_text

        def refuse(path: Path, *arguments: str | None, **options: str | None) -> str:
            # Tests may run as root, whom no file mode stops.
            if path == energy_file:
                raise PermissionError(13, "Permission denied", str(path))
            return read_text(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", refuse)
        finding = meter(examine_here(tmp_path), "rapl")
        assert not finding.works
        assert finding.detail.startswith("no permission to read")
        assert f"sudo chmod a+r {tmp_path}/powercap/intel-rapl:*/energy_uj" in finding.commands[0]
        assert "udev" in finding.commands[1]

    def test_a_missing_package_comes_with_its_pip_line(self, tmp_path: Path) -> None:
        findings = examine_here(tmp_path)
        assert "pip install 'pytest-llem[zeus]'" in meter(findings, "zeus").detail
        assert "pip install 'pytest-llem[codecarbon]'" in meter(findings, "codecarbon").detail

    def test_an_unforeseen_fault_is_a_finding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def crash(*arguments: object, **options: object) -> None:
            raise RuntimeError("two\nlines")

        monkeypatch.setattr("pytest_llem.meters.rapl.find_domains", crash)
        monkeypatch.setattr("pytest_llem.commands.doctor.find_boards", crash)
        findings = examine_here(tmp_path)
        assert findings.boards_reason == "RuntimeError: two lines"
        assert meter(findings, "rapl").detail == "RuntimeError: two lines"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_versions_come_from_metadata_alone() -> None:
    code = (
        "import sys, pytest_llem.commands.doctor as d\n"
        "found = {p.name: p for p in d.find_packages()}\n"
        "assert found['torch'].version and 'CUDA' in found['torch'].note, found\n"
        "print([m for m in ('torch', 'transformers', 'bitsandbytes', 'pandas') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_a_package_that_is_not_there_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llem.commands.doctor._PACKAGES", {"no-such-package": "pip install it"})
    (finding,) = [one for one in find_packages() if one.name == "no-such-package"]
    assert (finding.version, finding.note) == (None, "pip install it")


@pytest.mark.parametrize(
    ("trace", "environ", "kind"),
    [
        (None, {}, None),
        (".dockerenv", {}, "Docker"),
        ("run/.containerenv", {}, "Podman"),
        (".dockerenv", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
    ],
)
def test_containers(trace: str | None, environ: dict[str, str], kind: str | None, tmp_path: Path) -> None:
    if trace is not None:
        (tmp_path / trace).parent.mkdir(exist_ok=True)
        (tmp_path / trace).touch()
    assert find_container(environ, tmp_path) == kind


class TestText:
    def test_a_board(self, tmp_path: Path) -> None:
        text = render(examine_here(tmp_path, SimulatedBoard(uuid=UUIDS[0], persistence_mode=0)))
        for line in (
            "  0: NVIDIA Simulated H100",
            f"     UUID              {UUIDS[0]}",
            "     driver            580.95.05 (CUDA up to 13.0)",
            "     memory            80.0 GiB",
            "     power limit       700 W",
            "     MIG               off",
            "     visible           yes",
            "                       $ sudo nvidia-smi -i 0 -pm 1",
        ):
            assert line in text.splitlines()
        assert "Container" not in text

    def test_what_a_board_does_not_tell_is_not_zero(self, tmp_path: Path) -> None:
        board = SimulatedBoard(
            mig_mode=None,
            total_memory_bytes=None,
            power_limit_w=None,
            errors={"nvmlDeviceGetPersistenceMode": pynvml.NVML_ERROR_NOT_SUPPORTED},
        )
        text = render(examine_here(tmp_path, board))
        for line in ("memory            unknown", "power limit       unknown", "persistence mode  unknown"):
            assert line in text
        assert "-pm 1" not in text

    @pytest.mark.parametrize(
        ("trace", "commands"),
        [
            (".dockerenv", ["docker run --gpus all", "docker run --security-opt systempaths=unconfined"]),
            (
                "run/.containerenv",
                [
                    "podman run --device nvidia.com/gpu=all",
                    "podman run --security-opt unmask=/sys/devices/virtual/powercap",
                ],
            ),
        ],
    )
    def test_a_container_without_gpu(self, tmp_path: Path, trace: str, commands: list[str]) -> None:
        (tmp_path / trace).parent.mkdir(exist_ok=True)
        (tmp_path / trace).touch()
        text = render(examine_here(tmp_path, init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
        for command in commands:
            assert f"$ {command}\n" in text

    def test_lines_fit_a_terminal_and_commands_are_whole(self, tmp_path: Path) -> None:
        text = render(examine_here(tmp_path, SimulatedBoard(mig_mode=1)))
        assert all(len(line) <= 110 for line in text.splitlines() if "$" not in line)
        assert "nvml        cannot work: " in text
        assert "nvml meter:" not in text
