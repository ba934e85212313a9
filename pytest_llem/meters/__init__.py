"""Energy meters: what reads joules.

A meter measures *windows*::

    with open_meter("auto") as meter, meter.window() as window:
        work()
    print(window.joules, window.uncertainty_j, window.seconds)

Where things live:

``base``        what every meter offers: the protocol ``Meter``, its ``Window``, the ``Clock`` it is given
``simple``      meters that are read once at either edge
``joined``      windows back to back, and their sum
``nvidia``      boards of NVIDIA. ``meter`` sums them; ``reading`` is what one of them says of a window
                ``counter/``: energy counters, one window after the other (``sensor``), read at their edges
                (``counter``, ``pursuit``), which lie on a ``lattice``; ``rest`` is all that is carried from window to
                window; ``calibration`` learns how a counter behaves, ``known`` when to believe that,
                ``calibration_store`` keeps it; ``sizing`` says how long a window must be
                ``window_energy`` makes the energy of a window of edges, with ``settling``: how far a board has settled
                after the work; ``samples`` are the driver's own of its power, ``agreement`` compares them with the
                counter, and ``power_sensor`` measures by them alone where there is no counter
                ``joined`` windows back to back on loaded boards: ``counter/joined`` reads at their boundaries,
                ``power_trace`` integrates the samples, ``joined_energy`` makes energies of both
                ``disturbances`` what makes a window invalid, with ``processes``: which on a board are ours;
                ``readiness``: whether a board is idle and cool enough; ``lock``: one session at a time on a board
                ``library`` which boards NVML shows, and what they say about themselves; ``visibility`` which of
                them CUDA lets this process use
``idle``        power while nothing runs, once it has settled; of boards in ``nvidia/idle_blocks``
``rapl``        energy counters of processors and their memory, through Linux's powercap files
``host``        sensors that are read beside boards in the same windows: ``counters``, and ``power`` with ``smeared``
``estimate``    CPU seconds times watts per core: modelled, and marked so
``adapters``    what Zeus and CodeCarbon report, to compare with
``none``        time alone

What holds for all of them: time and energy share their edges; a quantity that was not measured is ``None``
with a reason, never 0; a meter that cannot work on this machine says so when it is opened, not in the middle
of a run. ``uncertainty_j`` is the half-width of the 95% interval of what the reading adds to the error. The
gain error of a sensor is not in it: it is the same for every window on one machine.

Importing this package imports neither ``pynvml`` nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.errors import MeterUnavailableError, about
from pytest_llem.meters.base import (
    Clock,
    Disturbance,
    HostReading,
    IdlePower,
    Meter,
    MeterRequest,
    SystemClock,
    Window,
)
from pytest_llem.meters.host import check_host
from pytest_llem.meters.joined import JoinedWindows
from pytest_llem.meters.simple import SimpleMeter
from pytest_llem.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "METER_NAMES",
    "Disturbance",
    "HostReading",
    "IdlePower",
    "JoinedWindows",
    "Meter",
    "MeterRequest",
    "SimpleMeter",
    "Window",
    "check_name",
    "meter_names",
    "open_meter",
]

ENTRY_POINT_GROUP = "pytest_llem.meters"
"""By it other packages register meters: a name, and a callable that makes a :class:`MeterRequest` a :class:`Meter`."""

_METERS: Registry[Meter] = Registry(
    "meter",
    ENTRY_POINT_GROUP,
    {
        "nvml": "pytest_llem.meters.nvidia.meter:open_nvml_meter",
        "rapl": "pytest_llem.meters.rapl:RaplMeter",
        "estimate": "pytest_llem.meters.estimate:EstimateMeter",
        "zeus": "pytest_llem.meters.adapters.zeus:ZeusMeter",
        "codecarbon": "pytest_llem.meters.adapters.codecarbon:CodeCarbonMeter",
        "none": "pytest_llem.meters.none:NoMeter",
    },
    choices=("auto",),
    error=MeterUnavailableError,
)

METER_NAMES = _METERS.own_names
"""What :func:`open_meter` can open without other packages."""


def open_meter(
    name: str = "auto",
    *,
    device: str = "cpu",
    gpu_uuids: Sequence[str] | None = None,
    boards: int = 1,
    aligned: bool = True,
    relative_uncertainty: float = 0.01,
    clock: Clock | None = None,
    watts_per_core: float | None = None,
    powercap_root: Path | None = None,
    host: str = "auto",
    lock_timeout_s: float | None = 3600.0,
    say: Callable[[str], None] | None = None,
) -> Meter:
    """Open an energy meter. Use it in a ``with`` statement, or close it yourself.

    Args:
        name: one of :func:`meter_names`; ``auto`` is ``nvml`` for ``device="cuda"``, and for the CPU ``rapl``
            where it can be read, else ``estimate``.
        device: where the work runs, ``cpu`` or ``cuda``.
        gpu_uuids: for ``nvml``, ``zeus`` and ``codecarbon``: read exactly these boards, with or without the
            ``GPU-`` in front. Default: the boards that CUDA lets this process use.
        boards: for ``nvml`` beside work on the CPU: how many boards to read where several are visible, all of them.
        aligned: for ``nvml``: whether windows may wait after the work until the boards have settled and their
            counters are updated, some 200 ms on real boards. Otherwise their energy is interpolated, with the
            wider uncertainty.
        relative_uncertainty: for ``nvml``: what ``auto_window_s`` aims at, the half-width of the 95% interval
            of one window as a share of its energy.
        clock: where time is read; default: the monotonic clock of this machine.
        watts_per_core: for ``estimate``: power of one busy core, in watts.
        powercap_root: for ``rapl``, also beside boards: where powercap's files are; default: the folder that the
            environment variable ``PYTEST_LLEM_POWERCAP`` names, else ``/sys/class/powercap``.
        host: for ``nvml``: what reads the processor and its memory beside the boards, one of
            :func:`pytest_llem.meters.host.host_names`; ``auto`` is ``rapl`` where it can be read, else nothing, with
            the reason.
        lock_timeout_s: for ``nvml``: how long to wait for each board that another process measures, in seconds;
            ``None`` to open the boards without locking them.
        say: for ``nvml``: called with who is waited for; default: written to the standard error.

    Raises:
        MeterUnavailableError: there is no meter or sensor of that name, or it cannot work on this machine; one
            line that says what is missing and how to fix it.
    """
    check_host(host)
    request = MeterRequest(
        device=device,
        gpu_uuids=gpu_uuids,
        boards=boards,
        clock=SystemClock() if clock is None else clock,
        aligned=aligned,
        relative_uncertainty=relative_uncertainty,
        watts_per_core=watts_per_core,
        powercap_root=powercap_root,
        host=host,
        lock_timeout_s=lock_timeout_s,
        say=say,
    )
    if name == "auto" and device == "cuda":
        name = "nvml"
    elif name == "auto":
        try:
            return _open("rapl", request)
        except MeterUnavailableError:
            # Not in silence: an estimating meter says so in its name, in ``estimated`` and in each window's
            # warnings.
            name = "estimate"
    return _open(name, request)


def meter_names() -> tuple[str, ...]:
    """What :func:`open_meter` can open: :data:`METER_NAMES`, and the names that other packages register."""
    return _METERS.names()


def check_name(name: str) -> None:
    """Check that there is a meter of that name; whether it works here shows when it is opened.

    Raises:
        MeterUnavailableError: there is none; the text lists those that there are.
    """
    _METERS.check(name)


def _open(name: str, request: MeterRequest) -> Meter:
    _METERS.check(name)
    with about(meter=name):
        return _METERS.open(name, request)
